"""Samples and batches, from the loader to a training step."""

# ruff: noqa: N815 - shapes in field names

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One sample; images are uint8 RGB (frames, height, width, channels).

    Sides in pixels: S of the networks, D of the motion encoder's input, G of the GAN head.

    Attributes:
        index: number of the sample in the run.
        key: its clip.
        reference: (1, S, S, 3) wide crop.
        target: (F, S, S, 3) wide crops.
        driving: (F, D, D, 3) augmented tight crops of the targets.
        reference_pose: (1, D, D, 3) tight crop of the reference, the source of the null motion.
        head_reference: (1, G, G, 3) input of the GAN head; None without one.
        head_target: (F, G, G, 3) target of the GAN head, not augmented; None without one.
        box_F3: (dy, dx, scale) of each target face relative to the reference face.
        motion_FK: `motion_numbers` of the driving frames, or None.
        faults: why the samples that this one replaces cannot be read.
    """

    index: int
    key: str
    reference: NDArray[np.uint8]
    target: NDArray[np.uint8]
    driving: NDArray[np.uint8]
    reference_pose: NDArray[np.uint8]
    head_reference: NDArray[np.uint8] | None
    head_target: NDArray[np.uint8] | None
    box_F3: NDArray[np.float32]
    motion_FK: NDArray[np.float32] | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Samples stacked with channels first, as in `Sample`.

    Images are uint8 after `collate`, for cheap pinning and copying, and float32 in [-1, 1] after
    `to`.
    """

    keys: tuple[str, ...]
    faults: tuple[str, ...]
    sample_index_B: Tensor
    reference_BCHW: Tensor
    target_BCFHW: Tensor
    driving_BCFHW: Tensor
    reference_pose_BCHW: Tensor
    head_reference_BCHW: Tensor | None
    head_target_BCFHW: Tensor | None
    box_BF3: Tensor
    motion_BFK: Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """Move to `device` and convert images to float32 in [-1, 1]."""
        moved = {
            name: value.to(device, non_blocking=True) for name, value in self._tensors().items()
        }
        for name, value in moved.items():
            if value.dtype == torch.uint8:
                moved[name] = value.float().div_(127.5).sub_(1)
        return replace(self, **cast(Any, moved))

    def pin_memory(self) -> "Batch":
        """Return a copy in page-locked memory, for torch's DataLoader."""
        pinned = {name: value.pin_memory() for name, value in self._tensors().items()}
        return replace(self, **cast(Any, pinned))

    def __len__(self) -> int:
        return len(self.keys)

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of equal shapes into a batch."""
    motion = [s.motion_FK for s in samples if s.motion_FK is not None]
    return Batch(
        keys=tuple(s.key for s in samples),
        faults=tuple(fault for s in samples for fault in s.faults),
        sample_index_B=torch.tensor([s.index for s in samples], dtype=torch.int64),
        reference_BCHW=_images([s.reference for s in samples]).squeeze(2),
        target_BCFHW=_images([s.target for s in samples]),
        driving_BCFHW=_images([s.driving for s in samples]),
        reference_pose_BCHW=_images([s.reference_pose for s in samples]).squeeze(2),
        head_reference_BCHW=_optional([s.head_reference for s in samples], squeeze=True),
        head_target_BCFHW=_optional([s.head_target for s in samples], squeeze=False),
        box_BF3=torch.from_numpy(np.stack([s.box_F3 for s in samples])),
        motion_BFK=torch.from_numpy(np.stack(motion)) if motion else None,
    )


def _images(frames: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Stack (F, H, W, C) arrays into one contiguous (B, C, F, H, W) tensor."""
    return torch.from_numpy(np.stack(frames)).permute(0, 4, 1, 2, 3).contiguous()


def _optional(frames: Sequence[NDArray[np.uint8] | None], *, squeeze: bool) -> Tensor | None:
    present = [f for f in frames if f is not None]
    if not present:
        return None
    images = _images(present)
    return images.squeeze(2) if squeeze else images
