"""Times every decoder on raw sources and encoded clips, and counts wrong frames.

    python benchmarks/bench_decode.py [--smoke] [--assets FOLDER]

Raw sources are read in order, as in preprocessing; encoded clips by random windows of 16, as in
training. Speed is frames per CPU second of all threads, so that threads and other load on the
machine matter little.
"""

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from reporting import Report

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "unit" / "preprocessing" / "decode")]

from marked_video import marked_picture, read_number, write  # noqa: E402

from preprocessing.decode import BackendRefusalError, DecodeError, open_video  # noqa: E402
from preprocessing.decode.clip import ClipReader  # noqa: E402
from preprocessing.encode.clip_encoder import encode_clip  # noqa: E402

BACKENDS = ("pyav", "decord", "torchcodec")
WINDOW = 16
RANDOM = 60
DETECTOR_SIDE = 640


@dataclass(frozen=True)
class Timing:
    """Frames per CPU second, and the number of wrong frames."""

    fps: float
    wrong: int
    # Largest mean distance to the reference's colours, in levels of 255.
    colour: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny inputs, nothing written")
    parser.add_argument("--assets", type=Path, help="a folder of real clips to read in order too")
    options = parser.parse_args()
    count, repeats = (30, 1) if options.smoke else (250, 2)
    report = Report("decode", settings={"frames": count, "repeats": repeats, "threads": 1})
    with tempfile.TemporaryDirectory() as folder:
        for name, path in _sources(Path(folder), count).items():
            for backend in BACKENDS:
                _add(
                    report,
                    f"{name}, in order",
                    backend,
                    lambda b=backend, p=path: _in_order(b, p, repeats),
                )
                _add(
                    report, f"{name}, {RANDOM} at random", backend,
                    lambda b=backend, p=path: _at_random(b, p, count, repeats),
                )  # fmt: skip
        _add_own_clips(report, count, repeats)
    if options.assets:
        _add_real(report, options.assets, 3 if options.smoke else 1000)
    return report.finish(smoke=options.smoke)


