"""All networks of the network engine as one module with one forward pass."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xnemo.model.networks import Networks
from xnemo.training.config import TrainConfig
from xnemo.training.engines.optimizer import ENCODER_TRUNK
from xnemo.training.engines.synced_batch_norm import synchronise_batch_norms
from xnemo.training.step_inputs import MotionInputs, StepInputs


class JointOutput(NamedTuple):
    """Output of `JointNetwork`."""

    # The denoiser's prediction (B, C, F, h, w); None in the motion stage.
    prediction: Tensor | None
    # The GAN head's images (B·F, 3, G, G); None without it.
    images: Tensor | None
    # Standardised motion numbers (B, F, K) that the readout predicts, and the true ones (NaN where
    # unknown); None without it.
    motion: Tensor | None = None
    motion_target: Tensor | None = None


class JointNetwork(nn.Module):
    """Denoiser, reference network, motion encoder, and for training GAN head and motion readout.

    They form one module because the motion encoder receives gradient from both heads in one
    backward pass. Parameter names start with "denoiser.", "reference_net.", "motion_encoder.",
    "gan_head." or "motion_readout.", as in a bundle. In the motion stage there are only the encoder
    and the readout.
    """

    def __init__(self, networks: Networks, config: TrainConfig) -> None:
        super().__init__()
        # diffusers' classes are untyped.
        motion_only = config.stage == "motion"
        self.denoiser: Any = None if motion_only else networks.denoiser
        self.reference_net: Any = None if motion_only else networks.reference_net
        self.motion_encoder: Any = networks.motion_encoder
        self.gan_head: Any = networks.gan_head if config.uses_gan_head else None
        self.motion_readout: Any = networks.motion_readout if config.uses_motion_readout else None
        self.reference_masking = config.condition.reference_masking
        self.motion_source = config.network.gan.motion_source
        self.temporal_only = config.stage == "temporal"
        # Standard deviation of the last pass's motion latent over frames, for `StepGuard`.
        self.latent_std: Tensor | None = None
        self.use_bf16 = config.engine.precision == "bf16"
        _choose_trained(self, config)
        if config.engine.batch_norm == "synced":
            synchronise_batch_norms(self.motion_encoder)
        frozen_encoder = config.optimizer.encoder_lr_scale == 0
        if config.engine.batch_norm == "frozen" or self.temporal_only or frozen_encoder:
            self.motion_encoder.freeze_statistics()
        if self.temporal_only and self.denoiser is not None:
            _avoid_channels_last(self.denoiser)
        if config.engine.gradient_checkpointing:
            for module in (self.denoiser, self.reference_net, self.motion_encoder):
                if module is not None:
                    module.enable_gradient_checkpointing()
        if config.engine.compile:
            for module in (self.denoiser, self.reference_net):
                if module is not None:
                    module.compile_repeated_blocks()

    def forward(self, inputs: StepInputs | MotionInputs) -> JointOutput:
        """Run motion encoder and reference network once, and both heads on their output.

        Reference masking and dropped references are for training only: in evaluation they would
        split the batch, and with ZeRO-3 all workers must run the same modules. In the temporal
        stage the other networks run without gradient, and there are no images.
        """
        # Autocast inside the module, because DeepSpeed disables an outer one.
        device = inputs.driving_BCFHW.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.use_bf16):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.temporal_only):
                latent = self.motion_encoder(inputs.driving_BCFHW, inputs.box_BF3)
            faces_ND = latent.face.detach().flatten(0, 1).float()
            self.latent_std = faces_ND.std(dim=0).mean() if len(faces_ND) > 1 else None
            motion = target = None
            if self.motion_readout is not None and inputs.motion_BFK is not None:
                motion = self.motion_readout(latent.face)
                target = self.motion_readout.standardise(inputs.motion_BFK)
            if isinstance(inputs, MotionInputs):
                return JointOutput(None, None, motion, target)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.temporal_only):
                reference = self.reference_net(inputs.z_reference_BChw, inputs.image_embeddings_BLD)
            if self.training:
                reference = reference.mask_tokens(self.reference_masking, inputs.mask_seeds)
                if not inputs.all_present:
                    # A mask rules out the fastest attention kernels.
                    reference = reference.with_presence(inputs.present_B)
            prediction = self.denoiser(
                inputs.z_noisy_BCFhw,
                inputs.timesteps_B,
                inputs.image_embeddings_BLD,
                latent.tokens,
                reference,
            )
            images = None
            if self.gan_head is not None and inputs.head_reference_BCHW is not None:
                source = latent.face if self.motion_source == "face" else latent.fused
                seeds = [seed for seed in inputs.mask_seeds for _ in range(source.shape[1])]
                images = self.gan_head(inputs.head_reference_BCHW, source.flatten(0, 1), seeds)
        return JointOutput(prediction, images, motion, target)


def _avoid_channels_last(module: nn.Module) -> None:
    """Make the inputs of the temporal modules' group norms contiguous on a CPU.

    torch 2.13 crashes on a CPU in the backward pass of a group norm with a channels-last input that
    requires no gradient while its weight does, as in the first trained layer of this stage.
    """

    def contiguous(norm: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        (x,) = inputs
        return (x.contiguous(),) if x.device.type == "cpu" else None

    for name, child in module.named_modules():
        if ".temporal_modules." in name and isinstance(child, nn.GroupNorm):
            child.register_forward_pre_hook(contiguous)


def _choose_trained(joint: JointNetwork, config: TrainConfig) -> None:
    """Freeze what the stage does not train; parameters that a network froze stay frozen."""
    temporal_stage = config.stage == "temporal"
    for name, parameter in joint.named_parameters():
        frozen = config.optimizer.encoder_lr_scale == 0 and name.startswith(ENCODER_TRUNK)
        if (".temporal_modules." in name) != temporal_stage or frozen:
            parameter.requires_grad_(False)
