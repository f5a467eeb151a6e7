"""Speed of sampling against a plain copy of the release's algorithm.

    make bench-network            CPU: reduced network, three windows. With a GPU also full width.
    python benchmarks/bench_network.py --smoke      seconds; checks that the benchmark runs

Both sides have the same weights and must give the same latents. Repeats alternate, so that changes
of the machine's load affect both; the fastest repeat counts.
"""

import argparse
import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from operations import count_operations
from plain_inference import Inputs, run_ours, run_plain
from reporting import Report
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from xnemo.diffusion.sampler import SamplerConfig
from xnemo.model.config import NetworkConfig, full
from xnemo.model.frozen.autoencoder import AutoencoderConfig
from xnemo.model.frozen.image_embedding import ImageEmbeddingConfig
from xnemo.model.motion.config import MotionEncoderConfig
from xnemo.model.networks import Networks, build_networks
from xnemo.model.unet.config import UNetConfig
from xnemo.training.monitor.speed import matrix_rate

CPU_BAR = 1.5
GPU_BAR = 3.0
SAME_WITHIN = 1e-3
EAGER = "eager attention"


def reduced(latent: int, width: int) -> NetworkConfig:
    """Return the published structure on small latents, at a quarter of the width or less.

    The speed-up depends on the width of a head and on the share of the motion encoder in the
    operations (`operations.py`); both are as published.
    """
    return NetworkConfig(
        image_size=4 * latent,
        unet=UNetConfig(
            latent_channels=48,
            widths=(width, 2 * width, 4 * width, 4 * width),
            heads=max(1, width // 40),
            norm_groups=16,
            module_norm_groups=16,
            image_embedding_width=192,
        ),
        motion=MotionEncoderConfig(
            image_size=64, stem_width=16, attention_width=208, norm_groups=16
        ),
        autoencoder=AutoencoderConfig("space_to_depth", path=None, factor=4),
        image_embedding=ImageEmbeddingConfig("pooled", path=None, subfolder=None, width=192),
    )


def full_width() -> NetworkConfig:
    """Return the published sizes; latents are random, so frozen parts need no weights."""
    return NetworkConfig(
        image_size=512,
        autoencoder=AutoencoderConfig("kl", path="random"),
        image_embedding=ImageEmbeddingConfig("pooled", path=None, subfolder=None),
    )


def make_networks(config: NetworkConfig) -> Networks:
    """Build networks with random weights also in the zero-initialised output layers."""
    networks = build_networks(config, training=False).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in networks.denoiser.named_parameters():
        if name.endswith("proj_out.weight"):
            scale = 0.2 / parameter[0].numel() ** 0.5
            parameter.data.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return networks


def make_inputs(config: NetworkConfig, frames: int) -> Inputs:
    """Draw latents, crops and box vectors."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    side, crop = config.latent_size, config.motion.image_size
    return Inputs(
        z_reference=draw(1, config.unet.latent_channels, side, side),
        image_embedding=draw(1, 1, config.unet.image_embedding_width),
        crops=draw(frames, 3, crop, crop).clamp(-1, 1),
        boxes=0.1 * draw(frames, 3) + torch.tensor([0.0, 0.0, 1.0]),
        own_crop=draw(1, 3, crop, crop).clamp(-1, 1),
    )


def timed(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the fastest of some alternating repeats of each, in seconds."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference against the largest value."""
    return float((one - other).abs().max() / other.abs().max())


def bench_cpu(report: Report, repeats: int, smoke: bool) -> None:
    """Compare on the CPU: reduced width, three windows.

    Two steps instead of twenty or more: work per video weighs more, so the ratio is lower than in
    use. Options that keep the numbers are added one by one; compilation is not timed.
    """
    latent, width, frames, steps = (8, 16, 14, 1) if smoke else (16, 80, 56, 2)
    config = reduced(latent, width)
    window, overlap = (6, 1) if smoke else (24, 4)
    sampler = SamplerConfig(steps=steps, window=window, overlap=overlap)
    networks, inputs = make_networks(config), make_inputs(config, frames)
    windows = -(-frames // (window - overlap))
    here, published = (count_operations(c, window) for c in (config, config if smoke else full()))
    report.settings["cpu"] = {
        "frames": frames,
        "steps": steps,
        "windows": windows,
        "latent": latent,
        "driving_crop": config.motion.image_size,
        "unet_widths": config.unet.widths,
        "heads": config.unet.heads,
        "encoder_share": round(here.encoder_share, 4),
        "encoder_share_published": round(published.encoder_share, 4),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
    }
    for size, operations in (("this size", here), ("the published size", published)):
        report.add(
            f"operations of a step at {size}: plain copy / ours", operations.saved(window), "x"
        )
    plain = run_plain(networks, inputs, sampler, False)
    # The plain copy keeps the default memory format.
    twin = copy.deepcopy(networks)
    best, shown, plain_seconds = float("inf"), "", float("inf")
    for name, change in CPU_VARIANTS.items():
        if smoke and "compiled" in name:
            continue
        change(networks)
        # Warms up, and compiles.
        difference = relative_difference(run_ours(networks, inputs, sampler), plain)
        seconds = timed(
            {
                "ours": lambda: run_ours(networks, inputs, sampler),
                "plain": lambda: run_plain(twin, inputs, sampler, False),
            },
            repeats,
        )
        report.add(f"cpu, {name}: ours", frames / seconds["ours"], "frames/s")
        report.add("  plain copy beside it", frames / seconds["plain"], "frames/s")
        report.add("  ours / plain copy", seconds["plain"] / seconds["ours"], "x")
        report.add(
            "  largest difference of the latents",
            difference,
            "relative",
            bar=SAME_WITHIN,
            lower_is_better=True,
        )
        plain_seconds = min(plain_seconds, seconds["plain"])
        if seconds["ours"] / seconds["plain"] < best:
            best, shown = seconds["ours"] / seconds["plain"], name
    # Informative only, so one repeat.
    cached = timed({"cached": lambda: run_plain(twin, inputs, sampler, True)}, 1)["cached"]
    report.add("cpu: of it by encoding motion once", seconds["plain"] / cached, "x")
    # Upper bound: all multiplications at the rate of a large matrix product, all else free.
    rate = matrix_rate(torch.device("cpu"), torch.float32)
    least_s = here.ours * steps * windows * window / rate
    report.add("cpu: measured fp32 matrix rate", rate / 1e9, "GFLOP/s")
    report.add(
        "  most that ours / plain copy could be", plain_seconds / least_s, "x", note="at that rate"
    )
    report.add(
        f"cpu, reduced, {windows} windows: best of ours / plain copy",
        1 / best,
        "x",
        bar=CPU_BAR,
        note=f"frames per second, {shown}",
    )


def bench_gpu(
    report: Report,
    repeats: int,
    config: NetworkConfig | None = None,
    device: str = "cuda",
    frames: int = 56,
    smoke: bool = False,
) -> None:
    """Compare at full width in bf16: kernels, memory layout, compilation, and the plain copy."""
    config = config or full_width()
    sampler = SamplerConfig(steps=1 if smoke else 4)
    networks = make_networks(config)
    networks.to(device)
    for part in (networks.denoiser, networks.reference_net, networks.motion_encoder):
        torch.nn.Module.to(part, dtype=torch.bfloat16)
    inputs = make_inputs(config, frames).to(device, torch.bfloat16)
    rate = matrix_rate(torch.device(device), torch.bfloat16)
    flops = pass_flops(networks, config, sampler, device)
    report.settings["gpu"] = {
        "frames": frames,
        "steps": sampler.steps,
        "latent": config.latent_size,
        "matrix_tflops": rate / 1e12,
        "tflop_per_window": flops / 1e12,
        "repeats": repeats,
    }
    report.add("gpu: measured bf16 matrix rate", rate / 1e12, "TFLOP/s")
    plain = timed({"plain": lambda: run_plain(networks, inputs, sampler, False)}, repeats)["plain"]
    report.add("gpu, plain copy", frames / plain, "frames/s", note=f"{sampler.steps} steps")
    exact = run_plain(networks, inputs, sampler, False)
    best = float("inf")
    for name, change in VARIANTS.items():
        if smoke and "compiled" in name:
            continue
        change(networks)
        _reset_peak(device)
        try:
            with _kernels(name):
                difference = relative_difference(run_ours(networks, inputs, sampler), exact)
                seconds = timed({name: lambda: run_ours(networks, inputs, sampler)}, repeats)[name]
        except torch.OutOfMemoryError:
            report.add(f"gpu, {name}", None, "frames/s", note="out of memory")
            continue
        best = min(best, seconds)
        windows = -(-frames // (sampler.window - sampler.overlap)) * sampler.steps
        report.add(f"gpu, {name}", frames / seconds, "frames/s")
        report.add("  time per step", seconds / sampler.steps, "s")
        report.add("  peak memory", _peak(device) / 2**30, "GiB")
        report.add("  of the matrix rate", flops * windows / seconds / rate * 100, "%")
        report.add("  against the plain copy", plain / seconds, "x")
        report.add("  difference of the latents", difference, "relative", note="bf16 rounds")
    report.add("gpu: best of ours / plain copy", plain / best, "x", bar=GPU_BAR)


def _kernels(variant: str) -> AbstractContextManager[Any]:
    """Return the context that selects the attention kernels of a variant."""
    if variant != EAGER:
        return nullcontext()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    return sdpa_kernel(SDPBackend.MATH)


def _channels_last(networks: Networks) -> None:
    for part in (networks.denoiser, networks.reference_net, networks.motion_encoder):
        torch.nn.Module.to(part, memory_format=torch.channels_last)


# Each change is added to the previous ones.
CPU_VARIANTS: dict[str, Callable[[Networks], None]] = {
    "as built": lambda networks: None,
    "+ channels-last": _channels_last,
    "+ compiled blocks": lambda networks: networks.denoiser.compile_repeated_blocks(),
}
VARIANTS: dict[str, Callable[[Networks], None]] = {
    EAGER: lambda networks: None,
    "fused attention (SDPA)": lambda networks: None,
    "+ channels-last": _channels_last,
    "+ compiled blocks": lambda networks: networks.denoiser.compile_repeated_blocks(),
}


@torch.no_grad()
def pass_flops(
    networks: Networks, config: NetworkConfig, sampler: SamplerConfig, device: str
) -> float:
    """Return the operations of one window, both guidance branches, with the plain algorithm."""
    one = make_inputs(config, 1).to(device, torch.bfloat16)
    motion = torch.zeros(
        1, 1, config.motion.tokens, config.motion.token_width, device=device, dtype=torch.bfloat16
    )
    reference = networks.reference_net(one.z_reference, one.image_embedding)
    total = 0
    for features in (None, reference):
        with FlopCounterMode(display=False) as counter:
            networks.denoiser(
                one.z_reference[:, :, None], 500, one.image_embedding, motion, features
            )
        total += counter.get_total_flops()
    return float(total * sampler.window)


def _reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak(device: str) -> float:
    return float(torch.cuda.max_memory_allocated()) if device == "cuda" else 0.0


def main() -> int:
    """Run the benchmarks that this machine supports, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, nothing written")
    arguments = parser.parse_args()
    report = Report("network")
    bench_cpu(report, arguments.repeats, arguments.smoke)
    if arguments.smoke:
        bench_gpu(report, 1, reduced(8, 16), "cpu", frames=2, smoke=True)
    elif torch.cuda.is_available():
        bench_gpu(report, arguments.repeats)
    else:
        report.add("gpu: best of ours / plain copy", None, "x", bar=GPU_BAR, note="no GPU here")
    report.finish(smoke=arguments.smoke)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
