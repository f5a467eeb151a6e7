"""The frozen image embedding that both UNets cross-attend to."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preprocessing.errors import UserError
from xnemo.model.frozen.autoencoder import RANDOM
from xnemo.model.frozen.pretrained_folder import load_pretrained

CLIP_SIDE = 224
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageEmbeddingConfig:
    """Kind and weights of the embedding; `make_image_embedding(config)` builds it."""

    # "clip": CLIP's vision tower with projection, as in the X-NeMo release; "pooled": the image
    # averaged to a few cells, no weights.
    kind: Literal["clip", "pooled"] = "clip"
    # Local folder or hub name of the weights ("random": untrained ViT-L/14, for tests and
    # benchmarks). Unused by "pooled".
    path: str | None = "lambdalabs/sd-image-variations-diffusers"
    # Folder inside `path`; a folder "image_encoder" of a local pipeline is found automatically.
    subfolder: str | None = "image_encoder"
    # Width of the token: 768 for CLIP ViT-L/14. Must equal the UNets' cross-attention width.
    width: int = 768

    def __post_init__(self) -> None:
        if self.kind not in ("clip", "pooled"):
            raise UserError(
                f"image_embedding.kind = {self.kind!r} is unknown", "use clip or pooled"
            )
        if self.width < 3:
            raise UserError(f"image_embedding.width = {self.width}", "use 3 or more")
        if self.kind == "clip" and not self.path:
            raise UserError(
                "image_embedding.kind = 'clip' needs weights and image_embedding.path is empty",
                "set image_embedding.path to a folder, or use kind pooled",
            )


class ImageEmbedding(nn.Module):
    """Images in [-1, 1] of any size to tokens (B, 1, width). Never trained.

    The unconditional branch of guidance replaces the token by zeros.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def train(self, mode: bool = True) -> "ImageEmbedding":
        """Stay in evaluation mode, also as part of a network in training."""
        return super().train(False)


class PooledEmbedding(ImageEmbedding):
    """Average of the image over the finest square grid that fits the width, padded with zeros."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.side = math.isqrt(width // 3)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return tokens (B, 1, width)."""
        cells = F.adaptive_avg_pool2d(image_BCHW, self.side).flatten(1)
        return F.pad(cells, (0, self.width - cells.shape[1]))[:, None]


class ClipEmbedding(ImageEmbedding):
    """CLIP's projected image embedding as one token."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__(width)
        self.model = model.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD).view(3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return tokens (B, 1, width)."""
        x = image_BCHW.float()
        if x.shape[-2:] != (CLIP_SIDE, CLIP_SIDE):
            # Antialiased bicubic, as PIL's resize in the release.
            x = F.interpolate(x, (CLIP_SIDE, CLIP_SIDE), mode="bicubic", antialias=True)
            x = x.clamp(-1, 1)
        x = ((x + 1) / 2 - self.mean) / self.std
        dtype = next(self.model.parameters()).dtype
        return self.model(x.to(dtype)).image_embeds.to(image_BCHW.dtype)[:, None]


def make_image_embedding(config: ImageEmbeddingConfig) -> ImageEmbedding:
    """Build the frozen embedding of a config, in evaluation mode and fp32.

    Raises:
        UserError: The weights cannot be loaded, or their width differs from the config's.
    """
    if config.kind == "pooled":
        return PooledEmbedding(config.width).eval()

    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    assert config.path is not None  # checked by the config
    if config.path == RANDOM:
        shape = CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            patch_size=14,
            projection_dim=config.width,
        )
        model = CLIPVisionModelWithProjection(shape)
    else:
        model = load_pretrained(
            CLIPVisionModelWithProjection,
            config.path,
            config.subfolder,
            "image_encoder",
            field="image_embedding.path",
        )
    if model.config.projection_dim != config.width:
        raise UserError(
            f"image_embedding.width = {config.width}, but {config.path!r} projects to"
            f" {model.config.projection_dim}",
            f"set image_embedding.width to {model.config.projection_dim}",
        )
    return ClipEmbedding(model, config.width).eval()
