"""The course of the learning rate: a pure function of the samples seen."""

import math

from xnemo.training.optimizer_config import OptimizerConfig


def learning_rate_scale(config: OptimizerConfig, samples_seen: int, total: int) -> float:
    """Return the factor on the configured learning rate for the step after `samples_seen`."""
    if samples_seen < config.warmup_samples:
        return (samples_seen + 1) / config.warmup_samples
    if config.schedule == "constant":
        return 1.0
    length = max(1, total - config.warmup_samples)
    progress = min(1.0, (samples_seen - config.warmup_samples) / length)
    left = 1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.final_share + (1 - config.final_share) * left
