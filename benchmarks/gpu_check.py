"""What a GPU makes of the published size: tests, training step, animation.

    make gpu-check                              on a machine with a GPU, about 9 minutes
    python benchmarks/gpu_check.py --smoke      small networks on any device, nothing written

Runs without Ray and DeepSpeed; the tests that need them are skipped. Results are written after each
part, so that a run that is cut short keeps them.
"""

import argparse
import gc
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from bench_network import bench_gpu, reduced
from random_steps import RandomSteps
from random_steps import reduced as reduced_recipe
from reporting import Report

from xnemo.recipes import get_recipe
from xnemo.training.config import TrainConfig
from xnemo.training.monitor.speed import matrix_rate, peak_memory

PARTS = ("tests", "training", "animation")
#: Samples of one micro-batch, tried until the memory is full.
MICRO_BATCHES = (1, 2, 4, 8, 16)
TESTS_WITHIN_S = 240


def main() -> int:
    """Run the selected parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small networks, nothing written")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.smoke:
        print("gpu-check: no GPU; --smoke runs it on a CPU", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    report = Report("gpu", settings={"device": name})
    for part in options.only:
        report.part = part
        if part == "tests":
            run_tests(report, options.smoke)
        elif part == "training":
            time_training(report, device, options.smoke)
        else:
            bench_gpu(
                report,
                1 if options.smoke else 2,
                reduced(8, 16) if options.smoke else None,
                device.type,
                frames=4 if options.smoke else 56,
                smoke=options.smoke,
            )
        if not options.smoke:
            report.write(PARTS)
    return report.finish(smoke=options.smoke, parts=PARTS)


def run_tests(report: Report, smoke: bool) -> None:
    """Run the tests marked `gpu`; in a smoke run only collect them."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu"]
    command += ["--collect-only"] if smoke else []
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True,
        timeout=TESTS_WITHIN_S, check=False,
    )  # fmt: skip
    print(done.stdout[-4000:] + done.stderr[-2000:])
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "no output"
    report.add("gpu tests failed", float(done.returncode), "status", 0, True, last)


def time_training(report: Report, device: torch.device, smoke: bool) -> None:
    """Time a step of the image stage, eager and compiled, up to the largest micro-batch."""
    rate = matrix_rate(device, torch.bfloat16, 1.0)
    report.add("bf16 matrix rate", rate / 1e12, "TFLOP/s")
    config = get_recipe("image")
    if smoke:
        config = reduced_recipe(config, precision="fp32")
    else:
        # Frozen parts at random: their cost does not depend on their weights.
        frozen = replace(config.network.autoencoder, path="random")
        embedding = replace(config.network.image_embedding, path="random")
        network = replace(config.network, autoencoder=frozen, image_embedding=embedding)
        perceptual = replace(config.perceptual, weights="random")
        engine = replace(config.engine, kind="torch")
        config = replace(config, network=network, perceptual=perceptual, engine=engine)
    largest = 0
    for size in MICRO_BATCHES[:1] if smoke else MICRO_BATCHES:
        if not _time_step(report, config, size, device, rate):
            break
        largest = size
    report.add("largest micro-batch that was tried and fits", largest, "samples")
    if not smoke:
        _time_step(
            report, replace(config, engine=replace(config.engine, compile=True)), 4, device, rate
        )


def _time_step(
    report: Report, config: TrainConfig, size: int, device: torch.device, rate: float
) -> bool:
    """Add the rate, utilisation and memory of a step; return whether it fits."""
    config = replace(config, micro_batch=size, global_batch=size)
    kind = "compiled" if config.engine.compile else "eager"
    name = f"image stage, {kind}, micro-batch {size}"
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        steps = RandomSteps(config, device)
        flops = steps.flops_per_sample()
        # The first steps allocate, and compile.
        for _ in range(2):
            steps.step()
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            # Reading the losses waits for the device.
            steps.step()
            times.append(time.perf_counter() - begin)
    except torch.OutOfMemoryError:
        report.add(name, None, "samples/s", note="out of memory")
        return False
    seconds = min(times)
    report.add(name, size / seconds, "samples/s")
    report.add("  of the matrix rate (MFU)", 100 * size * flops / seconds / rate, "%")
    report.add("  peak memory", peak_memory(device) / 2**30, "GiB")
    return True


if __name__ == "__main__":
    raise SystemExit(main())
