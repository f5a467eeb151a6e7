"""ONNX Runtime set up for many small workers: one thread each, CUDA where it is there."""

from typing import Any


def providers() -> list[str]:
    """Return the execution providers to use, best first."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    return [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]


def session_options() -> Any:
    """Return options for one thread and no chatter.

    Workers are processes, one a core: threads inside them would only fight each other, and the
    order of their sums would make results depend on the machine.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # It keeps the most that a run has needed, which the size of pictures bounds. Without it every
    # run's tensors come from the C heap, which frames then share and leave in pieces: half as much
    # memory again at the peak, and thousands of page faults a second.
    options.enable_cpu_mem_arena = True
    return options


def open_session(model: bytes | str) -> Any:
    """Open a model from bytes or a path."""
    import onnxruntime

    return onnxruntime.InferenceSession(model, session_options(), providers=providers())
