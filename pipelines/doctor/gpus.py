"""GPUs by name, with their memory and peak rates."""

import difflib
import re
from dataclasses import dataclass

from preprocessing.errors import UserError


@dataclass(frozen=True)
class Gpu:
    """Figures of the data sheet, without sparsity."""

    name: str
    # Memory in GB.
    memory_gb: float
    # Peak TFLOP/s of matrix products in bfloat16 (float16 where it has none) and in float32.
    bf16_tflops: float
    fp32_tflops: float


GPUS = {
    gpu.name.lower().replace(" ", ""): gpu
    for gpu in (
        Gpu("T4", 16, 65, 8),
        Gpu("V100", 32, 125, 16),
        Gpu("RTX 3090", 24, 71, 36),
        Gpu("RTX 4090", 24, 165, 83),
        Gpu("RTX 5090", 32, 210, 105),
        Gpu("A10G", 24, 70, 35),
        Gpu("L4", 24, 121, 30),
        Gpu("L40S", 48, 362, 92),
        Gpu("A100 40GB", 40, 312, 19.5),
        Gpu("A100", 80, 312, 19.5),
        Gpu("H100", 80, 989, 67),
        Gpu("H200", 141, 989, 67),
        Gpu("B200", 180, 2250, 75),
    )
}


def find_gpu(name: str) -> Gpu:
    """Return a GPU by name, ignoring spaces and case: ``h100``, ``RTX 4090``.

    Raises:
        UserError: no GPU of that name is listed.
    """
    key = name.lower().replace(" ", "").replace("-", "").removeprefix("nvidia")
    if key in GPUS:
        return GPUS[key]
    # The driver's long name, such as "NVIDIA H100 80GB HBM3"; an L40 does not match L4.
    inside = [gpu for gpu in GPUS.values() if _names(gpu).search(name)]
    if inside:
        return max(inside, key=lambda gpu: len(gpu.name))
    near = difflib.get_close_matches(key, GPUS, n=1)
    hint = f"did you mean {GPUS[near[0]].name!r}?" if near else ""
    known = ", ".join(gpu.name for gpu in GPUS.values())
    raise UserError(f"no GPU {name!r} is listed", f"{hint} known: {known}".strip())


def _names(gpu: Gpu) -> re.Pattern[str]:
    words = r"[\s-]*".join(map(re.escape, gpu.name.split()))
    return re.compile(rf"(?<![a-z0-9]){words}(?![a-z0-9])", re.IGNORECASE)
