"""Inputs of a training pass: latents, noise, timesteps and dropped conditions."""

# ruff: noqa: N815 - shapes in field names

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xnemo.data.batch import Batch
from xnemo.data.seeding import sample_rng, stream_seed
from xnemo.diffusion.schedule import NoiseSchedule
from xnemo.model.frozen.autoencoder_kinds import Autoencoder
from xnemo.model.frozen.image_embedding import ImageEmbedding
from xnemo.training.config import ConditionConfig


@dataclass(frozen=True)
class FrozenParts:
    """Frozen networks and the noise schedule."""

    autoencoder: Autoencoder
    image_embedding: ImageEmbedding
    schedule: NoiseSchedule


@dataclass(frozen=True)
class StepInputs:
    """The tensors of one forward pass, for B samples of F frames."""

    # Augmented driving crops; the reference's own crop where the condition is dropped.
    driving_BCFHW: Tensor
    # Face offset and scale (dy, dx, scale); (0, 0, 1) where the condition is dropped.
    box_BF3: Tensor
    # Latents of the reference.
    z_reference_BChw: Tensor
    # Image embeddings; zeros where the condition is dropped.
    image_embeddings_BLD: Tensor
    # Samples whose condition is not dropped, and whether these are all, known without waiting for
    # the device.
    present_B: Tensor
    all_present: bool
    # One seed per sample for reference feature masking.
    mask_seeds: tuple[int, ...]
    # Clean latents, noise, and noisy latents.
    z_BCFhw: Tensor
    noise_BCFhw: Tensor
    z_noisy_BCFhw: Tensor
    # Diffusion timestep of each sample.
    timesteps_B: Tensor
    # Reference and target of the GAN head, frames folded into the batch; None without it.
    head_reference_BCHW: Tensor | None
    head_target_NCHW: Tensor | None
    # Motion numbers of the driving frames; None without a motion readout.
    motion_BFK: Tensor | None = None

    def __len__(self) -> int:
        return len(self.driving_BCFHW)


@dataclass(frozen=True)
class MotionInputs:
    """The tensors of one forward pass of the motion stage, as in `StepInputs`."""

    driving_BCFHW: Tensor
    box_BF3: Tensor
    motion_BFK: Tensor | None

    @classmethod
    def of(cls, batch: Batch) -> "MotionInputs":
        """Return what the motion stage needs of a float batch."""
        return cls(batch.driving_BCFHW, batch.box_BF3, batch.motion_BFK)

    def __len__(self) -> int:
        return len(self.driving_BCFHW)


@torch.no_grad()
def prepare_inputs(
    batch: Batch, frozen: FrozenParts, condition: ConditionConfig, *, seed: int
) -> StepInputs:
    """Encode a float batch and draw its noise, timesteps and dropped conditions.

    Everything random is a function of (seed, sample index), so a sample's noise depends neither on
    the number of workers nor on its position in a micro-batch. A dropped condition nulls reference,
    image embedding and motion together, as guidance does at inference; the sample still runs
    through every module.
    """
    device = batch.target_BCFHW.device
    indices = batch.sample_index_B.tolist()
    frames = batch.target_BCFHW.shape[2]
    dropped = [sample_rng(seed, n, "condition").random() < condition.dropout for n in indices]
    dropped_B = torch.tensor(dropped).to(device)

    z_reference = frozen.autoencoder.encode(batch.reference_BCHW)
    z = encode_frames(frozen.autoencoder, batch.target_BCFHW)
    noise = torch.stack([_noise(seed, n, tuple(z.shape[1:])) for n in indices]).to(z)
    draw = frozen.schedule.draw_timestep
    timesteps = torch.tensor([draw(sample_rng(seed, n, "noise")) for n in indices])
    timesteps = timesteps.to(device)
    embeddings = frozen.image_embedding(batch.reference_BCHW)

    pose = batch.reference_pose_BCHW[:, :, None].expand_as(batch.driving_BCFHW)
    null_box = batch.box_BF3.new_tensor([0.0, 0.0, 1.0]).expand_as(batch.box_BF3)
    head_target = None
    if batch.head_target_BCFHW is not None and batch.head_reference_BCHW is not None:
        # With the reference's own motion, the target is the reference itself.
        same = batch.head_reference_BCHW[:, :, None].expand_as(batch.head_target_BCFHW)
        head_target = fold_frames(_where(dropped_B, same, batch.head_target_BCFHW))
    head_reference = batch.head_reference_BCHW
    if head_reference is not None:
        head_reference = head_reference.repeat_interleave(frames, dim=0)
    return StepInputs(
        driving_BCFHW=_where(dropped_B, pose, batch.driving_BCFHW),
        box_BF3=_where(dropped_B, null_box, batch.box_BF3),
        z_reference_BChw=z_reference,
        image_embeddings_BLD=_where(dropped_B, torch.zeros_like(embeddings), embeddings),
        present_B=~dropped_B,
        all_present=not any(dropped),
        mask_seeds=tuple(stream_seed(seed, n, "reference_mask") for n in indices),
        z_BCFhw=z,
        noise_BCFhw=noise,
        z_noisy_BCFhw=frozen.schedule.add_noise(z, noise, timesteps),
        timesteps_B=timesteps,
        head_reference_BCHW=head_reference,
        head_target_NCHW=head_target,
        motion_BFK=batch.motion_BFK,
    )


def encode_frames(autoencoder: Autoencoder, frames_BCFHW: Tensor) -> Tensor:
    """Return the latents (B, C, F, h, w) of clips, encoded frame by frame."""
    z = autoencoder.encode(fold_frames(frames_BCFHW))
    batch, _, frames = frames_BCFHW.shape[:3]
    return z.view(batch, frames, *z.shape[1:]).transpose(1, 2)


def fold_frames(frames_BCFHW: Tensor) -> Tensor:
    """Fold frames into the batch: (B, C, F, H, W) to (B·F, C, H, W)."""
    return frames_BCFHW.transpose(1, 2).flatten(0, 1)


def _where(choose_B: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(choose_B.view(-1, *(1,) * (no.ndim - 1)), yes, no)


def _noise(seed: int, n: int, shape: Sequence[int]) -> Tensor:
    """Draw on the CPU, whose generator gives the same numbers for every device."""
    generator = torch.Generator().manual_seed(stream_seed(seed, n, "noise"))
    return torch.randn(shape, generator=generator)
