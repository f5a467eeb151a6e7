"""One synthetic video with its truth file."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.encode.clip_encoder import encode_clip
from preprocessing.synthetic.motion.sampling import sample_motion
from preprocessing.synthetic.person import sample_person
from preprocessing.synthetic.scene import Renderer
from preprocessing.synthetic.truth import Truth, write_truth


@dataclass(frozen=True)
class ClipSpec:
    """What decides every byte of a clip."""

    # File name without an ending.
    name: str
    # Seeds of person and motion; clips of one group show the same motion.
    person: int
    motion: int
    group: int
    seconds: float
    fps: float
    # Side of the frames in pixels.
    size: int

    @property
    def frames(self) -> int:
        """Number of frames, at least one."""
        return max(1, round(self.seconds * self.fps))

    @property
    def times_s(self) -> NDArray[np.float64]:
        """Time of each frame in seconds."""
        return np.arange(self.frames) / self.fps


@dataclass(frozen=True)
class Clip:
    """The files of a clip, and what was drawn for its person."""

    video: bytes
    truth: bytes
    traits: dict[str, Any]


def make_clip(spec: ClipSpec) -> Clip:
    """Render and encode a clip; the same specification gives the same bytes."""
    person = sample_person(spec.person)
    motion = sample_motion(spec.motion, spec.times_s)
    renderer = Renderer(person, spec.size)

    def frames() -> Iterator[NDArray[np.uint8]]:
        for row in motion:
            yield renderer.frame(row)

    facts = {key: value for key, value in asdict(spec).items() if key != "name"}
    facts["traits"] = person.traits()
    return Clip(
        video=encode_clip(frames(), spec.fps),
        truth=write_truth(Truth(spec.times_s, motion, facts)),
        traits=person.traits(),
    )
