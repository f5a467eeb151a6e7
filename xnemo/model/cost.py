"""What a training step costs, computed on the meta device: no weights, no GPU, no arithmetic."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from xnemo.model.config import NetworkConfig
from xnemo.model.frozen.autoencoder import FIXED, RANDOM, make_autoencoder
from xnemo.model.frozen.image_embedding import make_image_embedding
from xnemo.model.gan.discriminator import Discriminator
from xnemo.model.gan.gan_head import GanHead
from xnemo.model.motion.encoder import MotionEncoder
from xnemo.model.unet.denoising_unet import DenoisingUNet
from xnemo.model.unet.reference_net import ReferenceNet

GIB = 2**30
# Each of weights, gradients and Adam's two moments in fp32; bf16 is a copy made by autocast.
STATE_BYTES = 4


@dataclass(frozen=True)
class TrainingCost:
    """Cost of one training step on one device; bytes unless named otherwise."""

    # Parameters of each trained part, and how many of all receive gradients.
    parameters: dict[str, int]
    trained_parameters: int
    # Operations of forward and backward per sample, frozen parts included.
    flops_per_sample: float
    # What gradient checkpointing adds to them.
    recompute_flops_per_sample: float
    # Per device, after ZeRO's sharding.
    weights: float
    gradients: float
    optimizer: float
    ema: float
    frozen: float
    # What the backward pass needs of the forward pass, for all samples of a micro-batch.
    activations: float

    @property
    def total(self) -> float:
        """Bytes of everything; the allocator and the kernels' work space come on top."""
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.ema
            + self.frozen
            + self.activations
        )

    def seconds_per_sample(self, tflops: float, utilisation: float = 0.4) -> float:
        """Return the time of a sample on a device of so many TFLOP/s, used to this part."""
        return (self.flops_per_sample + self.recompute_flops_per_sample) / (
            tflops * 1e12 * utilisation
        )


def training_cost(
    config: NetworkConfig,
    batch: int = 1,
    frames: int = 1,
    stage: Literal["image", "temporal"] = "image",
    precision: Literal["fp32", "bf16"] = "bf16",
    gradient_checkpointing: bool = True,
    zero_stage: Literal[0, 1, 2, 3] = 0,
    devices: int = 1,
    ema: bool = True,
) -> TrainingCost:
    """Compute the cost of a training step from its configuration.

    One sample is run forwards and backwards on the meta device, with the operations counted and
    the tensors kept for the backward pass measured; attention is taken as a fused kernel that keeps
    no matrix of weights. The perceptual loss's network is not included.

    Args:
        config: The network.
        batch: Samples of a micro-batch on one device.
        frames: Frames per sample.
        stage: "image" trains everything, "temporal" the temporal modules alone.
        precision: Of the arithmetic; weights and their states are fp32 in either case.
        gradient_checkpointing: Keep the layers' inputs alone.
        zero_stage: What is sharded over devices: 1 optimiser, 2 also gradients, 3 also weights.
        devices: How many share.
        ema: Whether an average of the weights is kept; devices always share it.
    """
    with torch.device("meta"):
        parts: dict[str, Any] = {
            "denoiser": DenoisingUNet(**asdict(config.unet)),
            "reference_net": ReferenceNet.from_unet_config(config.unet),
            "motion_encoder": MotionEncoder(**asdict(config.motion)),
        }
        if stage == "image":
            parts["gan_head"] = GanHead(**asdict(config.gan))
    if stage == "image":
        parts["discriminator"] = Discriminator(**asdict(config.discriminator))
    if stage == "temporal":
        for part in parts.values():
            for name, parameter in part.named_parameters():
                parameter.requires_grad_(".temporal_modules." in name)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    meter = _Meter()
    for part in parts.values():
        # Past ModelMixin.to(), which warns of every cast whether or not it matters.
        nn.Module.to(part, "meta", dtype).train()
        if part._supports_gradient_checkpointing:
            part.enable_gradient_checkpointing(meter.checkpoint)
    with _FusedAttention():
        _run_step(config, parts, frames, dtype, stage, meter)
    frozen_flops, frozen_bytes = _frozen_cost(config, frames)

    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    trained = sum(
        p.numel() for part in parts.values() for p in part.parameters() if p.requires_grad
    )
    total = sum(counts.values())
    shard = {level: devices if zero_stage >= level else 1 for level in (1, 2, 3)}
    # DeepSpeed's first two stages update a copy of the weights' own part, fp32 though they are.
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


