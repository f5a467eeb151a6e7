"""Checks of a recipe: memory and time on a GPU, and pretrained weights."""

import os
from collections.abc import Iterator
from pathlib import Path

from diffusers.utils import logging as diffusers_logging

from pipelines.doctor.check import Check
from pipelines.doctor.gpus import Gpu, find_gpu
from pipelines.doctor.machine import memory_limit
from preprocessing.errors import UserError
from preprocessing.paths import user_path
from xnemo.model.builtin import BUILTIN
from xnemo.model.cost import TrainingCost, training_cost
from xnemo.model.frozen.autoencoder import FIXED, RANDOM
from xnemo.model.frozen.perceptual import FILES
from xnemo.training.config import TrainConfig

# Share of a GPU's memory reserved for the allocator, workspaces and the CUDA driver.
_RESERVE = 0.1

# Assumed share of the peak rate (MFU) in training.
_UTILISATION = 0.4


def check_recipe(config: TrainConfig, gpu: str | None = None) -> Iterator[Check]:
    """Check the requirements of a recipe on one GPU (or this machine's CPU), and its weights.

    Raises:
        UserError: the GPU's name is unknown.
    """
    # On the meta device, diffusers warns about modules kept in fp32.
    diffusers_logging.set_verbosity_error()
    device = find_gpu(gpu) if gpu is not None else _own_gpu()
    cost = training_cost(
        config.network,
        batch=config.micro_batch,
        frames=config.data.pairs.frames,
        stage=config.stage,
        precision=config.engine.precision,
        gradient_checkpointing=config.engine.gradient_checkpointing,
        zero_stage=config.engine.zero_stage if config.engine.kind == "deepspeed" else 0,
        ema=config.ema.enabled,
    )
    parts = ", ".join(f"{name} {n / 1e6:.1f} M" for name, n in cost.parameters.items())
    yield Check("recipe, parameters", "ok", parts)
    yield _memory(config, cost, device)
    yield _time(config, cost, device)
    yield from _weights(config)


def _own_gpu() -> Gpu | None:
    import torch

    if not torch.cuda.is_available():
        return None
    about = torch.cuda.get_device_properties(0)
    try:
        known = find_gpu(about.name)
    except UserError:
        # Only its memory is known.
        return Gpu(about.name, about.total_memory / 1e9, 0.0, 0.0)
    return Gpu(about.name, about.total_memory / 1e9, known.bf16_tflops, known.fp32_tflops)


def _memory(config: TrainConfig, cost: TrainingCost, gpu: Gpu | None) -> Check:
    have = gpu.memory_gb if gpu else memory_limit() / 1e9
    where = gpu.name if gpu else "this machine"
    need = cost.total / 1e9
    found = (
        f"{need:.1f} GB of {have:.0f} GB on {where}: states "
        f"{(cost.weights + cost.gradients + cost.optimizer + cost.ema) / 1e9:.1f}, frozen parts "
        f"{cost.frozen / 1e9:.1f}, activations of {config.micro_batch} samples "
        f"{cost.activations / 1e9:.1f}"
    )
    room = have * (1 - _RESERVE)
    if need <= room:
        return Check("recipe, memory", "ok", found)
    fixed = need - cost.activations / 1e9
    each = cost.activations / 1e9 / config.micro_batch
    if each and (fit := int((room - fixed) / each)) >= 1:
        return Check("recipe, memory", "warn", found, f"set micro_batch={fit}")
    if not config.engine.gradient_checkpointing:
        return Check("recipe, memory", "warn", found, "set engine.gradient_checkpointing=true")
    remedy = "set engine.kind=deepspeed engine.zero_stage=3 and train on several GPUs"
    return Check("recipe, memory", "warn", found, remedy)


def _time(config: TrainConfig, cost: TrainingCost, gpu: Gpu | None) -> Check:
    flops = cost.flops_per_sample + cost.recompute_flops_per_sample
    found = f"{flops / 1e12:.3g} TFLOP a sample"
    if gpu is None or not gpu.bf16_tflops:
        return Check("recipe, arithmetic", "ok", found)
    peak = gpu.bf16_tflops if config.engine.precision == "bf16" else gpu.fp32_tflops
    seconds = cost.seconds_per_sample(peak, _UTILISATION)
    days = seconds * config.samples / 86400
    found += (
        f": {1 / seconds:.3g} samples/s and {days:.3g} days for {config.samples:,} samples on one "
        f"{gpu.name} at {_UTILISATION:.0%} of its peak"
    )
    return Check("recipe, arithmetic", "ok", found)


def _weights(config: TrainConfig) -> Iterator[Check]:
    """Check that pretrained parts are on this machine."""
    network = config.network
    wanted = {}
    if network.autoencoder.kind not in FIXED:
        wanted["network.autoencoder.path"] = network.autoencoder.path
    if network.image_embedding.kind == "clip":
        wanted["network.image_embedding.path"] = network.image_embedding.path
    wanted["init_from"] = config.init_from
    if config.uses_gan_head and config.loss.perceptual > 0:
        wanted["perceptual.weights"] = config.perceptual.weights
        if config.perceptual.weights is None:
            url = f"https://download.pytorch.org/models/{FILES[config.perceptual.network]}"
            yield Check(
                "recipe, perceptual.weights",
                "missing",
                f"none, and loss.perceptual is {config.loss.perceptual:g}",
                f"curl -LO {url}; set perceptual.weights=FILE, or loss.perceptual=0",
            )
    for field, path in wanted.items():
        if path in (None, RANDOM, BUILTIN):
            continue
        if user_path(path).exists():
            yield Check(f"recipe, {field}", "ok", path)
        elif _in_hub_cache(path):
            yield Check(f"recipe, {field}", "ok", f"{path}, in the Hub cache")
        else:
            remedy = f"set {field}=FOLDER, or let the first run download it"
            yield Check(f"recipe, {field}", "warn", f"{path} is not on this machine", remedy)


def _in_hub_cache(name: str) -> bool:
    home = os.environ.get("HF_HUB_CACHE") or Path(
        os.environ.get("HF_HOME", "~/.cache/huggingface"), "hub"
    )
    return (user_path(home) / f"models--{name.replace('/', '--')}").is_dir()
