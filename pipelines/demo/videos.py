"""Writes the demo's talking-head clips, in the mixture of formats that real footage comes in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from pipelines.demo.faces import SITTERS, load_portrait
from pipelines.demo.motion import MOTION_NAMES, sample_motion
from pipelines.demo.warp import render
from preprocessing.encode.clip_encoder import x264_vectors

Split = Literal["train", "held_out"]

# Nobody of these is in a training clip. The first is the portrait that the demo animates; who
# drives it is trained on, but not on the motion of the held-out clip.
HELD_OUT_IDENTITIES = ("collins", "sitter-3")
DRIVER = "hopper"


@dataclass(frozen=True)
class ClipFormat:
    """How a clip is stored: file ending, codec, frame rate, and what makes it awkward."""

    suffix: str
    codec: str
    fps: int
    # Frames are left out at random and time stamps tell when the others are shown.
    variable_rate: bool = False
    # Stored a quarter turn off, with a display matrix that turns it back, as telephones do.
    rotated: bool = False


CLIP_FORMATS = (
    ClipFormat(".mp4", "libx264", 30),
    ClipFormat(".mkv", "libx264", 30, variable_rate=True),
    ClipFormat(".mp4", "libx264", 25, rotated=True),
    ClipFormat(".avi", "mpeg4", 24),
    ClipFormat(".mp4", "libx264", 25),
    ClipFormat(".mp4", "libx265", 25),
)


@dataclass(frozen=True)
class DemoClip:
    """One written clip and the motion it shows.

    `motion` is an .npz with `motion` float32 [T, P] and `times_s` float64 [T], a row for each frame
    of the file, and `names`, the P parameters.
    """

    path: Path
    identity: str
    split: Split
    motion: Path
    seed: tuple[int, ...]

    def read_motion(self) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """The times in seconds [T] and the motion [T, P] of the clip's frames."""
        with np.load(self.motion) as arrays:
            return arrays["times_s"], arrays["motion"]


def make_demo_videos(
    out_dir: Path,
    seed: int = 0,
    clips_per_identity: int = 3,
    seconds: float = 3.0,
    *,
    identities: tuple[str, ...] = tuple(SITTERS),
    processes: int = 1,
    on_clip: Callable[[DemoClip, int], None] = lambda clip, total: None,
) -> list[DemoClip]:
    """Write the clips of all identities under `out_dir` and return them, in a fixed order.

    Training identities get `clips_per_identity` clips in `train/`; every identity gets one more, of
    a motion nobody else shows, in `held_out/`. Motions lie in `motion/`. The same arguments give
    the same bytes. `on_clip` hears of each clip as it is done, and of how many there will
    be.
    """
    jobs: list[tuple[DemoClip, ClipFormat, float]] = []
    for number, identity in enumerate(identities):
        held_out = identity in HELD_OUT_IDENTITIES
        for take in range(1 if held_out else clips_per_identity + 1):
            # The last take of everybody is held out, whoever it shows.
            split: Split = "held_out" if held_out or take == clips_per_identity else "train"
            style = CLIP_FORMATS[len(jobs) % len(CLIP_FORMATS)]
            name = f"{identity}-{take}"
            clip = DemoClip(
                path=Path(out_dir) / split / f"{name}{style.suffix}",
                identity=identity,
                split=split,
                motion=Path(out_dir) / "motion" / f"{split}-{name}.npz",
                seed=(seed, number, take),
            )
            jobs.append((clip, style, seconds))
    for folder in ("train", "held_out", "motion"):
        (Path(out_dir) / folder).mkdir(parents=True, exist_ok=True)
    if processes == 1:
        for job in jobs:
            on_clip(_write_clip(*job), len(jobs))
    else:
        # Spawned, not forked: the parent may hold threads of OpenCV or of Ray.
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            for clip in pool.map(_write_clip, *zip(*jobs, strict=True)):
                on_clip(clip, len(jobs))
    return [clip for clip, _, _ in jobs]


def frame_times(style: ClipFormat, seconds: float, seed: tuple[int, ...]) -> NDArray[np.float64]:
    """When each frame of a clip is shown, in seconds [T]."""
    times = np.arange(round(seconds * style.fps)) / style.fps
    if not style.variable_rate:
        return times
    keep = np.random.default_rng([*seed, 1]).random(len(times)) > 0.15
    keep[0] = True
    return times[keep]


def _write_clip(clip: DemoClip, style: ClipFormat, seconds: float) -> DemoClip:
    import cv2

    # One thread: clips are made side by side, and OpenCV's own threads would only quarrel.
    cv2.setNumThreads(1)
    portrait = load_portrait(clip.identity)
    times = frame_times(style, seconds, clip.seed)
    motion = sample_motion(clip.seed, times)
    np.savez(clip.motion, motion=motion, times_s=times, names=np.array(MOTION_NAMES))
    # The ending stays last, for the container's format is told by it.
    half_done = clip.path.with_name(f".{clip.path.name}.part{clip.path.suffix}")
    write_video(half_done, render(portrait, motion), times, style)
    half_done.replace(clip.path)
    return clip


def write_video(
    path: Path,
    frames: Iterator[NDArray[np.uint8]],
    times_s: NDArray[np.float64],
    style: ClipFormat,
) -> None:
    """Encode frames (uint8 RGB [H, W, 3], even sides) with their times in one of the formats."""
    import av
    from av.video.stream import VideoStream

    # Matroska would otherwise stamp a random id, and every container the library's version.
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream: VideoStream | None = None
        for frame, time in zip(frames, times_s, strict=True):
            if style.rotated:
                frame = np.rot90(frame)
            if stream is None:
                stream = cast(VideoStream, container.add_stream(style.codec, rate=style.fps))
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
                context = stream.codec_context
                context.thread_count = 1
                context.time_base = Fraction(1, style.fps)
                context.options = _encoder_options(style.codec)
                if style.codec == "mpeg4":
                    context.bit_rate = 2_000_000
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts = round(float(time) * style.fps)
            picture.time_base = Fraction(1, style.fps)
            container.mux(stream.encode(picture))
        if stream is not None:
            container.mux(stream.encode(None))
    if style.rotated:
        path.write_bytes(_turned(path.read_bytes()))


def _encoder_options(codec: str) -> dict[str, str]:
    if codec == "libx264":
        return {"preset": "veryfast", "crf": "18", "x264-params": x264_vectors()}
    if codec == "libx265":
        return {"preset": "ultrafast", "crf": "20", "x265-params": "log-level=none:pools=1"}
    return {}


def _turned(mp4: bytes) -> bytes:
    """The same file with a display matrix in its track header that turns a quarter clockwise."""
    header = mp4.index(b"tkhd")
    # A version-0 track header keeps its nine-number matrix 40 bytes after the type and version.
    matrix = header + 4 + 40
    one = 1 << 16
    quarter_turn = [0, one, 0, -one, 0, 0, 0, 0, 1 << 30]
    numbers = b"".join(n.to_bytes(4, "big", signed=True) for n in quarter_turn)
    return mp4[:matrix] + numbers + mp4[matrix + len(numbers) :]


def read_frames(path: Path) -> list[NDArray[np.uint8]]:
    """All frames of a video, RGB uint8."""
    from preprocessing.decode import open_video

    with open_video(str(path)) as reader:
        return [frame.rgb() for frame in reader.frames()]
