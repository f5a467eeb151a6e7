"""Configuration and construction of the frozen autoencoder."""

from dataclasses import dataclass
from typing import Any, Literal

from preprocessing.errors import UserError
from xnemo.model.frozen.autoencoder_kinds import (
    Autoencoder,
    BlockDct,
    LearnedAutoencoder,
    SpaceToDepth,
)
from xnemo.model.frozen.pretrained_folder import load_pretrained

KINDS = ("space_to_depth", "block_dct", "kl", "tiny", "dc", "temporal")
# Kinds without weights.
FIXED = ("space_to_depth", "block_dct")
RANDOM = "random"


@dataclass(frozen=True)
class AutoencoderConfig:
    """Kind and weights of the autoencoder; `make_autoencoder(config)` builds it."""

    # "space_to_depth": a fixed rearrangement of pixels, no weights; "block_dct": the low
    # frequencies of square blocks of pixels, no weights; "kl": Stable Diffusion's AutoencoderKL;
    # "tiny": AutoencoderTiny; "dc": AutoencoderDC; "temporal": Stable Video Diffusion's, whose
    # decoder uses neighbouring frames (as the X-NeMo release does).
    kind: Literal["space_to_depth", "block_dct", "kl", "tiny", "dc", "temporal"] = "kl"
    # Local folder or hub name of the weights ("random": untrained, of Stable Diffusion's shape, for
    # tests and benchmarks). Unused by the kinds without weights.
    path: str | None = "stabilityai/sd-vae-ft-mse"
    # Folder inside `path`; a folder "vae" of a local pipeline is found automatically.
    subfolder: str | None = None
    # Pixels per latent cell and side; 8 for the learned kinds.
    factor: int = 8
    # Channels of a latent of the learned kinds; Stable Diffusion's have 4.
    channels: int = 4
    # Multiplies latents so that their standard deviation is near 1. SD 1.x has 0.18215; None takes
    # the weights' own, 2.0 for "space_to_depth" (pixels in [-1, 1] have a standard deviation of
    # about 0.5; a power of two keeps the inverse exact), or 0.5 for "block_dct".
    scale: float | None = None
    # Number of frequencies that "block_dct" keeps of brightness and of each of two colour
    # differences, lowest first.
    dct_kept: tuple[int, int] = (24, 4)
    # Frames decoded at once; the temporal decoder decodes these jointly.
    decode_chunk: int = 25

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"autoencoder.kind = {self.kind!r} is unknown", f"use one of {KINDS}")
        if self.kind not in FIXED and not self.path:
            raise UserError(
                f"autoencoder.kind = {self.kind!r} needs weights and autoencoder.path is empty",
                "set autoencoder.path to a folder, or use kind space_to_depth",
            )
        within = all(1 <= kept <= self.factor**2 for kept in self.dct_kept)
        if self.kind == "block_dct" and not within:
            raise UserError(
                f"autoencoder.dct_kept = {self.dct_kept} with factor = {self.factor}",
                f"use counts from 1 to {self.factor**2}",
            )
        if min(self.factor, self.channels, self.decode_chunk) < 1:
            raise UserError(
                f"autoencoder.factor = {self.factor}, channels = {self.channels}, "
                f"decode_chunk = {self.decode_chunk}",
                "use 1 or more for each",
            )
        if self.kind not in FIXED and self.factor != 8:
            raise UserError(
                f"autoencoder.factor = {self.factor} with kind {self.kind!r}",
                "leave it at 8, the factor of all learned autoencoders",
            )

    @property
    def latent_channels(self) -> int:
        """Channels of a latent; for the kinds without weights, numbers kept per block."""
        if self.kind == "block_dct":
            return self.dct_kept[0] + 2 * self.dct_kept[1]
        return 3 * self.factor**2 if self.kind == "space_to_depth" else self.channels


def make_autoencoder(config: AutoencoderConfig) -> Autoencoder:
    """Build the frozen autoencoder of a config, in evaluation mode and fp32.

    Raises:
        UserError: The weights can be loaded neither from a folder nor from the hub, or their
            latents have another number of channels.
    """
    if config.kind == "space_to_depth":
        scale = 2.0 if config.scale is None else config.scale
        return SpaceToDepth(config.factor, scale, config.decode_chunk).eval()
    if config.kind == "block_dct":
        scale = 0.5 if config.scale is None else config.scale
        return BlockDct(config.factor, config.dct_kept, scale, config.decode_chunk).eval()

    from diffusers import (
        AutoencoderDC,
        AutoencoderKL,
        AutoencoderKLTemporalDecoder,
        AutoencoderTiny,
    )

    model_class: Any = {
        "kl": AutoencoderKL,
        "tiny": AutoencoderTiny,
        "dc": AutoencoderDC,
        "temporal": AutoencoderKLTemporalDecoder,
    }[config.kind]
    assert config.path is not None  # checked by the config
    if config.path == RANDOM:
        model = model_class(**_random_shape(config))
    else:
        model = load_pretrained(
            model_class, config.path, config.subfolder, "vae", field="autoencoder.path"
        )
    if model.config.latent_channels != config.channels:
        raise UserError(
            f"autoencoder.channels = {config.channels}, but the latents of {config.path!r} have "
            f"{model.config.latent_channels} channels",
            f"set autoencoder.channels and unet.latent_channels to {model.config.latent_channels}",
        )
    scale = model.config.scaling_factor if config.scale is None else config.scale
    return LearnedAutoencoder(model, config.kind == "temporal", scale, config.decode_chunk).eval()


def small_dc_shape(channels: int) -> dict[str, Any]:
    """Return AutoencoderDC's constructor arguments of a small autoencoder, factor 8.

    Only convolutions, at a half to an eighth of the image's side: 128² images take 1.2 GFLOP to
    encode and 1.7 to decode.
    """
    widths, none = (32, 32, 64, 128), ((),) * 4
    return {
        "latent_channels": channels,
        "encoder_block_out_channels": widths,
        "decoder_block_out_channels": widths,
        "encoder_layers_per_block": (0, 1, 2, 2),
        "decoder_layers_per_block": (0, 1, 3, 3),
        "encoder_qkv_multiscales": none,
        "decoder_qkv_multiscales": none,
    }


def _random_shape(config: AutoencoderConfig) -> dict[str, Any]:
    """Return the constructor arguments of Stable Diffusion's sizes, which are not the defaults."""
    if config.kind == "dc":
        return small_dc_shape(config.channels)
    if config.kind == "tiny":
        return {"latent_channels": config.channels}
    shape: dict[str, Any] = {
        "latent_channels": config.channels,
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "layers_per_block": 2,
    }
    return (
        shape
        if config.kind == "temporal"
        else shape | {"up_block_types": ("UpDecoderBlock2D",) * 4}
    )
