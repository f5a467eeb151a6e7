"""Settings of a training run, one dataclass per section."""

from xnemo.training.config.losses import ConditionConfig, LossConfig
from xnemo.training.config.optimizer import EmaConfig, OptimizerConfig
from xnemo.training.config.run import (
    CheckpointConfig,
    EngineConfig,
    GuardConfig,
    ValidationConfig,
)
from xnemo.training.config.train import TrainConfig, with_max_steps

__all__ = [
    "CheckpointConfig",
    "ConditionConfig",
    "EmaConfig",
    "EngineConfig",
    "GuardConfig",
    "LossConfig",
    "OptimizerConfig",
    "TrainConfig",
    "ValidationConfig",
    "with_max_steps",
]
