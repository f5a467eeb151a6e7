"""State of a training run on one worker, and its checkpoints."""

import hashlib
import logging
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xnemo.data.batch_plan import BatchPlan
from xnemo.data.clip_table import ClipTable
from xnemo.data.sample_reader import ImageSizes, SampleReader
from xnemo.model.frozen.perceptual import PerceptualLoss
from xnemo.training.checkpoint.bundle import read_meta, read_moments, read_weights, save_bundle
from xnemo.training.checkpoint.store import Checkpoint
from xnemo.training.config import TrainConfig
from xnemo.training.engines.ema import ShardedEma
from xnemo.training.engines.engine import Engine
from xnemo.training.engines.world import World
from xnemo.training.monitor.guards import BufferBackup, StepGuard
from xnemo.training.step_inputs import FrozenParts

log = logging.getLogger(__name__)


@dataclass
class TrainState:
    """Everything a worker needs to train; only `samples_seen` is ever reassigned."""

    config: TrainConfig
    world: World
    plan: BatchPlan
    clips: ClipTable
    reader: SampleReader
    sizes: ImageSizes
    frozen: FrozenParts
    perceptual: PerceptualLoss | None
    network: Engine
    discriminator: Engine | None
    ema: ShardedEma | None
    guard: StepGuard
    # One per engine: an engine's skipped step leaves the other's weights and buffers changed.
    buffers: dict[str, BufferBackup]
    samples_seen: int = 0

    @property
    def engines(self) -> dict[str, Engine]:
        """Return the engines by name."""
        engines = {"network": self.network}
        return engines | (
            {"discriminator": self.discriminator} if self.discriminator is not None else {}
        )

    def facts(self) -> dict[str, Any]:
        """Return what identifies the run's data, code and workers."""
        # ZeRO-3 leaves parameters empty and keeps their sizes beside them.
        sizes = [getattr(p, "ds_numel", p.numel()) for p in self.network.module.parameters()]
        return {
            "index_digest": self.clips.digest,
            "data": list(self.clips.roots),
            "filter": self.config.data.filter,
            "clips": len(self.clips.rows),
            "git": _git_revision(),
            "workers": self.world.size,
            "device": str(self.world.device),
            "accumulation": self.plan.accumulation,
            "micro_batch": self.plan.micro_batch,
            "parameters": sum(sizes),
        }

    def engine_layout(self) -> str:
        """Return an identifier of the layout of engine shards, which only the same layout can load.

        It names the engine, the number of workers, the optimiser state and the trained parameters.
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
        """Write the bundle and each worker's engine shard into a checkpoint folder; collective.

        A shard saves the same number of workers from cutting the bundle, and holds what a bundle
        cannot: batch norm statistics that are not synchronised, and 8-bit optimiser state.
        """
        self.write_bundle(folder / "bundle", metrics, moments=True)
        if not self.config.checkpoint.engine_shards:
            return
        shard = {
            "optimizers": {name: e.optimizer_shard() for name, e in self.engines.items()},
            "buffers": {name: dict(e.module.named_buffers()) for name, e in self.engines.items()},
            "ema": self.ema.state() if self.ema is not None else None,
        }
        (folder / "engine").mkdir(exist_ok=True)
        torch.save(shard, self._shard_file(folder))

    def write_bundle(self, folder: Path, metrics: Mapping[str, Any], *, moments: bool) -> None:
        """Gather and write a bundle; collective."""
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
        """Load optimisers, averages, statistics and position; weights must be loaded already.

        Parameters that the checkpoint did not train or average start without moments, and with the
        average at their weights.

        Raises:
            UserError: the checkpoint has no optimiser state for this layout.
        """
        if self._has_shard(checkpoint):
            # weights_only: a run's folder may come from an untrusted source.
            file = self._shard_file(checkpoint.folder)
            shard = torch.load(file, map_location="cpu", weights_only=True)
            for name, engine in self.engines.items():
                engine.load_optimizer_shard(shard["optimizers"][name])
                for key, buffer in engine.module.named_buffers():
                    buffer.copy_(shard["buffers"][name][key])
            if self.ema is not None and shard["ema"] is not None:
                self.ema.load_state(shard["ema"])
        else:
            self._restore_from_bundle(checkpoint.folder / "bundle")
        self.guard.load_state(checkpoint.record.get("guard", {}))
        self.samples_seen = checkpoint.samples_seen

    def _restore_from_bundle(self, bundle: Path) -> None:
        if self.config.optimizer.kind == "8bit":
            log.warning("bundles hold no 8-bit optimiser state: starting without moments")
        # The main worker has verified the checkpoint.
        meta = read_meta(bundle, verify=False)
        moments = read_moments(bundle, meta)
        for name, engine in self.engines.items():
            if name in moments:
                engine.load_moments(moments[name])
        if self.ema is not None:
            averaged = "ema.safetensors" in meta["files"]
            self.ema.load_full(read_weights(bundle, "ema" if averaged else "raw", meta))

    def _has_shard(self, checkpoint: Checkpoint) -> bool:
        same = checkpoint.record.get("engine_layout") == self.engine_layout()
        return same and self._shard_file(checkpoint.folder).is_file()

    def _shard_file(self, folder: Path) -> Path:
        return folder / "engine" / f"worker{self.world.rank}.pt"


def _named_weights(engine: Engine) -> dict[str, Tensor]:
    """Return whole parameters and persistent buffers on the main worker; collective."""
    weights = engine.full_weights()
    if weights:
        persistent = engine.module.state_dict().keys()
        buffers = engine.module.named_buffers()
        weights |= {name: b.detach().cpu() for name, b in buffers if name in persistent}
    return weights


def _git_revision() -> str | None:
    """Return the revision of this code's working tree, with "+" if modified; None outside git."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            command, cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