class _FusedAttention(TorchFunctionMode):
    """Takes attention as a fused kernel does it, where nothing is calculated.

    On the meta device it would be taken apart, and its matrices of weights counted as kept.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            # A mask is broadcast from a row, and costs nothing beside the rest.
            kernel = torch.ops.aten._scaled_dot_product_efficient_attention
            return kernel(*args[:3], None, True)[0]
        return func(*args, **(kwargs or {}))


class _Meter:
    """Counts operations, and bytes kept for the backward pass with and without checkpoints."""

    def __init__(self) -> None:
        self.flops = 0.0
        self.recomputed = 0.0
        self._outside = 0
        self._inside = 0
        self._inputs = 0
        self._largest = 0
        self._counter: FlopCounterMode | None = None
        self._seen: dict[int, Tensor] = {}
        self._ignored: set[int] = set()
        self._depth = 0

    @property
    def kept(self) -> int:
        """Bytes kept without checkpoints."""
        return self._outside + self._inside

    @property
    def kept_with_checkpoints(self) -> int:
        """Bytes kept with them: the layers' inputs, and all of the largest layer."""
        return self._outside + self._inputs + self._largest

    @contextmanager
    def measure(self, modules: Iterator[nn.Module]) -> Iterator[None]:
        """Count whatever runs inside; weights are not what it keeps."""
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                self._ignored.add(tensor.untyped_storage()._cdata)
        with (
            FlopCounterMode(display=False) as counter,
            saved_tensors_hooks(self._keep, lambda tensor: tensor),
        ):
            self._counter = counter
            yield
        self.flops = float(counter.get_total_flops())
        self._seen.clear()

    def checkpoint(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a layer that would be recomputed, and book its cost apart."""
        assert self._counter is not None
        self._inputs += sum(_size(arg) for arg in args if isinstance(arg, Tensor))
        inside, flops = self._inside, self._counter.get_total_flops()
        self._depth += 1
        result = function(*args)
        self._depth -= 1
        self._largest = max(self._largest, self._inside - inside)
        self.recomputed += self._counter.get_total_flops() - flops
        return result

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in self._seen and storage not in self._ignored:
            # Held, so that no other storage gets the same address while this one is counted.
            self._seen[storage] = tensor
            if self._depth:
                self._inside += _size(tensor)
            else:
                self._outside += _size(tensor)
        return tensor


def _size(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _run_step(
    config: NetworkConfig,
    parts: dict[str, Any],
    frames: int,
    dtype: torch.dtype,
    stage: str,
    meter: _Meter,
) -> None:
    """Run one sample of the generator's and the discriminator's step."""
    cells = config.latent_size
    if config.motion.standardise:
        # There is nothing to standardise a single sample by.
        parts["motion_encoder"].standards.eval()

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta", dtype=dtype)

    z_BCFhw = empty(1, config.unet.latent_channels, frames, cells, cells)
    token_BLD = empty(1, 1, config.unet.image_embedding_width)
    crop = empty(1, 3, frames, config.motion.image_size, config.motion.image_size)
    with meter.measure(iter(parts.values())):
        with torch.set_grad_enabled(stage == "image"):
            latent = parts["motion_encoder"](crop, empty(1, frames, 3))
            reference = parts["reference_net"](z_BCFhw[:, :, 0], token_BLD)
        loss = parts["denoiser"](z_BCFhw, 500, token_BLD, latent.tokens, reference).sum()
        if stage == "image":
            motion = latent.face if config.gan.motion_source == "face" else latent.fused
            size = config.gan.image_size
            picture = parts["gan_head"](empty(frames, 3, size, size), motion.flatten(0, 1))
            loss = loss + sum(scale.logits.sum() for scale in parts["discriminator"](picture))
            for judged in (picture.detach(), picture.detach()):
                loss = loss + sum(scale.logits.sum() for scale in parts["discriminator"](judged))
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
        picture = torch.empty(1, 3, config.image_size, config.image_size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            encoder.encode(picture)
        encode_flops = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            embedding(picture)
    modules = [part for part in (encoder, embedding) if isinstance(part, nn.Module)]
    size = sum(p.numel() for part in modules for p in part.parameters()) * STATE_BYTES
    return encode_flops * (frames + 1) + counter.get_total_flops(), size
