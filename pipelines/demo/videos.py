"""Writes the demo's videos: synthetic people, some held out, each with its truth file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.synthesize.plan import PEOPLE_PER_SEED, clip_files
from pipelines.synthesize.worker import ClipRecord, stream_clips, write_clip
from preprocessing.errors import UserError
from preprocessing.synthetic.clip import ClipSpec
from preprocessing.synthetic.truth import Truth, read_truth

Split = Literal["train", "held_out"]

#: People who are in no training clip.
HELD_OUT_PEOPLE = 2
# Held-out motions have seeds from here on, which no training clip has.
_HELD_OUT_MOTION = PEOPLE_PER_SEED // 2


@dataclass(frozen=True)
class DemoClip:
    """One video and what it shows."""

    spec: ClipSpec
    folder: Path
    split: Split

    @property
    def identity(self) -> str:
        """Name of the person."""
        return f"person-{self.spec.person}"

    @property
    def path(self) -> Path:
        """The video file."""
        return self.folder / clip_files(self.spec)[0]

    def read_truth(self) -> Truth:
        """Return the motion of every frame."""
        path = self.folder / clip_files(self.spec)[1]
        return read_truth(path.read_bytes(), str(path))


def plan_demo_videos(
    folder: Path,
    seed: int = 0,
    people: int = 24,
    seconds: float = 2.4,
    *,
    size: int = 256,
    clips_per_person: int = 1,
    driving_people: int = 1,
) -> list[DemoClip]:
    """Return the clips of the demo, in a fixed order.

    Args:
        folder: gets the folders `train` and `held_out`.
        seed: decides people and motions.
        people: people who are trained on.
        seconds: length of each clip.
        size: side of the frames in pixels.
        clips_per_person: training clips of each of them.
        driving_people: so many of them get one more clip, held out, of a motion not trained on. So
            does each of `HELD_OUT_PEOPLE` further people.
    """
    first = seed * PEOPLE_PER_SEED

    def clip(split: Split, person: int, take: int, motion: int) -> DemoClip:
        spec = ClipSpec(
            name=f"person-{first + person}-{take}",
            person=first + person,
            motion=first + motion,
            group=0,
            seconds=seconds,
            fps=25.0,
            size=size,
        )
        return DemoClip(spec, folder / split, split)

    train = [
        clip("train", person, take, person * clips_per_person + take)
        for person in range(people)
        for take in range(clips_per_person)
    ]
    shown = [*range(min(driving_people, people)), *range(people, people + HELD_OUT_PEOPLE)]
    held_out = [
        clip("held_out", person, clips_per_person, _HELD_OUT_MOTION + number)
        for number, person in enumerate(shown)
    ]
    return [*train, *held_out]


def write_demo_videos(
    clips: list[DemoClip],
    *,
    workers: int = 0,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the clips that are not there yet.

    Args:
        clips: from `plan_demo_videos`.
        workers: Ray tasks at once; Ray is connected. 0 writes them in this process.
        on_clip: called with the number of clips done and in total.

    Raises:
        UserError: the folder is full or does not accept writes.
    """
    todo = [clip for clip in clips if not clip.path.exists()]
    done = len(clips) - len(todo)
    on_clip(done, len(clips))
    for folder in sorted({clip.folder for clip in todo}):
        specs = [clip.spec for clip in todo if clip.folder == folder]
        records: Iterator[ClipRecord] = (
            stream_clips(specs, str(folder.absolute()), workers)
            if workers
            else (write_clip(spec, str(folder)) for spec in specs)
        )
        for record in records:
            if record.status != "done":
                raise UserError(
                    f"cannot write to {folder}: {record.detail or record.status}",
                    "fix that and run the same command: it resumes",
                )
            done += 1
            on_clip(done, len(clips))


def read_frames(path: Path) -> list[NDArray[np.uint8]]:
    """Return all frames of a video, RGB uint8."""
    from preprocessing.decode import open_video

    with open_video(str(path)) as reader:
        return [frame.rgb() for frame in reader.frames()]
