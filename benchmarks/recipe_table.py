"""GPU requirements of each recipe, computed without a GPU.

    python benchmarks/recipe_table.py > docs/recipes.md

The model is `xnemo.model.cost`, as `xnemo doctor RECIPE` uses it.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diffusers.utils import logging as diffusers_logging

from pipelines.doctor.gpus import Gpu, find_gpu
from xnemo.model.cost import TrainingCost, training_cost
from xnemo.recipes import get_recipe
from xnemo.training.config import TrainConfig

RECIPES = ("small", "image", "temporal", "finetune")
GPUS = ("RTX 4090", "L40S", "A100", "H100", "H200")
DEVICES = (1, 8)
# Recipes share networks, and each cost takes seconds to minutes.
cost_of = cache(training_cost)
# As in `xnemo doctor`: memory reserved for allocator and kernels, and model FLOPs utilisation.
RESERVE, UTILISATION = 0.1, 0.4

HEAD = """# GPU requirements of the recipes

**Computed, not measured.** Operations and saved activations are counted on a meta-device network
(`xnemo doctor RECIPE --gpu NAME` prints the same for one recipe and GPU). Speed assumes
{utilisation:.0%} of the data sheet's dense bf16 rate, and {reserve:.0%} of the memory is reserved
for the allocator. The perceptual loss's network is not counted. This page is the output of
`python benchmarks/recipe_table.py`.

`micro-batch` is the largest power of two that fits, up to a GPU's share of the global batch. If the
recipe's settings do not fit, the first of these that fits is used and named: gradient checkpointing
(gc), ZeRO-3 (z3). `days` is the time for all samples of the recipe.
"""


@dataclass(frozen=True)
class Fit:
    """How a recipe runs on a number of GPUs."""

    # Samples of a forward pass on one GPU, and its memory in GB.
    micro_batch: int
    memory_gb: float
    samples_per_second: float
    # Settings that differ from the recipe.
    changes: str


def costs(config: TrainConfig, devices: int) -> Iterator[tuple[str, TrainingCost]]:
    """Yield the cost of one sample with the recipe's settings, then with less memory."""
    engine = config.engine
    stage = engine.zero_stage if engine.kind == "deepspeed" else 0
    settings = [(engine.gradient_checkpointing, stage), (True, stage)]
    if devices > 1:
        settings.append((True, 3))
    for checkpointing, zero in dict.fromkeys(settings):
        names = ["gc"] * (checkpointing != engine.gradient_checkpointing) + ["z3"] * (zero != stage)
        yield (
            " + ".join(names),
            cost_of(
                config.network,
                frames=config.data.pairs.frames,
                stage=config.stage,
                precision="bf16",
                gradient_checkpointing=checkpointing,
                zero_stage=zero,
                devices=devices,
                ema=config.ema.enabled,
            ),
        )


def fit(
    config: TrainConfig, options: list[tuple[str, TrainingCost]], gpu: Gpu, devices: int
) -> Fit | None:
    """Return the first option that fits, or None."""
    for changes, cost in options:
        fixed = cost.total - cost.activations
        room = gpu.memory_gb * 1e9 * (1 - RESERVE) - fixed
        most = min(int(room / cost.activations), config.global_batch // devices)
        if most < 1:
            continue
        batch = 2 ** int(math.log2(most))
        speed = devices / cost.seconds_per_sample(gpu.bf16_tflops, UTILISATION)
        return Fit(batch, (fixed + batch * cost.activations) / 1e9, speed, changes)
    return None


def table(name: str) -> Iterator[str]:
    """Yield the lines of one recipe's table."""
    config = get_recipe(name)
    pairs = config.data.pairs
    some = next(costs(config, 1))[1]
    yield f"## {name}\n"
    yield (
        f"{config.network.image_size}², {pairs.frames} target frame(s) a sample, "
        f"{some.trained_parameters / 1e6:,.0f} M trained of "
        f"{sum(some.parameters.values()) / 1e6:,.0f} M parameters, "
        f"{some.flops_per_sample / 1e12:.3g} TFLOP a sample, global batch {config.global_batch}, "
        f"{config.samples:,} samples.\n"
    )
    yield "| GPU | GPUs | micro-batch | memory each | samples/s | days | settings changed |"
    yield "|---|---|---|---|---|---|---|"
    for devices in DEVICES:
        options = list(costs(config, devices))
        for gpu in map(find_gpu, GPUS):
            found = fit(config, options, gpu, devices)
            label = f"| {gpu.name}, {gpu.memory_gb:g} GB | {devices} |"
            if found is None:
                least = min(cost.total for _, cost in options) / 1e9
                yield f"{label} does not fit: {least:.0f} GB at least | | | | |"
                continue
            days = config.samples / found.samples_per_second / 86400
            yield (
                f"{label} {found.micro_batch} | {found.memory_gb:.0f} GB "
                f"| {found.samples_per_second:.3g} | {days:.2g} | {found.changes} |"
            )
    yield ""


def main() -> None:
    """Print the page."""
    diffusers_logging.set_verbosity_error()
    print(HEAD.format(utilisation=UTILISATION, reserve=RESERVE))
    for name in RECIPES:
        print("\n".join(table(name)))


if __name__ == "__main__":
    main()
