"""ONNX Runtime sessions of face networks, and the image sizes that they read."""

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import onnxruntime


def providers() -> list[str]:
    """Return the execution providers to use, best first."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    return [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]


def session_options() -> "onnxruntime.SessionOptions":
    """Return options for one thread and errors only.

    Workers are processes, one per core: more threads would compete with each other, and the order
    of their sums would make results depend on the machine.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # The arena keeps the most memory that a run has needed, which the image size bounds. Without it
    # tensors come from the C heap, which decoded frames fragment: 1.5 times the peak memory, and
    # thousands of page faults per second.
    options.enable_cpu_mem_arena = True
    return options


def open_session(model: bytes | str) -> "onnxruntime.InferenceSession":
    """Open a model from bytes or a path."""
    import onnxruntime

    return onnxruntime.InferenceSession(model, session_options(), providers=providers())


def shrink(rgb_HWC: np.ndarray, max_side: int) -> tuple[np.ndarray, float, float]:
    """Return the image with its longer side at most `max_side`, and the factors back (x, y)."""
    height, width = rgb_HWC.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return rgb_HWC, 1.0, 1.0
    across, down = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(rgb_HWC, (across, down), interpolation=cv2.INTER_AREA)
    return small, width / across, height / down


def pad_to_multiple(rgb_HWC: np.ndarray, multiple: int) -> np.ndarray:
    """Return the image with black added right and below until both sides are multiples."""
    height, width = rgb_HWC.shape[:2]
    more = ((0, -height % multiple), (0, -width % multiple), (0, 0))
    return np.pad(rgb_HWC, more) if any(after for _, after in more) else rgb_HWC


def pad_around(rgb_HWC: np.ndarray, fraction: float) -> tuple[np.ndarray, int, int]:
    """Return the image with a black border, and the border's width and height in pixels.

    Detectors are trained on few faces that fill the frame; the border makes such a face smaller.

    Args:
        rgb_HWC: Image.
        fraction: Border on each side, as a fraction of that side.
    """
    height, width = rgb_HWC.shape[:2]
    across, down = round(width * fraction), round(height * fraction)
    return np.pad(rgb_HWC, ((down, down), (across, across), (0, 0))), across, down
