"""The motion encoder: a face crop and its place, compressed to tokens without spatial axes."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from preprocessing.errors import UserError
from xnemo.model.layers.position_embeddings import token_table
from xnemo.model.motion.face_alignment_backbone import FaceAlignmentBackbone, Hourglass


@dataclass(frozen=True)
class MotionEncoderConfig:
    """Shape of the motion encoder; `MotionEncoder(**asdict(config))` builds it.

    The defaults are the published network.
    """

    # Side of the square driving crop in pixels; a multiple of 8.
    image_size: int = 224
    # Channels after the first convolution; the trunk has 2 and 4 times as many.
    stem_width: int = 64
    # Channels of the last map before it is flattened (68 facial landmarks in the ancestor).
    heatmaps: int = 68
    # Halvings inside the hourglass, which starts at image_size / 4.
    hourglass_depth: int = 4
    # Token width of the three patch attentions; a multiple of 16 and of attention_heads.
    attention_width: int = 1024
    # Heads of the patch attentions.
    attention_heads: int = 8
    # Groups of the patch attentions' entry norms.
    norm_groups: int = 32
    # Width of the face-motion vector, which also drives the GAN head.
    latent_width: int = 512
    # Width of the embedded face position and scale.
    box_width: int = 64
    # Number of motion tokens.
    tokens: int = 32
    # Width of a motion token; must equal the denoiser's motion_width.
    token_width: int = 16
    # Probability of dropping an activation in the hourglass while training (0.5 in the official
    # code; what the authors trained with is not published).
    dropout: float = 0.5
    # Standardise the box, the face-motion vector and the tokens over the batch, by batch norms
    # without weights, and the single channel that the vector passes through over its cells, before
    # it is rectified. The published network does not. Trained from fresh weights it needs it: both
    # heads first learn to ignore what is still noise, the channel falls below zero, on most frames
    # or on all but the most disturbed, and no gradient ever brings it back.
    standardise: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("dropout", "standardise") and value < 1:
                raise UserError(f"motion.{name} = {value}", "use 1 or more")
        if not 0 <= self.dropout < 1:
            raise UserError(f"motion.dropout = {self.dropout}", "use a value in [0, 1)")
        if self.image_size % 8 or self.image_size // 4 < 2**self.hourglass_depth:
            raise UserError(
                f"motion.image_size = {self.image_size} does not suit"
                f" hourglass_depth = {self.hourglass_depth}",
                f"use a multiple of 8, {4 * 2**self.hourglass_depth} or more, or less depth",
            )
        if self.attention_width % 16 or self.attention_width % self.attention_heads:
            raise UserError(
                f"motion.attention_width = {self.attention_width}",
                f"use a multiple of 16 and of attention_heads = {self.attention_heads}",
            )
        if self.stem_width % 2 or 2 * self.stem_width % self.norm_groups:
            raise UserError(
                f"motion.stem_width = {self.stem_width} with norm_groups = {self.norm_groups}",
                "use an even stem_width whose double is a multiple of norm_groups",
            )
        if self.token_width % 2:
            raise UserError(f"motion.token_width = {self.token_width}", "use an even width")


class MotionLatent(NamedTuple):
    """What the encoder says of each frame; leading axes are (B,) or (B, F)."""

    # (..., tokens, token_width): what the denoiser's motion modules attend to.
    tokens: Tensor
    # (..., latent_width): motion inside the crop, before position and scale are mixed in.
    face: Tensor
    # (..., tokens × token_width): position and scale mixed in, before the position table.
    fused: Tensor


class MotionEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Encode driving crops, each frame for itself; arguments are `MotionEncoderConfig`'s fields.

    Its batch norms are plain `nn.BatchNorm2d`: convert the model with
    `torch.nn.SyncBatchNorm.convert_sync_batchnorm` to share statistics between GPUs, and call
    `freeze_statistics` once the encoder is to stay as it is. Gradient checkpointing covers the
    patch attentions, which hold most of the activations, and leaves out the batch norms, whose
    running statistics a second forward would move twice.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ["PatchAttention"]  # noqa: RUF012
    pe: Tensor

    @register_to_config
    def __init__(
        self,
        image_size: int = 224,
        stem_width: int = 64,
        heatmaps: int = 68,
        hourglass_depth: int = 4,
        attention_width: int = 1024,
        attention_heads: int = 8,
        norm_groups: int = 32,
        latent_width: int = 512,
        box_width: int = 64,
        tokens: int = 32,
        token_width: int = 16,
        dropout: float = 0.5,
        standardise: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("pe", token_table(tokens, token_width)[None])
        self.model = FaceAlignmentBackbone(
            image_size,
            stem_width,
            heatmaps,
            hourglass_depth,
            attention_width,
            attention_heads,
            norm_groups,
            latent_width,
            dropout,
            standardise,
        )
        # The identity keeps the official indices 0 and 3 of the two linear layers.
        self.bbox_proj = nn.Sequential(
            nn.Linear(3, box_width), nn.ReLU(), nn.Identity(), nn.Linear(box_width, box_width)
        )
        self.final_proj = nn.Linear(latent_width + box_width, tokens * token_width)
        self.standards = (
            nn.ModuleDict(
                {
                    "box": nn.BatchNorm2d(3, eps=1e-8, affine=False),
                    "face": nn.BatchNorm2d(latent_width, eps=1e-8, affine=False),
                    "fused": nn.BatchNorm2d(tokens * token_width, eps=1e-8, affine=False),
                }
            )
            if standardise
            else None
        )
        self.side = image_size
        self.statistics_frozen = False

    def forward(self, image: Tensor, box: Tensor) -> MotionLatent:
        """Encode crops of one frame or of clips.

        Args:
            image: (B, 3, S, S), or (B, 3, F, S, S), RGB in [-1, 1], S = `image_size`.
            box: (B, 3), or (B, F, 3): vertical and horizontal shift of the face centre against
                the reference, and its size, all in units of the reference face's size;
                (0, 0, 1) where the face is where the reference has it.
        """
        if image.ndim == 5:
            batch, frames = image.shape[0], image.shape[2]
            folded = self._encode(image.transpose(1, 2).flatten(0, 1), box.flatten(0, 1))
            return MotionLatent(*(part.unflatten(0, (batch, frames)) for part in folded))
        return self._encode(image, box)

    def _encode(self, image: Tensor, box: Tensor) -> MotionLatent:
        if image.shape[-2:] != (self.side, self.side):
            raise ValueError(
                f"driving crops are {tuple(image.shape[-2:])}, not {self.side}×{self.side}"
            )
        face = self._standardised("face", self.model(image))
        place = self.bbox_proj(self._standardised("box", box))
        fused = self._standardised("fused", self.final_proj(torch.cat([face, place], dim=1)))
        tokens = fused.unflatten(1, self.pe.shape[1:]) + self.pe.to(fused.dtype)
        return MotionLatent(tokens, face, fused)

    def _standardised(self, name: str, vector_ND: Tensor) -> Tensor:
        if self.standards is None:
            return vector_ND
        return self.standards[name](vector_ND[:, :, None, None]).flatten(1)

    def freeze_statistics(self, frozen: bool = True) -> None:
        """Keep batch norms and dropout in evaluation mode, whatever `train()` says later.

        For the temporal stage and for fine-tuning on few samples, where the statistics of a small,
        heavily augmented batch would ruin the running ones. Gradients still flow.
        """
        self.statistics_frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> "MotionEncoder":
        """Set training mode, except where `freeze_statistics` holds the batch norms."""
        super().train(mode)
        if getattr(self, "statistics_frozen", False):
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm | Hourglass):
                    module.eval()
        return self
