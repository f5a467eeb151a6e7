"""Frozen autoencoders between pictures and latents, by one interface."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from preprocessing.errors import UserError
from xnemo.model.frozen.block_dct import BlockDct
from xnemo.model.frozen.frozen_autoencoder import FrozenAutoencoder
from xnemo.model.frozen.pretrained_folder import load_pretrained

KINDS = ("space_to_depth", "block_dct", "kl", "tiny", "temporal")
# These need no weights.
FIXED = ("space_to_depth", "block_dct")
RANDOM = "random"


@dataclass(frozen=True)
class AutoencoderConfig:
    """Which autoencoder, and from where; `make_autoencoder(config)` builds it."""

    # "space_to_depth": a fixed rearrangement of pixels, no weights; "block_dct": the low
    # frequencies of square blocks of pixels, no weights; "kl": Stable Diffusion's AutoencoderKL;
    # "tiny": AutoencoderTiny; "temporal": Stable Video Diffusion's, whose decoder sees neighbouring
    # frames (what the X-NeMo release uses).
    kind: Literal["space_to_depth", "block_dct", "kl", "tiny", "temporal"] = "kl"
    # Local folder or hub name of the weights ("random" for an untrained one of Stable Diffusion's
    # shape, to test and to measure). Unused by the kinds without weights.
    path: str | None = "stabilityai/sd-vae-ft-mse"
    # Folder inside `path`, such as "vae" of a whole pipeline; a folder "vae" is found by itself.
    subfolder: str | None = None
    # Pixels per latent cell and side. The learned ones are 8 whatever stands here.
    factor: int = 8
    # Multiplies latents so that their deviation is near one. 0.18215 belongs to SD 1.x; None takes
    # the weights' own, 2.0 for "space_to_depth" (pixels in [-1, 1] deviate by about a half; a
    # power of two keeps the inverse exact), or 0.5 for "block_dct".
    scale: float | None = None
    # Frequencies that "block_dct" keeps of brightness and of each of two colour differences,
    # lowest first.
    dct_kept: tuple[int, int] = (24, 4)
    # Frames decoded at once; the temporal decoder also sees just these together.
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
        if self.factor < 1 or self.decode_chunk < 1:
            raise UserError(
                f"autoencoder.factor = {self.factor}, decode_chunk = {self.decode_chunk}",
                "use 1 or more for both",
            )
        if self.kind not in FIXED and self.factor != 8:
            raise UserError(
                f"autoencoder.factor = {self.factor} with kind {self.kind!r}",
                "leave it at 8: the learned autoencoders know no other",
            )

    @property
    def latent_channels(self) -> int:
        """Channels of a latent: 4 for the learned ones, what is kept of a block for the others."""
        if self.kind == "block_dct":
            return self.dct_kept[0] + 2 * self.dct_kept[1]
        return 3 * self.factor**2 if self.kind == "space_to_depth" else 4


class Autoencoder(Protocol):
    """Picture to scaled latent and back. Never trained."""

    latent_channels: int
    factor: int

    def encode(self, image_BCHW: Tensor) -> Tensor:
        """Return latents (B, latent_channels, H/factor, W/factor) of pictures in [-1, 1]."""
        ...

    def decode(self, z_BChw: Tensor) -> Tensor:
        """Return the (B, 3, H, W) pictures of latents, about in [-1, 1]."""
        ...

    def decode_chunks(self, z_BCFhw: Tensor) -> Iterator[Tensor]:
        """Yield (B, 3, f, H, W) pieces of the clip in order, a bounded number of frames each."""
        ...

    def decode_video(self, z_BCFhw: Tensor) -> Tensor:
        """Return all frames (B, 3, F, H, W) at once."""
        ...


class SpaceToDepth(FrozenAutoencoder):
    """Move each factor×factor square of pixels into channels: orthonormal, no weights, exact.

    Diffusion on these latents is diffusion on pixels, seen through a coarser grid; a mean squared
    error is the same in both.
    """

    def __init__(self, factor: int, scale: float, decode_chunk: int) -> None:
        super().__init__()
        self.factor, self.scale, self.decode_chunk = factor, scale, decode_chunk
        self.latent_channels = 3 * factor**2

    def encode(self, image_BCHW: Tensor) -> Tensor:
        """Return latents (B, 3·factor², H/factor, W/factor)."""
        return F.pixel_unshuffle(image_BCHW, self.factor) * self.scale

    def decode(self, z_BChw: Tensor) -> Tensor:
        """Return the pictures whose latents these are."""
        return F.pixel_shuffle(z_BChw / self.scale, self.factor)


class LearnedAutoencoder(FrozenAutoencoder):
    """A diffusers autoencoder, frozen: encoding takes the mean of the distribution.

    Pictures and latents may be elsewhere than the model, and go back where they came from: a
    pipeline that keeps one part at a time on the GPU moves the model in between.
    """

    def __init__(self, model: Any, temporal: bool, scale: float, decode_chunk: int) -> None:
        super().__init__()
        self.model: Any = model.requires_grad_(False).eval()
        self.temporal, self.scale, self.decode_chunk = temporal, scale, decode_chunk
        self.latent_channels, self.factor = 4, 8

    @torch.no_grad()
    def encode(self, image_BCHW: Tensor) -> Tensor:
        """Return scaled mean latents (B, 4, H/8, W/8)."""
        self._be_in_place()
        dtype = self._weight.dtype
        # Encoders of this family overflow in fp16, and say so. It is done once a video.
        if dtype == torch.float16 and getattr(self.model.config, "force_upcast", False):
            self.model.float()
        encoded = self.model.encode(image_BCHW.to(self._weight))
        self.model.to(dtype)
        z = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latents
        return z.to(image_BCHW) * self.scale

    @torch.no_grad()
    def decode(self, z_BChw: Tensor) -> Tensor:
        """Return pictures; the temporal kind takes each as a clip of one frame."""
        return self._decode(z_BChw, num_frames=1)

    @torch.no_grad()
    def decode_chunks(self, z_BCFhw: Tensor) -> Iterator[Tensor]:
        """Yield (B, 3, f, H, W) pieces; frames of a piece see each other in the temporal kind."""
        for z in z_BCFhw.split(self.decode_chunk, dim=2):
            frames = z.transpose(1, 2).flatten(0, 1)
            x = self._decode(frames, num_frames=z.shape[2])
            yield x.unflatten(0, (z.shape[0], z.shape[2])).transpose(1, 2)

    @property
    def _weight(self) -> Tensor:
        """Any of the weights: it has the device and the type of all."""
        weight: Tensor = next(self.model.parameters())
        return weight

    def _be_in_place(self) -> None:
        """Run the hook of an offloading pipeline, which awaits a call of `forward`."""
        hook: Any = getattr(self, "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(self)

    def _decode(self, z_NChw: Tensor, num_frames: int) -> Tensor:
        self._be_in_place()
        z = (z_NChw / self.scale).to(self._weight)
        options = {"num_frames": num_frames} if self.temporal else {}
        return self.model.decode(z, **options).sample.to(z_NChw)


def make_autoencoder(config: AutoencoderConfig) -> Autoencoder:
    """Build the frozen autoencoder of a config, in evaluation mode and fp32.

    Raises:
        UserError: Where the weights can be read neither from a folder nor from the hub.
    """
    if config.kind == "space_to_depth":
        scale = 2.0 if config.scale is None else config.scale
        return SpaceToDepth(config.factor, scale, config.decode_chunk).eval()
    if config.kind == "block_dct":
        scale = 0.5 if config.scale is None else config.scale
        return BlockDct(config.factor, config.dct_kept, scale, config.decode_chunk).eval()

    from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, AutoencoderTiny

    model_class: Any = {
        "kl": AutoencoderKL,
        "tiny": AutoencoderTiny,
        "temporal": AutoencoderKLTemporalDecoder,
    }[config.kind]
    assert config.path is not None  # the config has seen to it
    if config.path == RANDOM:
        model = model_class(**_stable_diffusion_shape(config.kind))
    else:
        model = load_pretrained(
            model_class, config.path, config.subfolder, "vae", field="autoencoder.path"
        )
    scale = model.config.scaling_factor if config.scale is None else config.scale
    return LearnedAutoencoder(model, config.kind == "temporal", scale, config.decode_chunk).eval()


def _stable_diffusion_shape(kind: str) -> dict[str, object]:
    """Constructor arguments that give Stable Diffusion's sizes; diffusers' defaults are smaller."""
    if kind == "tiny":
        return {}
    shape: dict[str, object] = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "layers_per_block": 2,
    }
    return shape if kind == "temporal" else shape | {"up_block_types": ("UpDecoderBlock2D",) * 4}
