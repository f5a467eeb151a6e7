"""Cost of a training step, computed from the configuration on the meta device."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xnemo.model.config import NetworkConfig
from xnemo.model.cost_meter import CostMeter, FusedAttention
from xnemo.model.frozen.autoencoder import FIXED, RANDOM, make_autoencoder
from xnemo.model.frozen.image_embedding import make_image_embedding
from xnemo.model.gan.discriminator import Discriminator
from xnemo.model.gan.gan_head import GanHead
from xnemo.model.motion.encoder import MotionEncoder
from xnemo.model.unet.denoising_unet import DenoisingUNet
from xnemo.model.unet.reference_net import ReferenceNet

GIB = 2**30
# fp32 for weights, gradients and Adam's two moments; bf16 is a copy made by autocast.
STATE_BYTES = 4


@dataclass(frozen=True)
class TrainingCost:
    """Cost of one training step on one device; bytes unless named otherwise."""

    # Parameters of each trained part, and the number of all that receive gradients.
    parameters: dict[str, int]
    trained_parameters: int
    # Operations of forward and backward pass per sample, including the frozen parts.
    flops_per_sample: float
    # Operations that gradient checkpointing adds.
    recompute_flops_per_sample: float
    # Per device, after ZeRO's sharding.
    weights: float
    gradients: float
    optimizer: float
    ema: float
    frozen: float
    # Activations kept for the backward pass, for all samples of a micro-batch.
    activations: float

    @property
    def total(self) -> float:
        """Total bytes, without overhead of the allocator and workspace of the kernels."""
        state = self.weights + self.gradients + self.optimizer + self.ema
        return state + self.frozen + self.activations

    def seconds_per_sample(self, tflops: float, utilisation: float = 0.4) -> float:
        """Return the time per sample on a device with `tflops` TFLOP/s, of which a part is used."""
        return (self.flops_per_sample + self.recompute_flops_per_sample) / (
            tflops * 1e12 * utilisation
        )


def training_cost(
    config: NetworkConfig,
    batch: int = 1,
    frames: int = 1,
    stage: Literal["motion", "image", "temporal"] = "image",
    precision: Literal["fp32", "bf16"] = "bf16",
    gradient_checkpointing: bool = True,
    zero_stage: Literal[0, 1, 2, 3] = 0,
    devices: int = 1,
    ema: bool = True,
) -> TrainingCost:
    """Compute the cost of a training step from its configuration.

    Runs the forward and backward pass of one sample on the meta device (no weights, no GPU, no
    arithmetic), counts operations and measures the tensors kept for the backward pass. Attention is
    assumed to be a fused kernel. The network of the perceptual loss is not included.

    Args:
        config: The network.
        batch: Samples of a micro-batch on one device.
        frames: Frames per sample.
        stage: "motion" trains the motion encoder, "image" everything, "temporal" only the temporal
            modules.
        precision: Of the arithmetic; weights and optimiser states are fp32 in both cases.
        gradient_checkpointing: Keep only the inputs of layers, and recompute the rest.
        zero_stage: Sharded over devices: 1 optimiser, 2 also gradients, 3 also weights.
        devices: Number of devices.
        ema: Whether an EMA of the weights is kept; it is always sharded.
    """
    with torch.device("meta"):
        parts: dict[str, Any] = {}
        if stage != "motion":
            parts["denoiser"] = DenoisingUNet(**asdict(config.unet))
            parts["reference_net"] = ReferenceNet.from_unet_config(config.unet)
        parts["motion_encoder"] = MotionEncoder(**asdict(config.motion))
        if stage == "image":
            parts["gan_head"] = GanHead(**asdict(config.gan))
    if stage == "image":
        parts["discriminator"] = Discriminator(**asdict(config.discriminator))
    if stage == "temporal":
        for part in parts.values():
            for name, parameter in part.named_parameters():
                parameter.requires_grad_(".temporal_modules." in name)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    meter = CostMeter()
    for part in parts.values():
        # Not ModelMixin.to(), which warns of every cast.
        nn.Module.to(part, "meta", dtype).train()
        if part._supports_gradient_checkpointing:
            part.enable_gradient_checkpointing(meter.checkpoint)
    with FusedAttention():
        _run_step(config, parts, frames, dtype, stage, meter)
    frozen_flops, frozen_bytes = (0.0, 0.0) if stage == "motion" else _frozen_cost(config, frames)

    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    trained = sum(
        p.numel() for part in parts.values() for p in part.parameters() if p.requires_grad
    )
    total = sum(counts.values())
    shard = {level: devices if zero_stage >= level else 1 for level in (1, 2, 3)}
    # DeepSpeed's stages 1 and 2 keep an fp32 copy of the shard, also of fp32 weights.
    master = 1 if zero_stage in (1, 2) else 0
    casts = total * 2 if precision == "bf16" else 0
    kept = meter.kept_with_checkpoints if gradient_checkpointing else meter.kept
    return TrainingCost(
        parameters=counts,
        trained_parameters=trained,
        flops_per_sample=meter.flops + frozen_flops,
        recompute_flops_per_sample=meter.recomputed if gradient_checkpointing else 0.0,
        weights=total * STATE_BYTES / shard[3] + casts,
        gradients=trained * STATE_BYTES / shard[2],
        optimizer=(2 + master) * trained * STATE_BYTES / shard[1],
        ema=trained * STATE_BYTES / devices if ema else 0,
        frozen=frozen_bytes,
        activations=batch * kept,
    )


def _run_step(
    config: NetworkConfig,
    parts: dict[str, Any],
    frames: int,
    dtype: torch.dtype,
    stage: str,
    meter: CostMeter,
) -> None:
    """Run generator step and discriminator step of one sample."""
    cells = config.latent_size
    if config.motion.standardise:
        # A single sample has no batch statistics.
        parts["motion_encoder"].standards.eval()

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta", dtype=dtype)

    z_BCFhw = empty(1, config.unet.latent_channels, frames, cells, cells)
    token_BLD = empty(1, 1, config.unet.image_embedding_width)
    crop = empty(1, 3, frames, config.motion.image_size, config.motion.image_size)
    with meter.measure(parts.values()):
        with torch.set_grad_enabled(stage != "temporal"):
            latent = parts["motion_encoder"](crop, empty(1, frames, 3))
        if stage == "motion":
            latent.face.sum().backward()
            return
        with torch.set_grad_enabled(stage == "image"):
            reference = parts["reference_net"](z_BCFhw[:, :, 0], token_BLD)
        loss = parts["denoiser"](z_BCFhw, 500, token_BLD, latent.tokens, reference).sum()
        if stage == "image":
            motion = latent.face if config.gan.motion_source == "face" else latent.fused
            size = config.gan.image_size
            image = parts["gan_head"](empty(frames, 3, size, size), motion.flatten(0, 1))
            for image_in in (image, image.detach(), image.detach()):
                loss = loss + sum(scale.logits.sum() for scale in parts["discriminator"](image_in))
        loss.backward()


def _frozen_cost(config: NetworkConfig, frames: int) -> tuple[float, float]:
    """Return operations per sample, and bytes, of the frozen autoencoder and image embedding."""
    autoencoder, image_embedding = config.autoencoder, config.image_embedding
    if autoencoder.kind not in FIXED:
        autoencoder = replace(autoencoder, path=RANDOM)
    if image_embedding.kind == "clip":
        image_embedding = replace(image_embedding, path=RANDOM)
    with torch.device("meta"):
        encoder, embedding = make_autoencoder(autoencoder), make_image_embedding(image_embedding)
        image = torch.empty(1, 3, config.image_size, config.image_size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            encoder.encode(image)
        encode_flops = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            embedding(image)
    size = sum(p.numel() for part in (encoder, embedding) for p in part.parameters()) * STATE_BYTES
    return encode_flops * (frames + 1) + counter.get_total_flops(), size
