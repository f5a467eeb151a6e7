"""Rows of `bench_preprocessing` about whole jobs: workers, memory, the way work is handed out."""

import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import ray.data
from long_videos import base_video, repeated
from planned_sources import plan_without_work
from preprocessing_setting import KEEP_ALL, Setting, Tally, process_here
from reporting import Report

from pipelines.cluster.connect import connect
from pipelines.preprocess.job import preprocess
from pipelines.preprocess.progress import JobProgress
from preprocessing.chunk.output import read_output
from preprocessing.storage.store import open_store

WORKERS = 2


class _WallTime:
    """Is told how a job goes; knows how long its chunks took together."""

    def __init__(self) -> None:
        self._began: float | None = None
        self.seconds = 0.0

    def __call__(self, progress: JobProgress) -> None:
        if progress.stage == "process":
            self._began = self._began or time.perf_counter()
            self.seconds = time.perf_counter() - self._began


def two_workers(report: Report, setting: Setting) -> None:
    """Two Ray workers against the plain loop, Ray already up, loading of models included.

    Ray Data's own two actors outlive a job on a standing cluster, so they are up as well. Each
    video is a chunk of the full length. All are alike, so the loop does some of them, half before
    and half after, for the machine may grow slower meanwhile.
    """
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
        out, wall = setting.folder / "out_two", _WallTime()
        preprocess(folder, out, setting.config, concurrency=WORKERS, on_progress=wall)
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
    note = f"{count} videos of {seconds:g} s, {load}"
    report.add("two Ray workers / B1", plain_s / wall.seconds, "x", bar=1.85, note=note)


def _alone(path: Path) -> str:
    return _in_fresh_process("process_alone", path)


def _plain_loop(paths: list[Path], setting: Setting) -> float:
    began = time.perf_counter()
    for path in paths:
        process_here(path, setting.config, Tally())
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
    folder = setting.folder / "skew"
    folder.mkdir()
    long_s, short_s, count = (900.0, 15.0, 50) if not setting.smoke else (40.0, 5.0, 2)
    base = base_video(setting.folder / "skew.mp4", 20 if not setting.smoke else 2, 160, 120)
    repeated(base, folder / "zz_long.mp4", long_s, name="long")
    for number in range(count):
        repeated(base, folder / f"{number:02d}.mp4", short_s, name=str(number))
    out, load, wall = setting.folder / "out_skew", _load(), _WallTime()
    config = replace(setting.config, filters=KEEP_ALL)
    with connect(None, WORKERS):
        preprocess(folder, out, config, concurrency=WORKERS, on_progress=wall)
    store = open_store(out)
    busy_s = sum(
        sum(read_output(store, path).end.stages.values()) for path in store.list("_work/chunks")
    )
    ratio = wall.seconds / (busy_s / WORKERS)
    report.add(
        "one hour among fifty minutes, wall / ideal", ratio, "x", bar=1.25, lower_is_better=True,
        note=f"{long_s:g} s among {count} of {short_s:g} s, {WORKERS} workers, {load}",
    )  # fmt: skip


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
