"""Speed, data wait, utilisation and memory of a run."""

import resource
import time

import torch

from xnemo.training.engines.world import World


class SpeedMeter:
    """Measure speed between two lines of the log."""

    def __init__(self, world: World, peak_flops: float) -> None:
        self._world = world
        self._peak = peak_flops
        self.flops_per_sample = 0.0
        self.restart()

    def restart(self) -> None:
        """Start a new interval and discard the current one."""
        self._begin = time.perf_counter()
        self._waited = 0.0
        self._samples = 0

    def add_wait(self, seconds: float) -> None:
        """Add time that training waited for data."""
        self._waited += seconds

    def add_samples(self, samples: int) -> None:
        """Add a step's samples over all workers."""
        self._samples += samples

    def read(self) -> dict[str, float]:
        """Return the measurements of the interval by log key, and start a new one."""
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
    """Return this process's peak memory in bytes: GPU memory, or resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.1) -> float:
    """Measure the FLOP/s of a square matrix product, as the peak rate of a device."""
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
