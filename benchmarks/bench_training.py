"""Overhead of training: engines, tracking, loader and resume.

    python benchmarks/bench_training.py [--smoke] [--only step tracker loader resume]

Each ratio is measured in one run, in alternation: the plain loop (`plain_training.py`) and the full
job, a reachable and an unresponsive tracking server, and the two loaders. With `--only` the other
rows keep their last results and dates.
"""

import argparse
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import webdataset as wds
from reporting import Report

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from moving_faces import write_dataset  # noqa: E402

from pipelines.doctor.gpus import find_gpu  # noqa: E402
from preprocessing.decode import decode_clip  # noqa: E402
from preprocessing.decode.clip import ClipReader  # noqa: E402
from preprocessing.storage.sample import read_member  # noqa: E402
from xnemo.config import override, to_dict  # noqa: E402
from xnemo.data.batch_plan import BatchPlan  # noqa: E402
from xnemo.data.clip_table import ClipTable, open_clips  # noqa: E402
from xnemo.data.loader import BatchLoader  # noqa: E402
from xnemo.data.sample_reader import ImageSizes, SampleReader  # noqa: E402
from xnemo.model.cost import training_cost  # noqa: E402
from xnemo.recipes import get_recipe  # noqa: E402
from xnemo.training.config import TrainConfig  # noqa: E402
from xnemo.training.monitor.run_log import read_log  # noqa: E402

WINDOW = 16
# The step of the `small` recipe on a GPU is computed from counted operations at this share of the
# data sheet's bf16 rate, as in `xnemo doctor`.
UTILISATION = 0.4
# Samples per step, and the largest ratio to the plain loop. Ray's processes take 4 % of two cores
# and DeepSpeed 0.08 s per step, which weighs more in shorter steps, as the second row shows.
STEP_BATCHES = {192: 1.05, 96: None}
# A GPU that two loader cores can feed, and one that requires more.
DESK_GPU, RACK_GPU = "RTX 4090", "H100"


