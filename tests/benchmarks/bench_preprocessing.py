"""Measures the preprocessing job against a plain script and against its own bars.

    python tests/benchmarks/bench_preprocessing.py [--smoke] [--assets FOLDER] [--only ROW ...]

B0 is `plain_preprocessing`: decord, the same detector on every frame, crop, JPEG. B1 is our own
chunk task in a plain loop, without Ray. Ratios are of runs side by side, clip by clip, in this
process. What is said per core is counted in CPU seconds of all threads, so a neighbour on the
machine does it little harm; `workers`, `skew` and `planned` are wall times and want the machine to
themselves. With --only the other rows of the results stay as they were, each with its own date.
Real clips are found where XNEMO_ASSETS or --assets says; without them synthetic ones stand in, and
the note says so.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import cv2
import numpy as np
import plain_preprocessing
from long_videos import base_video, repeated
from planned_sources import plan_without_work
from reporting import Report

from preprocessing import chunk_task
from preprocessing.chunk_task import Chunk, ChunkEnd, ClipResult, process_chunk
from preprocessing.config import FilterConfig, PreprocessConfig
from preprocessing.decode import Frame, packet_loop
from preprocessing.detect import make_detector
from preprocessing.encode import encode_clip
from preprocessing.plan import chunks_of, look_into
from preprocessing.sample import unpack_arrays
from preprocessing.sources import find_sources
from preprocessing.tube import tube_box

ROOT = Path(__file__).resolve().parents[2]
ANALYSIS_STAGES = ("decode", "shots", "detect", "keep")
WORKERS = 2
# Nothing is dropped, so that every clip can be compared.
KEEP_ALL = FilterConfig(
    min_face_px=0, min_picture_px=0, min_detection=0, min_detected=0, max_yaw=180, max_pitch=180,
    max_roll=180, min_sharpness=0, min_exposure=0, max_exposure=9, min_contrast=0, min_motion=0,
    max_out_of_frame=1, max_pad=1, max_others=1, max_occlusion=9, max_overlay=9, max_repeated=1,
)  # fmt: skip


@dataclass
class Setting:
    """What all rows work on."""

    folder: Path
    # Real clips, or synthetic ones.
    clips: list[Path]
    smoke: bool
    # "real clips" or what stands in for them.
    kind: str
    config: PreprocessConfig = field(default_factory=PreprocessConfig)

    def note(self, text: str = "") -> str:
        return ", ".join(part for part in (f"{len(self.clips)} {self.kind}", text) if part)


@dataclass
class Tally:
    """What our chunk task did on some videos."""

    frames: int = 0
    seconds: float = 0.0
    stages: Counter[str] = field(default_factory=Counter)
    clips: list[tuple[Chunk, ClipResult]] = field(default_factory=list)

    @property
    def analysis_s(self) -> float:
        return sum(self.stages[stage] for stage in ANALYSIS_STAGES)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny inputs, nothing written")
    parser.add_argument("--assets", type=Path, help="folder of real clips")
    parser.add_argument("--only", nargs="*", choices=ROWS, help="some of the rows")
    options = parser.parse_args()
    report = Report("preprocessing", settings={"detector": "centerface", "detector_side": 640})
    with tempfile.TemporaryDirectory() as folder:
        setting = _setting(Path(folder), options.assets, options.smoke)
        for name in options.only or ROWS:
            report.part = name
            try:
                ROWS[name](report, setting)
            except Exception as error:
                traceback.print_exc()
                report.add(name, None, "", note=f"failed: {type(error).__name__}: {error}"[:90])
    return report.finish(smoke=options.smoke, parts=tuple(ROWS))


def _setting(folder: Path, assets: Path | None, smoke: bool) -> Setting:
    assets = assets or Path(
        os.environ.get("XNEMO_ASSETS", ROOT.parent / "shared" / "assets" / "videos")
    )
    if assets.is_dir():
        clips = sorted(path for path in assets.iterdir() if path.is_file())
        return Setting(folder, clips[6:7] if smoke else clips[::7], smoke, "real clips")
    sizes = [(512, 512), (1280, 720)] if smoke else [(512, 512), (1280, 720), (640, 480)] * 2
    clips = [
        base_video(folder / f"clip{n}.mp4", 4 if smoke else 10, width, height, seed=n)
        for n, (width, height) in enumerate(sizes)
    ]
    return Setting(folder, clips, smoke, "synthetic clips")


def against_plain_script(report: Report, setting: Setting) -> None:
    """Whole job and analysis alone, frames per second of one core, B0 and ours by turns."""
    detector = make_detector("centerface", None, plain_preprocessing.DETECTOR_SIDE)
    detector.detect(np.zeros((360, 640, 3), np.uint8))
    plain: Counter[str] = Counter()
    plain_frames, ours = 0, Tally()
    _process(setting.clips[0], setting.config, Tally())  # loads the detector
    # The task's own stages are to be told in CPU time as well.
    with _patched(chunk_task, "time", SimpleNamespace(perf_counter=time.process_time)):
        for path in setting.clips:
            try:
                frames, seconds = plain_preprocessing.run(path, detector)
            except Exception as error:
                print(f"B0 cannot read {path.name}: {error}"[:100])
                continue
            plain_frames += frames
            plain.update(seconds)
            _process(path, setting.config, ours)
    b0, b1 = plain_frames / sum(plain.values()), ours.frames / ours.seconds
    report.add("whole job, frames per second per core: B0", b0, "frames/s", note=_stages(plain))
    report.add(
        "whole job, frames per second per core: ours", b1, "frames/s", note=_stages(ours.stages)
    )
    report.add("whole job / B0", b1 / b0, "x", bar=3, note=setting.note())
    dense = plain_frames / (plain["decode"] + plain["detect"])
    report.add("analysis alone / B0", ours.frames / ours.analysis_s / dense, "x", bar=5)


def tubes_against_dense_detection(report: Report, setting: Setting) -> None:
    """Our tubes against those of the same clips with the detector run on every frame."""
    config = replace(setting.config, filters=KEEP_ALL)
    dense_config = replace(config, detect=replace(config.detect, stride=1))
    overlaps: list[float] = []
    lost = 0
    with _without_encoding():
        for path in setting.clips:
            ours, dense = Tally(), Tally()
            _process(path, config, ours)
            _process(path, dense_config, dense)
            dense_boxes = [unpack_arrays(clip.npz) for _, clip in dense.clips if clip.npz]
            for _, clip in ours.clips:
                if not clip.npz:
                    continue
                overlap = _tube_overlap(clip, dense_boxes, _frame_hw(path), config)
                lost += overlap is None
                overlaps += [] if overlap is None else [overlap]
    median, low = np.percentile(overlaps, [50, 5])
    note = setting.note(f"{len(overlaps)} clips, {lost} without a dense track")
    report.add("tube IoU with dense detection, median", float(median), "", bar=0.97, note=note)
    report.add("tube IoU with dense detection, 5th percentile", float(low), "", bar=0.92)


def two_workers(report: Report, setting: Setting) -> None:
    """Two Ray workers against the plain loop, Ray already up, loading of models included.

    Ray Data's own two actors outlive a job on a standing cluster, so they are up as well. Each
    video is a chunk of the full length. All are alike, so the loop does some of them, half before
    and half after, for the machine may grow slower meanwhile.
    """
    import ray.data

    from pipelines.cluster import connect
    from pipelines.preprocess import preprocess

    base = base_video(setting.folder / "two.mp4", 20 if not setting.smoke else 3, 320, 240)
    folder = setting.folder / "two_workers"
    folder.mkdir()
    seconds, count = (180.0, 24) if not setting.smoke else (6.0, 2)
    for number in range(count):
        repeated(base, folder / f"{number:02d}.mp4", seconds, name=str(number))
    load = _load()
    sample = sorted(folder.iterdir())[:: max(1, count // 4)]
    plain_s = _plain_loop(sample[::2], setting)
    with connect(None, WORKERS):
        ray.data.range(1).materialize()
        marks: dict[str, float] = {}

        def note(progress: Any) -> None:
            marks.setdefault(f"first {progress.stage}", time.perf_counter())
            marks[progress.stage] = time.perf_counter()

        preprocess(
            folder, setting.folder / "out_two", setting.config, workers=WORKERS, on_progress=note
        )
    plain_s += _plain_loop(sample[1::2], setting)
    plain_s *= count / len(sample)
    with ThreadPoolExecutor(WORKERS) as pool:
        at_once = [float(s) for s in pool.map(_alone, sample[:WORKERS])]
    report.add(
        "two plain loops at once / one",
        WORKERS * plain_s / count / statistics.mean(at_once),
        "x",
        note="what two cores of this machine do beside each other",
    )
    ratio = plain_s / (marks["process"] - marks["first process"])
    report.add(
        "two Ray workers / B1",
        ratio,
        "x",
        bar=1.85,
        note=f"{count} videos of {seconds:g} s, {load}",
    )


def _alone(path: Path) -> str:
    return _in_fresh_process("process_alone", path)


def _plain_loop(paths: list[Path], setting: Setting) -> float:
    began = time.perf_counter()
    for path in paths:
        _process(path, setting.config, Tally())
    return time.perf_counter() - began


def worker_memory(report: Report, setting: Setting) -> None:
    """Peak memory of the process that decodes, detects and encodes."""
    short_s, long_s = (120.0, 7200.0) if not setting.smoke else (4.0, 12.0)
    base = base_video(setting.folder / "small.mp4", 20 if not setting.smoke else 2, 160, 120)
    peaks = [
        _peak_of_worker(repeated(base, setting.folder / f"long{seconds:g}.mp4", seconds))
        for seconds in (short_s, long_s)
    ]
    note = f"{peaks[1]:.0f} against {peaks[0]:.0f} MB, 160×120"
    report.add(
        f"worker memory, {long_s:g} s / {short_s:g} s", peaks[1] / peaks[0], "x", bar=1.15,
        lower_is_better=True, note=note,
    )  # fmt: skip
    large = base_video(setting.folder / "hd.mp4", 10 if not setting.smoke else 1, 1920, 1080)
    peak = _peak_of_worker(repeated(large, setting.folder / "hd_long.mp4", short_s / 2))
    note = f"{short_s / 2:g} s, a face of 450 pixels"
    report.add("worker memory at 1080p", peak, "MB", bar=600, lower_is_better=True, note=note)


def one_long_among_short(report: Report, setting: Setting) -> None:
    """One hour beside fifty minutes in pieces: wall time of two workers against half of all work.

    At a quarter of these lengths, in small pictures, all clips kept: what is measured is how work
    is handed out, and all that does not grow with the work weighs the more.
    """
    from pipelines.cluster import connect
    from pipelines.preprocess import preprocess
    from preprocessing.part import read_part
    from preprocessing.storage import open_store

    folder = setting.folder / "skew"
    folder.mkdir()
    long_s, short_s, count = (900.0, 15.0, 50) if not setting.smoke else (40.0, 5.0, 2)
    base = base_video(setting.folder / "skew.mp4", 20 if not setting.smoke else 2, 160, 120)
    repeated(base, folder / "zz_long.mp4", long_s, name="long")
    for number in range(count):
        repeated(base, folder / f"{number:02d}.mp4", short_s, name=str(number))
    marks: dict[str, float] = {}

    def note(progress: Any) -> None:
        marks.setdefault(f"first {progress.stage}", time.perf_counter())
        marks[progress.stage] = time.perf_counter()

    out, load = setting.folder / "out_skew", _load()
    with connect(None, WORKERS):
        config = replace(setting.config, filters=KEEP_ALL)
        preprocess(folder, out, config, workers=WORKERS, on_progress=note)
    store = open_store(out)
    busy_s = sum(
        sum(read_part(store, part)["end"]["stages"].values()) for part in store.list("_work/parts")
    )
    wall_s = marks["process"] - marks["first process"]
    report.add(
        "one hour among fifty minutes, wall / ideal", wall_s / (busy_s / WORKERS), "x", bar=1.25,
        lower_is_better=True,
        note=f"{long_s:g} s among {count} of {short_s:g} s, {WORKERS} workers, {load}",
    )  # fmt: skip


def bytes_and_fidelity(report: Report, setting: Setting) -> None:
    """Bytes of a stored frame of 512² against JPEG, and how close it is to the crop."""
    ours = jpeg = count = 0
    psnr: list[float] = []

    def measured(frames: Iterator[av.VideoFrame], fps: float, config: Any) -> bytes:
        nonlocal ours, jpeg, count
        crops = list(frames)
        mp4 = encode_clip(crops, fps, config)
        if crops[0].width != setting.config.tube.size:
            return mp4
        with av.open(io.BytesIO(mp4)) as container:
            stored = [Frame(frame, 0, 0).rgb() for frame in container.decode(video=0)]
        given = [Frame(frame, 0, 0).rgb() for frame in crops]
        error = np.mean(
            [((a.astype(float) - b) ** 2).mean() for a, b in zip(stored, given, strict=True)]
        )
        psnr.append(float(10 * np.log10(255**2 / error)))
        quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
        jpeg += sum(len(cv2.imencode(".jpg", picture[..., ::-1], quality)[1]) for picture in given)
        ours, count = ours + len(mp4), count + len(crops)
        return mp4

    with _patched(chunk_task, "encode_clip", measured):
        for path in setting.clips:
            _process(path, setting.config, Tally())
    if not count:
        report.add("bytes per kept 512² frame / JPEG q95", None, "", note="no clip of 512² here")
        return
    share = 100 * ours / jpeg
    note = f"{ours / count:.0f} bytes a frame, {count} frames"
    report.add(
        "bytes per kept 512² frame / JPEG q95", share, "%", bar=25, lower_is_better=True, note=note
    )
    report.add(
        "PSNR to the crop, worst clip",
        min(psnr),
        "dB",
        bar=40,
        note=f"median {np.median(psnr):.1f}",
    )


def passes_over_pixels(report: Report, setting: Setting) -> None:
    """How often a kept frame is decoded and lossily encoded."""
    decoded = encoded = 0
    decode = packet_loop.PacketLoop._decode

    def counted(loop: packet_loop.PacketLoop, packet: av.Packet) -> list[av.VideoFrame] | None:
        nonlocal decoded
        pictures = decode(loop, packet)
        decoded += len(pictures or ())
        return pictures

    def encoding(frames: Iterator[av.VideoFrame], fps: float, config: Any) -> bytes:
        nonlocal encoded
        pictures = list(frames)
        encoded += len(pictures)
        return encode_clip(pictures, fps, config)

    tally = Tally()
    with (
        _patched(packet_loop.PacketLoop, "_decode", counted),
        _patched(chunk_task, "encode_clip", encoding),
    ):
        for path in setting.clips[:10]:
            _process(path, setting.config, tally)
    kept = sum(clip.row["frames"] for _, clip in tally.clips if clip.mp4)
    # Opening a source decodes its first frame to learn its shape; that is no pass over the source.
    passes = (decoded - len(setting.clips[:10])) / tally.frames
    report.add("full decodes per kept second", passes, "", bar=1, lower_is_better=True)
    report.add(
        "lossy encodes per kept frame",
        encoded / kept if kept else None,
        "",
        bar=1,
        lower_is_better=True,
    )


def many_planned_sources(report: Report, setting: Setting) -> None:
    """A job of ten thousand sources that is done already, and what the driver needs for it."""
    small, large = (1000, 10_000) if not setting.smoke else (20, 60)
    peaks = []
    for count in (small, large):
        job = setting.folder / f"planned{count}"
        plan_without_work(job, count, setting.config)
        peaks.append(float(_in_fresh_process("finish_job", job)))
    seconds = float(_in_fresh_process("rerun_job", setting.folder / f"planned{large}"))
    report.add(f"no-op re-run over {large} sources", seconds, "s", bar=10, lower_is_better=True)
    note = f"{peaks[1]:.0f} against {peaks[0]:.0f} MB"
    report.add(
        f"driver memory, {large} / {small} sources", peaks[1] / peaks[0], "x", bar=1.2,
        lower_is_better=True, note=note,
    )  # fmt: skip


ROWS: dict[str, Callable[[Report, Setting], None]] = {
    "plain": against_plain_script,
    "tubes": tubes_against_dense_detection,
    "bytes": bytes_and_fidelity,
    "passes": passes_over_pixels,
    "workers": two_workers,
    "memory": worker_memory,
    "skew": one_long_among_short,
    "planned": many_planned_sources,
}


def _chunks(path: Path, config: PreprocessConfig) -> list[Chunk]:
    file = find_sources(path).files[0]
    entry = look_into(file, config)
    return [] if entry.reason else chunks_of(file, entry, config)


def _process(path: Path, config: PreprocessConfig, tally: Tally) -> None:
    """Run our chunk task on a video in this process, as B1 does; add to `tally`."""
    for chunk in _chunks(path, config):
        began = time.process_time()
        results = list(process_chunk(chunk, config))
        tally.seconds += time.process_time() - began
        end = results[-1]
        assert isinstance(end, ChunkEnd)
        tally.stages.update(end.stages)
        tally.clips += [(chunk, item) for item in results if isinstance(item, ClipResult)]
        tally.frames += _source_frames(path)


def _source_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(
            1 for packet in container.demux(video=0) if packet.size and not packet.is_discard
        )


def _frame_hw(path: Path) -> tuple[int, int]:
    from preprocessing.decode import open_video

    with open_video(path) as reader:
        return reader.info.height, reader.info.width


def _tube_overlap(
    clip: ClipResult, dense: list[Any], frame_hw: tuple[int, int], config: PreprocessConfig
) -> float | None:
    """IoU of a clip's tube with the tube around the densely detected boxes at the same times."""
    ours = unpack_arrays(clip.npz)
    boxes: list[np.ndarray] = []
    for time_us, box in zip(ours.pts_us, ours.bbox, strict=True):
        near = [d.bbox[i] for d in dense for i in np.flatnonzero(d.pts_us == time_us)[:1]]
        if near:
            best = max(near, key=lambda other: _iou(other, box))
            if _iou(best, box) > 0.3:
                boxes.append(best)
    if len(boxes) < len(ours.bbox) * 0.8:
        return None
    stacked = np.stack(boxes)
    union = np.concatenate([stacked[:, :2].min(0), stacked[:, 2:].max(0)])
    scale, offset = ours.src_to_crop[0, 0], ours.src_to_crop[:, 2]
    corner = -offset / scale
    tube = np.concatenate([corner, corner + clip.row["tube_px"]])
    return _iou(tube, tube_box(union, frame_hw, config.tube))


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    inner = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    overlap = float(np.prod(np.maximum(inner, 0)))
    return overlap / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - overlap)


def _peak_of_worker(path: Path) -> float:
    return float(_in_fresh_process("process_in_child", path))


def _in_fresh_process(task: str, path: Path) -> str:
    """Run a task of `fresh_process` and return the last word it prints."""
    script = Path(__file__).parent / "fresh_process.py"
    done = subprocess.run(
        [sys.executable, str(script), task, str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{task} failed: {done.stderr[-400:]}")
    return done.stdout.split()[-1]


def _load() -> str:
    """What else runs here, for a note beside wall times."""
    return f"load {os.getloadavg()[0]:.1f} before"


def _stages(seconds: Counter[str]) -> str:
    total = sum(seconds.values())
    return " ".join(f"{stage} {100 * s / total:.0f} %" for stage, s in seconds.most_common(6))


@contextmanager
def _patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _without_encoding() -> Iterator[None]:
    with _patched(chunk_task, "encode_clip", lambda frames, fps, config: b"-"):
        yield


if __name__ == "__main__":
    raise SystemExit(main())