def _sources(folder: Path, count: int) -> dict[str, Path]:
    kinds: dict[str, dict[str, Any]] = {
        "h264 640x480 GOP 50": {"options": {"g": "50", "bf": "2", "preset": "veryfast"}},
        "h264 1920x1080 GOP 250": {"options": {"g": "250", "bf": "3", "preset": "veryfast"}},
        "HEVC 640x480": {
            "codec": "libx265",
            "options": {"x265-params": "log-level=none:keyint=50"},
        },
        "VP9 640x480": {
            "codec": "libvpx-vp9",
            "options": {"cpu-used": "8", "b:v": "1M", "g": "50"},
        },
    }
    paths = {}
    for name, settings in kinds.items():
        width, height = (int(side) for side in name.split()[1].split("x"))
        path = folder / f"{len(paths)}.{'webm' if 'VP9' in name else 'mp4'}"
        frames = count if width < 1000 else max(20, count // 4)
        write(path, [_picture(number % 256, width, height) for number in range(frames)], **settings)
        paths[name] = path
    return paths


def _picture(number: int, width: int, height: int) -> np.ndarray:
    """A marked image with fine texture below the mark: flat images decode unrealistically fast."""
    picture = marked_picture(number, width, height)
    rng = np.random.default_rng(number)
    texture = rng.integers(-12, 13, (height // 4, width // 4, 1)).repeat(4, 0).repeat(4, 1)
    below = picture[height // 4 : height // 4 + texture.shape[0]]
    texture = texture[: below.shape[0]]
    below[: texture.shape[0], : texture.shape[1]] = np.clip(
        below[:, : texture.shape[1]] + texture, 0, 255
    )
    return picture


def _in_order(backend: str, path: Path, repeats: int) -> Timing:
    """Decode every frame at the size that a detector reads, as preprocessing does."""

    def work(backend: str = backend) -> list[np.ndarray]:
        with open_video(path, backend) as reader:  # type: ignore[arg-type]
            return [frame.rgb_scaled(DETECTOR_SIDE)[::2, ::2].copy() for frame in reader.frames()]

    seconds, pictures = _best(work, repeats)
    return _timing(pictures, range(len(pictures)), seconds, work("pyav")[0])


def _at_random(backend: str, path: Path, count: int, repeats: int) -> Timing:
    with open_video(path) as reader:
        total = sum(1 for _ in reader.frames())
    wanted = np.random.default_rng(1).integers(0, total, RANDOM).tolist()

    def work(backend: str = backend) -> Sequence[np.ndarray]:
        with open_video(path, backend) as reader:  # type: ignore[arg-type]
            return [picture[::4, ::4].copy() for picture in reader.frames_at(wanted)]

    seconds, pictures = _best(work, repeats)
    return _timing(pictures, wanted, seconds, work("pyav")[0])


def _timing(
    pictures: Sequence[np.ndarray], numbers: Sequence[int], seconds: float, first: np.ndarray
) -> Timing:
    wrong = sum(
        read_number(picture) != number % 256
        for picture, number in zip(pictures, numbers, strict=True)
    )
    colour = float(np.abs(pictures[0].astype(float) - first).mean())
    return Timing(len(pictures) / seconds, wrong, colour)


def _add_own_clips(report: Report, count: int, repeats: int) -> None:
    clips = [
        encode_clip([_picture((7 * k + n) % 256, 512, 512) for n in range(min(count, 125))])
        for k in range(2)
    ]
    rng = np.random.default_rng(2)
    starts = [int(start) for start in rng.integers(0, min(count, 125) - WINDOW, 20)]
    readers: dict[str, Callable[[bytes, range], np.ndarray]] = {
        "ClipReader, on PyAV": lambda mp4, window: ClipReader(mp4).frames_at(window),
        "decord": _decord_window,
        "torchcodec": _torchcodec_window,
    }
    for name, read in readers.items():

        def timed(read: Callable[[bytes, range], np.ndarray] = read) -> Timing:
            def work() -> list[np.ndarray]:
                return [
                    read(clips[k % 2], range(start, start + WINDOW))
                    for k, start in enumerate(starts)
                ]

            seconds, windows = _best(work, repeats)
            wrong, colour = 0, 0.0
            for k, (start, window) in enumerate(zip(starts, windows, strict=True)):
                numbers = [(7 * (k % 2) + start + n) % 256 for n in range(WINDOW)]
                wrong += sum(read_number(p) != n for p, n in zip(window, numbers, strict=True))
                with open_video(clips[k % 2]) as reader:
                    exact = reader.frames_at([start])[0].astype(float)
                colour = max(colour, float(np.abs(window[0] - exact).mean()))
            return Timing(len(starts) * WINDOW / seconds, wrong, colour)

        _add(report, "encoded clips 512x512, random windows of 16", name, timed)


def _decord_window(mp4: bytes, window: range) -> np.ndarray:
    import decord

    reader = decord.VideoReader(io.BytesIO(mp4), ctx=decord.cpu(0), num_threads=1)
    pictures: np.ndarray = reader.get_batch(list(window)).asnumpy()
    return pictures


def _torchcodec_window(mp4: bytes, window: range) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(
        mp4, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="approximate"
    )
    pictures: np.ndarray = decoder.get_frames_at(list(window)).data.numpy()
    return pictures


def _add_real(report: Report, folder: Path, most: int) -> None:
    paths = sorted(path for path in folder.iterdir() if path.is_file())[:most]
    for backend in BACKENDS:
        frames, seconds, refused = 0, 0.0, 0
        for path in paths:
            began = time.process_time()
            try:
                with open_video(path, backend) as reader:  # type: ignore[arg-type]
                    frames += sum(
                        frame.rgb_scaled(DETECTOR_SIDE) is not None for frame in reader.frames()
                    )
            except DecodeError:
                refused += 1
                continue
            seconds += time.process_time() - began
        value = frames / seconds if seconds else None
        note = f"{len(paths) - refused} of {len(paths)} clips, the rest refused"
        report.add(f"real clips, in order: {backend}", value, "frames/CPU s", note=note)


def _add(report: Report, kind: str, backend: str, measure: Callable[[], Timing]) -> None:
    try:
        timing = measure()
    except BackendRefusalError as refusal:
        report.add(
            f"{kind}: {backend}", None, "frames/CPU s", note=f"refused: {refusal.detail}"[:100]
        )
    except (ImportError, OSError, RuntimeError) as error:
        report.add(f"{kind}: {backend}", None, "frames/CPU s", note=f"not usable: {error}"[:60])
    else:
        note = f"wrong frames {timing.wrong}, colour off by {timing.colour:.2f}"
        report.add(f"{kind}: {backend}", timing.fps, "frames/CPU s", note=note)


def _best(
    work: Callable[[], Sequence[np.ndarray]], repeats: int
) -> tuple[float, Sequence[np.ndarray]]:
    times, result = [], work()
    for _ in range(repeats):
        began = time.process_time()
        result = work()
        times.append(time.process_time() - began)
    return min(times), result


if __name__ == "__main__":
    raise SystemExit(main())
