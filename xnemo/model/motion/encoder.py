"""The motion encoder: a face crop and its position, compressed to tokens without spatial axes."""

from dataclasses import fields
from typing import NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from xnemo.model.layers.position_embeddings import token_table
from xnemo.model.layers.strict_model import StrictModelMixin
from xnemo.model.motion.config import MotionEncoderConfig
from xnemo.model.motion.face_alignment_backbone import FaceAlignmentBackbone, Hourglass


class MotionLatent(NamedTuple):
    """Output of the motion encoder; leading axes are (B,) or (B, F)."""

    # (..., tokens, token_width): read by the denoiser's motion modules.
    tokens: Tensor
    # (..., latent_width): motion inside the crop, without position and scale.
    face: Tensor
    # (..., tokens × token_width): with position and scale, before the position table.
    fused: Tensor


class MotionEncoder(StrictModelMixin, ConfigMixin):  # type: ignore[misc]
    """Encode driving crops frame by frame; arguments are the fields of `MotionEncoderConfig`.

    The architecture is that of the release (a FAN network, as in PC-AVS and PD-FGC, with patch
    attention). Batch norms are plain `nn.BatchNorm2d`; convert the model with
    `torch.nn.SyncBatchNorm.convert_sync_batchnorm` to share statistics between GPUs. Gradient
    checkpointing covers the patch attentions, which hold most of the activations, but not the batch
    norms, whose running statistics a second forward would update twice.
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
        config = MotionEncoderConfig(
            **{field.name: self.config[field.name] for field in fields(MotionEncoderConfig)}
        )
        self.register_buffer("pe", token_table(tokens, token_width)[None])
        self.model = FaceAlignmentBackbone(config)
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
            box: (B, 3), or (B, F, 3): vertical and horizontal offset of the face centre from the
                reference, and its size, in units of the reference face's size; (0, 0, 1) is the
                position of the reference.
        """
        if image.ndim == 5:
            batch, frames = image.shape[0], image.shape[2]
            folded = self.place(
                self._encode_face(image.transpose(1, 2).flatten(0, 1)), box.flatten(0, 1)
            )
            return MotionLatent(*(part.unflatten(0, (batch, frames)) for part in folded))
        return self.place(self._encode_face(image), box)

    def _encode_face(self, image: Tensor) -> Tensor:
        """Return `MotionLatent.face` of crops (N, 3, S, S)."""
        if image.shape[-2:] != (self.side, self.side):
            raise ValueError(
                f"driving crops are {tuple(image.shape[-2:])}, not {self.side}×{self.side}"
            )
        return self._standardised("face", self.model(image))

    def place(self, face: Tensor, box: Tensor) -> MotionLatent:
        """Return the latent of faces (N, latent_width) at positions (N, 3)."""
        position = self.bbox_proj(self._standardised("box", box))
        fused = self._standardised("fused", self.final_proj(torch.cat([face, position], dim=1)))
        tokens = fused.unflatten(1, self.pe.shape[1:]) + self.pe.to(fused.dtype)
        return MotionLatent(tokens, face, fused)

    def _standardised(self, name: str, vector_ND: Tensor) -> Tensor:
        if self.standards is None:
            return vector_ND
        return self.standards[name](vector_ND[:, :, None, None]).flatten(1)

    def freeze_statistics(self, frozen: bool = True) -> None:
        """Keep batch norms and dropout in evaluation mode, also after `train()`.

        For the temporal stage and for fine-tuning on few samples, where small, heavily augmented
        batches would corrupt the running statistics. Gradients still flow.
        """
        self.statistics_frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> "MotionEncoder":
        """Set training mode, except for what `freeze_statistics` keeps in evaluation mode."""
        super().train(mode)
        if getattr(self, "statistics_frozen", False):
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm | Hourglass):
                    module.eval()
        return self
