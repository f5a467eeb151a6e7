"""How fast a run is, and how fast it could be."""

import resource
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from xnemo.training.engines.world import World
from xnemo.training.step_inputs import StepInputs


class SpeedMeter:
    """Times and counts between two lines of the log."""

    def __init__(self, world: World, peak_flops: float) -> None:
        self._world = world
        self._peak = peak_flops
        self.flops_per_sample = 0.0
        self.restart()

    def restart(self) -> None:
        """Begin a new interval; whatever happened since the last reading is left out."""
        self._begin = time.perf_counter()
        self._waited = 0.0
        self._samples = 0

    def waited(self, seconds: float) -> None:
        """Count time in which training waited for data."""
        self._waited += seconds

    def step(self, samples: int) -> None:
        """Count a step's samples over all workers."""
        self._samples += samples

    def read(self) -> dict[str, float]:
        """Return speed, waiting, utilisation and memory since the interval began, and restart."""
        if self._world.device.type == "cuda":
            torch.cuda.synchronize()
        elapsed = max(time.perf_counter() - self._begin, 1e-9)
        rate = self._samples / elapsed
        per_worker = rate / self._world.size
        numbers = {
            "samples_per_s": rate,
            "samples_per_s_per_worker": per_worker,
            "data_wait_pct": 100 * self._waited / elapsed,
            "mfu": per_worker * self.flops_per_sample / self._peak,
            "peak_memory_gb": peak_memory(self._world.device) / 1e9,
        }
        self.restart()
        return numbers


def peak_memory(device: torch.device) -> int:
    """Return the most bytes this process has held: of the GPU, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@torch.no_grad()
def forward_flops(joint: nn.Module, discriminator: nn.Module | None, inputs: StepInputs) -> float:
    """Return the floating-point operations of one training step per sample.

    The forward pass is counted as executed; a backward pass costs twice its forward. The
    discriminator costs 4 forward passes in the generator's pass (forward on real and generated
    images, backward through the generated ones) and 6 in its own.
    """
    modes = [(m, m.training) for m in (joint, discriminator) if m is not None]
    for module, _ in modes:
        module.eval()
    with FlopCounterMode(display=False) as counter:
        joint(inputs)
    total = 3.0 * counter.get_total_flops()
    if discriminator is not None and inputs.head_target_NCHW is not None:
        with FlopCounterMode(display=False) as counter:
            discriminator(inputs.head_target_NCHW)
        total += 10.0 * counter.get_total_flops()
    for module, training in modes:
        module.train(training)
    return total / len(inputs.timesteps_B)


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.1) -> float:
    """Measure FLOP/s of a square matrix product: what this device reaches at best."""
    side = 8192 if device.type == "cuda" else 512
    a = torch.randn(side, side, device=device, dtype=dtype)
    for _ in range(2):
        a @ a
    if device.type == "cuda":
        torch.cuda.synchronize()
    count, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds or count < 3:
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        count += 1
    return 2 * side**3 * count / elapsed
