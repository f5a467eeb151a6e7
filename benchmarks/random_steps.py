"""Training steps on random pixels in the shapes of a configuration, without a data set."""

from dataclasses import replace
from typing import Any

import torch

from xnemo.data.batch import Batch
from xnemo.data.batch_plan import plan_batches
from xnemo.data.motion_numbers import READOUT_COLUMNS
from xnemo.diffusion.schedule import NoiseSchedule
from xnemo.model.config import mini
from xnemo.model.networks import build_networks
from xnemo.training.config import TrainConfig
from xnemo.training.engines.engine import Engine
from xnemo.training.engines.optimizer import discriminator_groups, network_groups
from xnemo.training.engines.world import World
from xnemo.training.joint_network import JointNetwork
from xnemo.training.passes import count_flops, discriminator_pass, generator_pass, motion_pass
from xnemo.training.setup import build_engine, build_perceptual
from xnemo.training.step_inputs import FrozenParts, MotionInputs, StepInputs, prepare_inputs


class RandomSteps:
    """Networks, engines and losses of one worker, and steps of one micro-batch."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        """Build everything with random weights."""
        self.config, self.device = config, device
        world = World(rank=0, size=1, device=device)
        plan = plan_batches(config.micro_batch, config.micro_batch, 0, 1)
        networks = build_networks(config.network, config.seed)
        if config.uses_motion_readout:
            numbers = torch.ones(len(READOUT_COLUMNS))
            assert networks.motion_readout is not None
            networks.motion_readout.set_statistics(0 * numbers, numbers)
        else:
            networks.motion_readout = None
        for part in (networks.autoencoder, networks.image_embedding):
            part.to(device)
        schedule = NoiseSchedule(config.diffusion)
        self.frozen = FrozenParts(networks.autoencoder, networks.image_embedding, schedule)
        self.perceptual = build_perceptual(config, world)
        joint = JointNetwork(networks, config).train()
        groups = network_groups(joint, config.optimizer)
        self.engines: dict[str, Engine] = {
            "network": build_engine(joint, groups, config, plan, world)
        }
        if config.uses_gan_head:
            discriminator = networks.modules()["discriminator"].train()
            groups = discriminator_groups(discriminator, config.optimizer)
            self.engines["discriminator"] = build_engine(discriminator, groups, config, plan, world)
        # Steps taken; the number of a step decides its data and noise.
        self.done = 0

    def inputs(self, seed: int) -> StepInputs | MotionInputs:
        """Return the inputs of a step."""
        batch = random_batch(self.config, self.config.micro_batch, self.device, seed)
        if self.config.stage == "motion":
            return MotionInputs.of(batch)
        return prepare_inputs(batch, self.frozen, self.config.condition, seed=self.config.seed)

    def step(self) -> dict[str, float]:
        """Run one step, and return its losses and gradient norms."""
        config, network = self.config, self.engines["network"]
        discriminator = self.engines.get("discriminator")
        inputs = self.inputs(self.done)
        torch.manual_seed(self.done)
        for engine in self.engines.values():
            engine.begin_pass(last=True)
        if isinstance(inputs, MotionInputs):
            losses = motion_pass(network, inputs, config.loss)
        else:
            generated = generator_pass(
                network,
                discriminator,
                inputs,
                self.frozen.schedule,
                config.loss,
                perceptual=self.perceptual,
            )
            losses = generated.losses
            if discriminator is not None and generated.images is not None:
                losses |= discriminator_pass(discriminator, generated.images, inputs, config.loss)
        outcomes = {name: engine.step(1.0) for name, engine in self.engines.items()}
        self.done += 1
        norms = {f"norm of {name}": outcome.grad_norm for name, outcome in outcomes.items()}
        return {name: float(value) for name, value in losses.items()} | norms

    def flops_per_sample(self) -> float:
        """Return the operations of a step per sample."""
        discriminator = self.engines.get("discriminator")
        other = discriminator.module if discriminator is not None else None
        return count_flops(self.engines["network"].module, other, self.inputs(0))


def reduced(config: TrainConfig, **engine: Any) -> TrainConfig:
    """Return a recipe with its own stage, losses and settings on small networks."""
    small, own = mini(), config.network
    network = replace(
        small,
        unet=replace(small.unet, temporal=own.unet.temporal),
        motion=replace(small.motion, standardise=own.motion.standardise),
    )
    perceptual = replace(config.perceptual, weights="random")
    chosen = replace(config.engine, **{"kind": "torch", **engine})
    return replace(config, network=network, perceptual=perceptual, engine=chosen, init_from=None)


def random_batch(config: TrainConfig, samples: int, device: torch.device, seed: int = 0) -> Batch:
    """Return a batch as the loader gives it, moved to `device`."""
    network, frames = config.network, config.data.pairs.frames
    draw = torch.Generator().manual_seed(seed)

    def images(*shape: int) -> torch.Tensor:
        return torch.randint(256, shape, dtype=torch.uint8, generator=draw)

    wide, tight, head = network.image_size, network.motion.image_size, network.gan.image_size
    with_head, with_motion = config.uses_gan_head, config.uses_motion_readout
    offsets = 0.1 * torch.randn(samples, frames, 3, generator=draw)
    return Batch(
        keys=("random",) * samples,
        faults=(),
        sample_index_B=torch.arange(samples) + seed * samples,
        reference_BCHW=images(samples, 3, wide, wide),
        target_BCFHW=images(samples, 3, frames, wide, wide),
        driving_BCFHW=images(samples, 3, frames, tight, tight),
        reference_pose_BCHW=images(samples, 3, tight, tight),
        head_reference_BCHW=images(samples, 3, head, head) if with_head else None,
        head_target_BCFHW=images(samples, 3, frames, head, head) if with_head else None,
        box_BF3=offsets + torch.tensor([0.0, 0.0, 1.0]),
        motion_BFK=torch.randn(samples, frames, len(READOUT_COLUMNS), generator=draw)
        if with_motion
        else None,
    ).to(device)
