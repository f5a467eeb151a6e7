"""Construction of a worker's `TrainState`: data, networks, engines, and initial weights."""

from collections.abc import Sequence

from torch import nn
from torch.nn import functional

from xnemo.data.batch_plan import BatchPlan, plan_batches
from xnemo.data.clip_table import open_clips
from xnemo.data.sample_reader import ImageSizes, SampleReader
from xnemo.diffusion.schedule import NoiseSchedule
from xnemo.model.compiling import require_compiling
from xnemo.model.frozen.perceptual import PerceptualLoss
from xnemo.model.networks import Networks, build_networks
from xnemo.training.checkpoint.bundle import load_weights, read_meta, read_weights
from xnemo.training.checkpoint.store import Checkpoint
from xnemo.training.config import TrainConfig
from xnemo.training.engines.ema import ShardedEma
from xnemo.training.engines.engine import Engine
from xnemo.training.engines.optimizer import (
    ParameterGroup,
    build_optimizer,
    discriminator_groups,
    network_groups,
)
from xnemo.training.engines.torch_engine import TorchEngine
from xnemo.training.engines.world import World
from xnemo.training.init_from import load_init_from
from xnemo.training.joint_network import JointNetwork
from xnemo.training.monitor.guards import BufferBackup, StepGuard
from xnemo.training.motion_statistics import motion_statistics
from xnemo.training.state import TrainState
from xnemo.training.step_inputs import FrozenParts

_LINEAR = functional.linear


def build_train_state(
    config: TrainConfig, data: Sequence[str], world: World, checkpoint: Checkpoint | None
) -> TrainState:
    """Build a worker's state at a checkpoint, from `config.init_from`, or initialised at random.

    Args:
        config: the resolved configuration.
        data: folders or URLs of preprocessed data sets.
        world: the workers of the run.
        checkpoint: where to resume, if anywhere.

    Raises:
        UserError: the data, the weights or the settings do not fit, or this machine cannot compile.
    """
    if config.engine.compile:
        require_compiling(world.device.type)
    # ZeRO-3 replaces this function for the whole process; later runs must not be affected.
    functional.linear = _LINEAR
    plan = plan_batches(config.global_batch, config.micro_batch, world.rank, world.size)
    clips = open_clips(data, config.data.filter, min_frames=config.data.pairs.least_frames)
    sizes = image_sizes(config)
    reader = SampleReader(clips, config.data, config.augment, sizes, seed=config.seed)
    networks = build_networks(config.network, config.seed)
    if not config.uses_motion_readout:
        networks.motion_readout = None
    _load_initial_weights(networks, config, checkpoint, verify=world.is_main)
    if networks.motion_readout is not None and not networks.motion_readout.has_statistics:
        networks.motion_readout.set_statistics(*motion_statistics(reader))
    modules = networks.modules()
    for name in ("autoencoder", "image_embedding"):
        modules[name].to(world.device)
    frozen = FrozenParts(
        networks.autoencoder, networks.image_embedding, NoiseSchedule(config.diffusion)
    )
    joint = JointNetwork(networks, config).train()
    network = build_engine(joint, network_groups(joint, config.optimizer), config, plan, world)
    discriminator = None
    if config.uses_gan_head:
        module = modules["discriminator"].train()
        groups = discriminator_groups(module, config.optimizer)
        discriminator = build_engine(module, groups, config, plan, world)
    state = TrainState(
        config=config,
        world=world,
        plan=plan,
        clips=clips,
        reader=reader,
        sizes=sizes,
        frozen=frozen,
        perceptual=build_perceptual(config, world),
        network=network,
        discriminator=discriminator,
        ema=ShardedEma(network, config.ema, world) if config.ema.enabled else None,
        guard=StepGuard(config.guards),
        buffers={},
    )
    state.buffers |= {name: BufferBackup(e.module) for name, e in state.engines.items()}
    if checkpoint is not None:
        state.restore(checkpoint)
    return state


def image_sizes(config: TrainConfig) -> ImageSizes:
    """Return the sizes of a sample's images."""
    network = config.network
    return ImageSizes(
        wide=network.image_size,
        driving=network.motion.image_size,
        head=network.gan.image_size if config.uses_gan_head else None,
        wide_head=network.gan.motion_source == "fused",
        motion_numbers=config.uses_motion_readout,
    )


def _load_initial_weights(
    networks: Networks, config: TrainConfig, checkpoint: Checkpoint | None, *, verify: bool
) -> None:
    """Load weights before engines are built, which may shard them."""
    if checkpoint is not None:
        bundle = checkpoint.folder / "bundle"
        # The main worker has verified the checkpoint.
        meta = read_meta(bundle, verify=False)
        load_weights(networks, read_weights(bundle, "raw", meta), bundle, to_train=True)
    elif config.init_from is not None:
        load_init_from(
            networks, config.init_from, config.init_weights, config.diffusion, verify=verify
        )


def build_engine(
    module: nn.Module,
    groups: list[ParameterGroup],
    config: TrainConfig,
    plan: BatchPlan,
    world: World,
) -> Engine:
    """Return the engine that `config.engine` names, over a module on this worker's device."""
    module.to(world.device)
    optimizer = build_optimizer(groups, config.optimizer)
    if config.engine.kind == "deepspeed":
        from xnemo.training.engines.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(
            module,
            optimizer,
            world,
            stage=config.engine.zero_stage,
            clip=config.optimizer.clip,
            accumulation=plan.accumulation,
            micro_batch=plan.micro_batch,
        )
    return TorchEngine(
        module, optimizer, world, clip=config.optimizer.clip, accumulation=plan.accumulation
    )


def build_perceptual(config: TrainConfig, world: World) -> PerceptualLoss | None:
    """Return the perceptual loss, if the configuration has one."""
    if not config.uses_gan_head or config.loss.perceptual == 0:
        return None
    return PerceptualLoss(config.perceptual).to(world.device)