def main() -> int:
    """Run the selected benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny inputs, nothing written")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    report = Report("training", settings={"window": WINDOW, "workers": 2, "threads": 1})
    for part in options.only:
        report.part = part
        with tempfile.TemporaryDirectory() as name:
            PARTS[part](report, Path(name), options.smoke)
        if not options.smoke:
            # Write after each part, so that an interrupted run keeps its results.
            report.write(tuple(PARTS))
    return report.finish(smoke=options.smoke, parts=tuple(PARTS))


def measure_step(report: Report, folder: Path, smoke: bool) -> None:
    """Time a step under Ray, DeepSpeed and MLflow against the bare loop, two workers each."""
    steps = 3 if smoke else 10
    data = write_dataset(folder / "step_faces", clips=6)
    for batch, bar in STEP_BATCHES.items():
        config = step_config(steps, smoke, batch)
        plain, ours = plain_seconds(config, data, folder, steps), []
        # In alternation, because the machine's speed drifts by some percent within minutes.
        for turn in range(1 if smoke else 2):
            ours += whole_seconds(config, data, folder, f"bench{batch}.{turn}")
            plain += plain_seconds(config, data, folder, steps)
        bare, whole = statistics.median(plain), statistics.median(ours)
        report.add(f"bare DDP step of {batch}", bare, "s")
        report.add(f"step of {batch} under Ray + ZeRO-2 + MLflow", whole, "s")
        report.add(
            f"whole / bare, step of {batch}",
            whole / bare,
            "x",
            bar=bar,
            lower_is_better=True,
            note=load(),
        )


def load() -> str:
    """Return the load of the machine as text."""
    return f"load average {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"


def step_config(steps: int, smoke: bool, batch: int = 32) -> TrainConfig:
    """Return the tiny recipe with a batch whose step takes a second or more."""
    batch = 4 if smoke else batch
    return override(
        get_recipe("tiny"),
        {
            "samples": steps * batch,
            "global_batch": batch,
            "micro_batch": batch // 2,
            "checkpoint.every_samples": 10**9,
            "log_every": 1,
            "data.filter": "",
        },
    )


def plain_seconds(config: TrainConfig, data: Path, folder: Path, steps: int) -> list[float]:
    """Return the plain loop's seconds per step, without the first ones."""
    file, store = folder / "plain.json", folder / f"store{time.monotonic_ns()}"
    file.write_text(json.dumps(to_dict(config)))
    script = Path(__file__).with_name("plain_training.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, script, str(rank), "2", file, data, store, str(steps)],
            stdout=subprocess.PIPE,
            env=environment,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise RuntimeError("the plain loop failed")
    return json.loads(outputs[0])[1 if steps < 5 else 3 :]


def whole_seconds(
    config: TrainConfig, data: Path, folder: Path, run: str, tracking_uri: str | None = None
) -> list[float]:
    """Return the full job's seconds per step, without the first and the last."""
    # Ray runs its workers at the lowest priority, which would favour the plain loop.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # As in the plain loop.
    os.environ["OMP_NUM_THREADS"] = "1"
    from pipelines.train.job import train

    train(
        config, str(data), run, runs_dir=folder / "runs", workers=2, previews=False,
        tracking_uri=tracking_uri,
    )  # fmt: skip
    lines = [r for r in read_log(folder / "runs" / run) if "loss" in r]
    rates = [line["samples_per_s"] for line in lines]
    return [config.global_batch / rate for rate in rates[1:-1] or rates]


def measure_tracker(report: Report, folder: Path, smoke: bool) -> None:
    """Time a step with a tracking server that accepts connections and never responds."""
    data = write_dataset(folder / "tracker_faces", clips=6)
    config = step_config(3 if smoke else 12, smoke)
    before = whole_seconds(config, data, folder, "before")
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        # The kernel completes connections; nothing ever accepts them.
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        unresponsive = whole_seconds(config, data, folder, "unresponsive", uri)
    after = whole_seconds(config, data, folder, "after")
    report.add(
        "tracking server unresponsive / responding",
        statistics.median(unresponsive) / statistics.median(before + after),
        "x",
        bar=1.05,
        lower_is_better=True,
        note=f"seconds per step; {load()}",
    )


def measure_loader(report: Report, folder: Path, smoke: bool) -> None:
    """Time random windows from MP4 by range reads against JPEGs by webdataset."""
    clips = 3 if smoke else 24
    data = write_dataset(folder / "loader_faces", clips=clips, frames=100, size=512)
    table = open_clips([str(data)], "")
    jpegs, jpeg_bytes = write_jpegs(table, folder / "jpegs.tar")
    mp4_bytes = int(table.rows["mp4_length"].sum())
    ours, theirs = [], []
    for turn in range(4):
        ours.append(frames_per_second(our_windows(table, turn)))
        theirs.append(frames_per_second(jpeg_windows(jpegs, turn)))
    report.add("windows from MP4", statistics.median(ours), "frames/s")
    report.add("windows from JPEG by webdataset", statistics.median(theirs), "frames/s")
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    report.add("MP4 / JPEG speed", ratio, "x", bar=0.8)
    share = 100 * mp4_bytes / jpeg_bytes
    report.add("MP4 / JPEG bytes", share, "%", bar=25, lower_is_better=True, note="JPEG at 90")
    decoded = frames_decoded(table)
    report.add(
        "frames decoded per random window", statistics.mean(decoded), "frames", bar=28,
        lower_is_better=True, note=f"at most {max(decoded)}",
    )  # fmt: skip
    measure_small_recipe(report, table, smoke)


def write_jpegs(table: ClipTable, path: Path) -> tuple[Path, int]:
    """Write every frame as a JPEG of quality 90, a clip a sample; returns the JPEGs' bytes."""
    total = 0
    with tarfile.open(path, "w") as tar:
        for row in table.rows.to_dict("records"):
            for number, frame in enumerate(decode_clip(read_member(row["root"], row, "mp4"))):
                _, code = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
                info = tarfile.TarInfo(f"{row['key']}.{number:04d}.jpg")
                info.size = len(code)
                total += len(code)
                tar.addfile(info, io.BytesIO(code.tobytes()))
    return path, total


def our_windows(table: ClipTable, seed: int) -> Iterator[int]:
    """Yield the frames of a random window of every clip."""
    rng = np.random.default_rng(seed)
    for row in table.rows.to_dict("records"):
        start = int(rng.integers(row["frames"] - WINDOW + 1))
        yield len(decode_clip(read_member(row["root"], row, "mp4"), range(start, start + WINDOW)))


def jpeg_windows(path: Path, seed: int) -> Iterator[int]:
    """Yield the same from the tar of JPEGs, decoding none but the window's."""
    rng = np.random.default_rng(seed)
    for sample in wds.WebDataset(str(path), shardshuffle=False, empty_check=False):
        names = sorted(name for name in sample if name.endswith("jpg"))
        start = int(rng.integers(len(names) - WINDOW + 1))
        codes = [sample[name] for name in names[start : start + WINDOW]]
        frames = [cv2.imdecode(np.frombuffer(c, np.uint8), cv2.IMREAD_COLOR_RGB) for c in codes]
        yield len(np.stack(frames))


def frames_per_second(windows: Iterator[int]) -> float:
    """Exhaust a loader and return its speed."""
    cv2.setNumThreads(1)
    begin = time.perf_counter()
    frames = sum(windows)
    return frames / (time.perf_counter() - begin)


def frames_decoded(table: ClipTable) -> list[int]:
    """Return what each of many random windows decodes."""
    rng = np.random.default_rng(0)
    counts = []
    for row in table.rows.to_dict("records"):
        with ClipReader(read_member(row["root"], row, "mp4")) as clip:
            for _ in range(10):
                before = clip.frames_decoded
                start = int(rng.integers(len(clip) - WINDOW + 1))
                clip.frames_at(range(start, start + WINDOW))
                counts.append(clip.frames_decoded - before)
    return counts


def measure_small_recipe(report: Report, table: ClipTable, smoke: bool) -> None:
    """Compare the loader with the computed speed of the small recipe on one GPU."""
    recipe = get_recipe("small")
    cost = training_cost(
        recipe.network,
        precision=recipe.engine.precision,
        gradient_checkpointing=recipe.engine.gradient_checkpointing,
        ema=recipe.ema.enabled,
    )
    pace = {
        name: 1 / cost.seconds_per_sample(find_gpu(name).bf16_tflops, UTILISATION)
        for name in (DESK_GPU, RACK_GPU)
    }
    network = recipe.network
    sizes = ImageSizes(network.image_size, network.motion.image_size, network.gan.image_size)
    data = replace(recipe.data, filter="", workers=2)
    reader = SampleReader(table, data, recipe.augment, sizes, seed=0)
    step_s = recipe.global_batch / pace[DESK_GPU]
    waited = wait_share(
        reader, BatchPlan(recipe.global_batch, recipe.micro_batch), step_s, 4 if smoke else 60
    )
    report.add(
        f"data wait, small recipe on one {DESK_GPU}", waited, "%", bar=3, lower_is_better=True,
        note=f"a step of {recipe.global_batch} computed to take {step_s:.2f} s there; 2 loader "
        f"processes on 2 cores; {load()}",
    )  # fmt: skip
    each = samples_per_core(reader, 16 if smoke else 200)
    report.add("samples read by one core, small recipe", each, "1/s", note="CPU time")
    for name, rate in pace.items():
        report.add(
            f"cores that the small recipe on one {name} requires for the loader",
            rate / each,
            "cores",
            note=f"{rate:.0f} samples/s, computed",
        )


def samples_per_core(reader: SampleReader, samples: int) -> float:
    """Return how many samples a second of one core's time reads."""
    cv2.setNumThreads(1)
    reader.read(0)
    begin = time.process_time()
    for number in range(samples):
        reader.read(number)
    return samples / (time.process_time() - begin)


def wait_share(reader: SampleReader, plan: BatchPlan, step_s: float, steps: int) -> float:
    """Return the percentage of time that a consumer of one step in `step_s` waits for data."""
    pause = step_s / plan.accumulation
    waited = 0.0
    with BatchLoader(reader, plan) as loader:
        # Do not count the start of loader processes.
        next(loader)
        time.sleep(2 * step_s)
        begin = time.perf_counter()
        for _ in range(steps * plan.accumulation):
            asked = time.perf_counter()
            next(loader)
            waited += time.perf_counter() - asked
            time.sleep(pause)
        elapsed = time.perf_counter() - begin
    return 100 * waited / elapsed


def measure_resume(report: Report, folder: Path, smoke: bool) -> None:
    """Time from starting a process to the first step after a checkpoint, tiny recipe."""
    data = write_dataset(folder / "resume_faces", clips=6)
    config = override(
        get_recipe("tiny"),
        {
            "engine.kind": "torch", "samples": 16, "checkpoint.every_samples": 16, "log_every": 1,
            "data.filter": "",
        },
    )  # fmt: skip
    run = folder / "resume"
    run_once(config, data, run)
    begin = time.time()
    run_once(override(config, {"samples": 32}), data, run)
    lines = read_log(run)
    first = next(r for r in lines if "loss" in r and r["samples_seen"] > 16)
    report.add(
        "start to first step after a resume", first["time"] - begin, "s", bar=30,
        lower_is_better=True, note=f"one process, imports included; {load()}",
    )  # fmt: skip


def run_once(config: TrainConfig, data: Path, run: Path) -> None:
    """Train in a fresh process."""
    program = (
        "import json, sys; from xnemo.config import from_dict; "
        "from xnemo.training.config import TrainConfig; "
        "from xnemo.training.loop import run_training; "
        "run_training(from_dict(TrainConfig, json.loads(sys.argv[1])), sys.argv[2], sys.argv[3])"
    )
    arguments: list[Any] = [json.dumps(to_dict(config)), str(data), str(run)]
    subprocess.run(
        [sys.executable, "-c", program, *arguments],
        check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


PARTS = {
    "step": measure_step,
    "tracker": measure_tracker,
    "loader": measure_loader,
    "resume": measure_resume,
}

if __name__ == "__main__":
    raise SystemExit(main())
