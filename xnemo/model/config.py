"""Configuration of the whole network, and its presets."""

from dataclasses import dataclass, field, replace

from preprocessing.errors import UserError
from xnemo.model.frozen.autoencoder import FIXED, AutoencoderConfig
from xnemo.model.frozen.image_embedding import ImageEmbeddingConfig
from xnemo.model.gan.discriminator import DiscriminatorConfig
from xnemo.model.gan.gan_head import GanHeadConfig
from xnemo.model.motion.config import MotionEncoderConfig
from xnemo.model.unet.config import UNetConfig

__all__ = [
    "FrozenPaths",
    "MotionEncoderConfig",
    "NetworkConfig",
    "UNetConfig",
    "full",
    "mini",
    "small",
    "tiny",
]


@dataclass(frozen=True)
class NetworkConfig:
    """Shapes of all parts, checked for consistency."""

    # Side of the generated image in pixels; a multiple of the autoencoder's factor.
    image_size: int = 512
    # The denoiser and the reference network.
    unet: UNetConfig = field(default_factory=UNetConfig)
    # The motion encoder.
    motion: MotionEncoderConfig = field(default_factory=MotionEncoderConfig)
    # The GAN head; used in training only.
    gan: GanHeadConfig = field(default_factory=GanHeadConfig)
    # The discriminator of the GAN head; used in training only.
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    # The frozen autoencoder.
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    # The frozen image embedding.
    image_embedding: ImageEmbeddingConfig = field(default_factory=ImageEmbeddingConfig)

    def __post_init__(self) -> None:
        motion, gan = self.motion, self.gan
        gan_source = {"face": motion.latent_width, "fused": motion.tokens * motion.token_width}
        pairs = [
            (
                ("unet.latent_channels", self.unet.latent_channels),
                ("the autoencoder's channels", self.autoencoder.latent_channels),
            ),
            (
                ("unet.image_embedding_width", self.unet.image_embedding_width),
                ("image_embedding.width", self.image_embedding.width),
            ),
            (
                ("unet.motion_width", self.unet.motion_width),
                ("motion.token_width", motion.token_width),
            ),
            (
                ("gan.motion_dim", gan.motion_dim),
                (f"the motion encoder's {gan.motion_source} width", gan_source[gan.motion_source]),
            ),
        ]
        for (name, value), (other, expected) in pairs:
            if value != expected:
                raise UserError(
                    f"{name} = {value}, but {other} = {expected}", f"set {name} to {expected}"
                )
        if self.image_size < 1 or self.image_size % self.autoencoder.factor:
            raise UserError(
                f"image_size = {self.image_size}",
                f"use a multiple of the autoencoder's factor, {self.autoencoder.factor}",
            )
        if self.latent_size < 2 ** (len(self.unet.widths) - 1):
            raise UserError(
                f"image_size = {self.image_size} gives latents of {self.latent_size} cells a side,"
                f" too few for {len(self.unet.widths)} levels",
                "use a larger image_size or fewer unet.widths",
            )

    @property
    def latent_size(self) -> int:
        """Side of a latent in cells."""
        return self.image_size // self.autoencoder.factor


@dataclass(frozen=True)
class FrozenPaths:
    """Locations of the frozen parts on this machine.

    A saved model names the locations that it was trained with; these replace them.
    """

    # Local folder or hub name of the autoencoder's weights; None keeps the model's own.
    autoencoder: str | None = None
    # The same for the image embedding.
    image_embedding: str | None = None

    def apply_to(self, config: NetworkConfig) -> NetworkConfig:
        """Return the configuration with these locations; parts without weights are unchanged."""
        autoencoder, image_embedding = config.autoencoder, config.image_embedding
        if self.autoencoder and autoencoder.kind not in FIXED:
            autoencoder = replace(autoencoder, path=self.autoencoder, subfolder=None)
        if self.image_embedding and image_embedding.kind == "clip":
            image_embedding = replace(image_embedding, path=self.image_embedding, subfolder=None)
        return replace(config, autoencoder=autoencoder, image_embedding=image_embedding)


def full() -> NetworkConfig:
    """Return the published network: 512², Stable Diffusion 1.x widths, SVD autoencoder, CLIP."""
    return NetworkConfig(
        autoencoder=AutoencoderConfig(
            kind="temporal", path="stabilityai/stable-video-diffusion-img2vid-xt", scale=0.18215
        )
    )


def small() -> NetworkConfig:
    """Return a narrower network at 256² for one GPU, with Stable Diffusion's autoencoder."""
    return NetworkConfig(
        image_size=256,
        unet=UNetConfig(widths=(96, 192, 320, 320), max_frames=24, norm_groups=1, use_2d_rope=True),
        motion=MotionEncoderConfig(
            image_size=128,
            stem_width=32,
            attention_width=256,
            latent_width=256,
            standardise=True,
        ),
        gan=GanHeadConfig(
            image_size=128, widths=(32, 64, 128, 256, 256), motion_dim=256, appearance_dim=256
        ),
        discriminator=DiscriminatorConfig(width=32, max_width=256),
        autoencoder=AutoencoderConfig(scale=0.18215),
    )


def mini() -> NetworkConfig:
    """Return `tiny` with a wider denoiser and driving crops in which eyes and mouth are seen."""
    base = tiny()
    return replace(
        base,
        unet=replace(base.unet, widths=(64, 128)),
        motion=replace(base.motion, image_size=64, hourglass_depth=3),
    )


def tiny() -> NetworkConfig:
    """Return a network with all parts at 64² that trains on a CPU without pretrained weights."""
    return NetworkConfig(
        image_size=64,
        unet=UNetConfig(
            latent_channels=12,
            widths=(48, 48),
            # At every level: coarse levels alone carry no detail of the reference.
            attention=(True, True),
            layers=1,
            heads=2,
            # One group: several would remove the mean of each part of the latents.
            norm_groups=1,
            module_norm_groups=16,
            image_embedding_width=48,
            temporal=False,
            max_frames=16,
            use_2d_rope=True,
        ),
        motion=MotionEncoderConfig(
            image_size=32,
            stem_width=16,
            heatmaps=32,
            hourglass_depth=1,
            attention_width=64,
            attention_heads=4,
            norm_groups=16,
            latent_width=128,
            box_width=32,
            tokens=8,
            token_width=16,
            dropout=0.0,
            standardise=True,
        ),
        gan=GanHeadConfig(image_size=32, widths=(16, 32, 64), motion_dim=128, appearance_dim=64),
        discriminator=DiscriminatorConfig(scales=1, width=16, max_width=64, layers=2),
        # Motion is of a few pixels; coarser cells could not follow it by shifting.
        autoencoder=AutoencoderConfig(kind="block_dct", path=None, factor=4, dct_kept=(8, 2)),
        image_embedding=ImageEmbeddingConfig(kind="pooled", path=None, subfolder=None, width=48),
    )
