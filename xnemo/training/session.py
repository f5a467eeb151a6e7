"""Everything one worker holds while it trains, and how that is saved and brought back."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xnemo.data.batch_plan import BatchPlan, plan_batches
from xnemo.data.clip_table import ClipTable, open_clips
from xnemo.data.sample_reader import PictureSizes, SampleReader
from xnemo.diffusion.schedule import NoiseSchedule
from xnemo.model.compiling import require_compiling
from xnemo.model.frozen.perceptual import PerceptualLoss
from xnemo.model.networks import Networks, build_networks
from xnemo.training.checkpoint.bundle import (
    git_revision,
    load_weights,
    read_meta,
    read_moments,
    read_weights,
    save_bundle,
)
from xnemo.training.checkpoint.store import Checkpoint
from xnemo.training.config import TrainConfig
from xnemo.training.ema import ShardedEma
from xnemo.training.engines.engine import Engine
from xnemo.training.engines.torch_engine import TorchEngine
from xnemo.training.engines.world import World
from xnemo.training.joint_network import JointNetwork
from xnemo.training.monitor.guards import BufferKeeper, StepGuard
from xnemo.training.optimizer import build_optimizer, discriminator_groups, network_groups
from xnemo.training.starting_point import load_start
from xnemo.training.step_inputs import FrozenParts

log = logging.getLogger(__name__)

_LINEAR = functional.linear


@dataclass
class Session:
    """The state of a run on one worker; everything but `samples_seen` changes in place."""

    config: TrainConfig
    world: World
    plan: BatchPlan
    clips: ClipTable
    reader: SampleReader
    sizes: PictureSizes
    frozen: FrozenParts
    perceptual: PerceptualLoss | None
    network: Engine
    discriminator: Engine | None
    ema: ShardedEma | None
    guard: StepGuard
    buffers: BufferKeeper
    samples_seen: int = 0

    @property
    def engines(self) -> dict[str, Engine]:
        """Return the engines by name."""
        engines = {"network": self.network}
        return engines | (
            {"discriminator": self.discriminator} if self.discriminator is not None else {}
        )

    def facts(self) -> dict[str, Any]:
        """Return what identifies this run's inputs and code."""
        # ZeRO-3 leaves an empty tensor in a parameter's place, and its size beside it.
        sizes = [getattr(p, "ds_numel", p.numel()) for p in self.network.module.parameters()]
        return {
            "index_digest": self.clips.digest,
            "data": list(self.clips.roots),
            "filter": self.config.data.filter,
            "clips": len(self.clips.rows),
            "git": git_revision(),
            "workers": self.world.size,
            "device": str(self.world.device),
            "accumulation": self.plan.accumulation,
            "micro_batch": self.plan.micro_batch,
            "parameters": sum(sizes),
        }

    def engine_layout(self) -> str:
        """Name how workers' parts are laid out; only the same layout can read them.

        That is engine and workers, the kind of the optimiser's state, and what is trained.
        """
        engine = self.config.engine
        kind = engine.kind if engine.kind == "torch" else f"zero{engine.zero_stage}"
        state = "8bit" if self.config.optimizer.kind == "8bit" else "adamw"
        trained = [
            f"{owner}/{name}"
            for owner, e in self.engines.items()
            for name, parameter in e.module.named_parameters()
            if parameter.requires_grad
        ]
        names = hashlib.sha256("\n".join(trained).encode()).hexdigest()[:12]
        return f"{kind} x {self.world.size}, {state}, {names}"

    def write_checkpoint(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """Fill a checkpoint folder: the bundle, and beside it each worker's own part; all workers.

        A worker's part holds what as many workers would otherwise have to cut out of the bundle
        again, and what a bundle has no place for: the statistics of batch norms that are not
        synchronised, and optimisers whose state has no name by parameter.
        """
        self.write_bundle(folder / "bundle", metrics, moments=True)
        if not self.config.checkpoint.engine_shards:
            return
        part = {
            "optimizers": {name: e.optimizer_part() for name, e in self.engines.items()},
            "buffers": {name: dict(e.module.named_buffers()) for name, e in self.engines.items()},
            "ema": self.ema.state() if self.ema is not None else None,
        }
        (folder / "engine").mkdir(exist_ok=True)
        torch.save(part, self._part_file(folder))

    def write_bundle(self, folder: Path, metrics: Mapping[str, Any], *, moments: bool) -> None:
        """Gather and write a bundle; all workers."""
        raw = _named_weights(self.network)
        if self.discriminator is not None:
            raw |= {
                f"discriminator.{name}": t for name, t in _named_weights(self.discriminator).items()
            }
        ema = self.ema.full() if self.ema is not None else None
        states = {n: e.full_moments() for n, e in self.engines.items()} if moments else None
        if self.world.is_main:
            meta = {**self.facts(), "samples_seen": self.samples_seen, "metrics": dict(metrics)}
            save_bundle(folder, self.config, meta, raw=raw, ema=ema, moments=states)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Bring back optimisers, averages, statistics and position; weights came before.

        What this run trains or averages and the checkpoint's did not begins here: without moments,
        and its average at the weights.

        Raises:
            UserError: the checkpoint's optimisers cannot be had in this layout.
        """
        if self._has_part(checkpoint):
            # Tensors and numbers only: a run's folder may come from anywhere.
            file = self._part_file(checkpoint.folder)
            part = torch.load(file, map_location="cpu", weights_only=True)
            for name, engine in self.engines.items():
                engine.load_optimizer_part(part["optimizers"][name])
                for key, buffer in engine.module.named_buffers():
                    buffer.copy_(part["buffers"][name][key])
            if self.ema is not None and part["ema"] is not None:
                self.ema.load_state(part["ema"])
        else:
            self._restore_from_bundle(checkpoint.folder / "bundle")
        self.guard.load_state(checkpoint.record.get("guard", {}))
        self.samples_seen = checkpoint.samples_seen

    def _restore_from_bundle(self, bundle: Path) -> None:
        if self.config.optimizer.kind == "8bit":
            log.warning("8-bit optimiser states are kept by worker, not in bundles: starting anew")
        meta = read_meta(bundle)
        moments = read_moments(bundle, meta)
        for name, engine in self.engines.items():
            if name in moments:
                engine.load_moments(moments[name])
        if self.ema is not None:
            averaged = "ema.safetensors" in meta["files"]
            self.ema.load_full(read_weights(bundle, "ema" if averaged else "raw", meta))

    def _has_part(self, checkpoint: Checkpoint) -> bool:
        same = checkpoint.record.get("engine_layout") == self.engine_layout()
        return same and self._part_file(checkpoint.folder).is_file()

    def _part_file(self, folder: Path) -> Path:
        return folder / "engine" / f"worker{self.world.rank}.pt"


def open_session(
    config: TrainConfig, data: Sequence[str], world: World, checkpoint: Checkpoint | None
) -> Session:
    """Build a worker's session: fresh, from `config.init_from`, or at a checkpoint.

    Raises:
        UserError: the data, a bundle or the settings do not suit, or this machine cannot compile.
    """
    if config.engine.compile:
        require_compiling(world.device.type)
    # ZeRO-3 replaces it for the whole process: a run after such a run is to calculate as if alone.
    functional.linear = _LINEAR
    plan = plan_batches(config.global_batch, config.micro_batch, world.rank, world.size)
    clips = open_clips(data, config.data.filter, min_frames=_least_frames(config))
    sizes = PictureSizes(
        wide=config.network.image_size,
        driving=config.network.motion.image_size,
        head=config.network.gan.image_size if config.uses_gan_head else None,
        wide_head=config.network.gan.motion_source == "fused",
        describe_faces=config.uses_face_readout,
    )
    reader = SampleReader(clips, config.data, config.augment, sizes, seed=config.seed)
    networks = build_networks(config.network, config.seed)
    if not config.uses_face_readout:
        networks.face_readout = None
    _load_start(networks, config, checkpoint)
    modules = networks.modules()
    for name in ("autoencoder", "image_embedding"):
        modules[name].to(world.device)
    frozen = FrozenParts(
        networks.autoencoder, networks.image_embedding, NoiseSchedule(config.diffusion)
    )
    joint = JointNetwork(networks, config).train()
    network = _engine(joint, network_groups(joint, config.optimizer), config, plan, world)
    discriminator = None
    if config.uses_gan_head:
        judge = modules["discriminator"].train()
        discriminator = _engine(
            judge, discriminator_groups(judge, config.optimizer), config, plan, world
        )
    session = Session(
        config=config,
        world=world,
        plan=plan,
        clips=clips,
        reader=reader,
        sizes=sizes,
        frozen=frozen,
        perceptual=_perceptual(config, world),
        network=network,
        discriminator=discriminator,
        ema=ShardedEma(network, config.ema, world) if config.ema.enabled else None,
        guard=StepGuard(config.guards),
        buffers=BufferKeeper([e.module for e in (network, discriminator) if e is not None]),
    )
    if checkpoint is not None:
        session.restore(checkpoint)
    return session


def _load_start(networks: Networks, config: TrainConfig, checkpoint: Checkpoint | None) -> None:
    """Load the weights a run starts with, before any engine takes hold of them."""
    if checkpoint is not None:
        bundle = checkpoint.folder / "bundle"
        load_weights(networks, read_weights(bundle, "raw"), bundle)
    elif config.init_from is not None:
        load_start(networks, config.init_from, config.init_weights, config.diffusion)


def _engine(
    module: nn.Module, groups: list[dict], config: TrainConfig, plan: BatchPlan, world: World
) -> Engine:
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


def _perceptual(config: TrainConfig, world: World) -> PerceptualLoss | None:
    if not config.uses_gan_head or config.loss.perceptual == 0:
        return None
    return PerceptualLoss(config.perceptual).to(world.device)


def _least_frames(config: TrainConfig) -> int:
    pairs = config.data.pairs
    if pairs.layout == "window":
        return (pairs.frames - 1) * pairs.stride + 1
    return 2


def _named_weights(engine: Engine) -> dict[str, Tensor]:
    """Return parameters and buffers, whole, on the main worker; all workers."""
    weights = engine.full_weights()
    if weights:
        persistent = engine.module.state_dict().keys()
        buffers = engine.module.named_buffers()
        weights |= {name: b.detach().cpu() for name, b in buffers if name in persistent}
    return weights
