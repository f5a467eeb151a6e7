"""The smallest run with every part in it: milliseconds a step, all code paths of training."""

from typing import Any

from xnemo.config import override
from xnemo.data.config import DataConfig
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.model.config import MotionEncoderConfig, NetworkConfig, UNetConfig
from xnemo.model.frozen.autoencoder import AutoencoderConfig
from xnemo.model.frozen.image_embedding import ImageEmbeddingConfig
from xnemo.model.gan.discriminator import DiscriminatorConfig
from xnemo.model.gan.gan_head import GanHeadConfig
from xnemo.training.config import CheckpointConfig, LossConfig, OptimizerConfig, TrainConfig


def nano_network(**unet: Any) -> NetworkConfig:
    """Return a network of every part at 16 pixels."""
    return NetworkConfig(
        image_size=16,
        unet=UNetConfig(
            latent_channels=48, widths=(16, 16), attention=(False, True), layers=1, heads=2,
            norm_groups=4, module_norm_groups=4, image_embedding_width=12, motion_width=8,
            max_frames=8, **{"temporal": False, **unet},
        ),
        motion=MotionEncoderConfig(
            image_size=16, stem_width=4, heatmaps=4, hourglass_depth=1, attention_width=16,
            attention_heads=2, norm_groups=4, latent_width=16, box_width=8, tokens=4, token_width=8,
            dropout=0.5,
        ),
        gan=GanHeadConfig(image_size=16, widths=(4, 8), motion_dim=16, appearance_dim=8),
        discriminator=DiscriminatorConfig(scales=1, width=4, max_width=8, layers=1),
        autoencoder=AutoencoderConfig(kind="space_to_depth", path=None, factor=4),
        image_embedding=ImageEmbeddingConfig(kind="pooled", path=None, subfolder=None, width=12),
    )  # fmt: skip


def nano_config(**changes: Any) -> TrainConfig:
    """Return a run of 12 steps of 4 samples, with dotted changes (`__` for the dot)."""
    config = TrainConfig(
        network=nano_network(),
        diffusion=DiffusionConfig(prediction_type="v_prediction", zero_terminal_snr=True),
        data=DataConfig(threads=1, prefetch=1),
        loss=LossConfig(perceptual=0.0),
        optimizer=OptimizerConfig(lr=1e-3, gan_lr=1e-3, discriminator_lr=1e-3, warmup_samples=16),
        checkpoint=CheckpointConfig(every_samples=4, keep_last=20),
        samples=48,
        global_batch=4,
        micro_batch=4,
        log_every=1,
    )
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return override(config, {"engine.peak_tflops": 1.0, **dotted})
