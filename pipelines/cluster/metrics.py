"""Measurements of jobs that Ray exports to Prometheus, beside its own."""

from functools import cache
from typing import Any, Literal

#: Kind, meaning and labels of every measurement. Ray exports each as ``ray_NAME``.
METRICS: dict[str, tuple[Literal["Counter", "Gauge"], str, tuple[str, ...]]] = {
    "xnemo_frames_total": ("Counter", "Frames decoded by preprocessing.", ()),
    "xnemo_clips_total": ("Counter", "Clips: kept, or the reason for a drop.", ("outcome",)),
    "xnemo_quarantined_total": ("Counter", "Damaged stretches found by preprocessing.", ()),
    "xnemo_pending_seconds": ("Gauge", "Seconds of source that are not processed yet.", ()),
    "xnemo_training": ("Gauge", "1 while a run trains, 0 once it has ended.", ("run",)),
    "xnemo_samples_seen": ("Gauge", "Position of a run in samples.", ("run",)),
    "xnemo_samples_per_second": ("Gauge", "Speed over all workers.", ("run",)),
    "xnemo_data_wait_percent": ("Gauge", "Share of time that training waits for data.", ("run",)),
    "xnemo_loss": ("Gauge", "Total training loss.", ("run",)),
    "xnemo_latent_std": ("Gauge", "Deviation of the motion latent over frames.", ("run",)),
    "xnemo_peak_memory_bytes": (
        "Gauge",
        "Peak memory of the main worker: of its GPU, or resident on a CPU.",
        ("run",),
    ),
    "xnemo_checkpoint_timestamp_seconds": (
        "Gauge",
        "Unix time of a run's last checkpoint.",
        ("run",),
    ),
}


def record(name: str, value: float, **labels: str) -> None:
    """Add to a counter or set a gauge, in a process that is connected to Ray."""
    metric = _metric(name)
    if METRICS[name][0] == "Gauge":
        metric.set(value, labels)
    elif value > 0:
        metric.inc(value, labels)


@cache
def _metric(name: str) -> Any:
    from ray.util import metrics

    kind, meaning, labels = METRICS[name]
    return getattr(metrics, kind)(name, meaning, labels)
