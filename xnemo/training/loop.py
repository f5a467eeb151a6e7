"""The training loop, readable from top to bottom in one sitting."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from preprocessing.errors import UserError
from xnemo.data.batch import Batch
from xnemo.data.loader import BatchLoader
from xnemo.data.seeding import stream_seed
from xnemo.training.checkpoint.store import Checkpoint, CheckpointStore
from xnemo.training.config import TrainConfig
from xnemo.training.engines.engine import StepOutcome
from xnemo.training.engines.world import current_world
from xnemo.training.learning_rate import learning_rate_scale
from xnemo.training.monitor.callbacks import Callback
from xnemo.training.monitor.guards import LATENT_STD
from xnemo.training.monitor.speed import SpeedMeter, forward_flops
from xnemo.training.monitor.watchdog import Watchdog
from xnemo.training.reporter import Reporter
from xnemo.training.session import Session, open_session
from xnemo.training.step import discriminator_step, generator_step
from xnemo.training.step_inputs import prepare_inputs
from xnemo.training.validation import Validator

Resume = Literal["auto", "must", "never"]


def run_training(
    config: TrainConfig,
    data: str | Sequence[str],
    run_dir: str | Path,
    *,
    resume: Resume = "auto",
    callbacks: Sequence[Callback] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train until `config.samples`, or until asked to stop, and return the last metrics.

    Every worker calls this alike; torch.distributed, where initialised, says who is who. The run
    folder receives `config.json`, `log.jsonl`, `checkpoints/` and, at the end, `bundle/`.

    Args:
        config: the resolved recipe.
        data: folders or URLs of preprocessed data sets.
        run_dir: folder of this run, the same for all workers.
        resume: "auto" goes on from the newest sound checkpoint, if any; "must" insists on one;
            "never" refuses a folder that has one.
        callbacks: told of progress on the main worker; they may fail without stopping training.
        should_stop: asked after every step on every worker; one yes stops all, after a checkpoint.

    Raises:
        UserError: the settings, the data or a bundle do not suit, or too many steps were skipped.
    """
    world = current_world(config.engine.device)
    run_dir = Path(run_dir)
    roots = (data,) if isinstance(data, str) else tuple(map(str, data))
    store = CheckpointStore(run_dir, config.checkpoint, world)
    checkpoint = find_start(store, run_dir, resume)
    session = open_session(config, roots, world, checkpoint)
    with ExitStack() as stack:
        reporter = stack.enter_context(Reporter(session, run_dir, callbacks))
        watchdog = stack.enter_context(Watchdog(config.guards, run_dir, world.rank))
        reporter.start(checkpoint)
        loader = stack.enter_context(
            BatchLoader(
                session.reader,
                session.plan,
                samples_seen=session.samples_seen,
                pin_memory=world.device.type == "cuda",
            )
        )
        validator = None
        if config.validation.every_samples:
            validator = Validator(config, roots, session.sizes, session.frozen, world)

        stopping = False
        while session.samples_seen < config.samples and not stopping:
            watchdog.enter("data and step")
            result = train_step(session, loader, reporter.meter, watchdog)
            watchdog.enter("agreeing with the other workers")
            losses, stopping, faults = _share(session, result, should_stop())
            norms = {name: outcome.grad_norm for name, outcome in result.outcomes.items()}
            reporter.step(
                losses, norms, result.applied, result.learning_rate_scale, result.keys, faults
            )
            if validator is not None and _crossed(session, config.validation.every_samples):
                watchdog.enter("validation")
                reporter.validation(validator.measure(session.network))
            due = _crossed(session, config.checkpoint.every_samples)
            last = stopping or session.samples_seen >= config.samples
            if due or last:
                watchdog.enter("checkpoint")
                _save(session, store, reporter, must=last)
        watchdog.enter("final bundle")
        session.write_bundle(run_dir / "bundle", reporter.metrics, moments=False)
        return reporter.end(stopped=stopping)


@dataclass
class StepResult:
    """What one worker knows of a step."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    outcomes: dict[str, StepOutcome] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    learning_rate_scale: float = 0.0

    @property
    def applied(self) -> bool:
        """Whether every engine took the step."""
        return all(outcome.applied for outcome in self.outcomes.values())


def train_step(
    session: Session,
    loader: Iterator[tuple[Batch, float]],
    meter: SpeedMeter,
    watchdog: Watchdog,
) -> StepResult:
    """Run one optimiser step of both engines over a global batch and move the session on."""
    config, plan, world = session.config, session.plan, session.world
    result = StepResult()
    result.learning_rate_scale = learning_rate_scale(
        config.optimizer, session.samples_seen, config.samples
    )
    session.buffers.keep()
    for turn in range(plan.accumulation):
        watchdog.enter("waiting for data")
        begin = time.perf_counter()
        batch, weight = next(loader)
        meter.waited(time.perf_counter() - begin)
        watchdog.enter("forward and backward")
        # Dropout's state is a function of the position, so a resumed run drops the same.
        place = (session.samples_seen * plan.accumulation + turn) * world.size + world.rank
        torch.manual_seed(stream_seed(config.seed, place, "step"))
        for engine in session.engines.values():
            engine.begin_pass(last=turn == plan.accumulation - 1)
        if session.discriminator is not None:
            # Its spectral norms move in training mode: once a step, however many passes that has.
            session.discriminator.module.train(turn == 0)
        losses = _micro_step(session, batch, weight, meter)
        for name, value in losses.items():
            share = value * (weight * plan.micro_batch / plan.global_batch)
            result.losses[name] = result.losses.get(name, 0) + share
        result.keys += batch.keys
        result.faults += batch.faults
    watchdog.enter("optimiser step")
    for name, engine in session.engines.items():
        result.outcomes[name] = engine.step(result.learning_rate_scale)
    session.samples_seen += plan.global_batch
    if result.applied and session.ema is not None:
        session.ema.update(session.samples_seen, plan.global_batch)
    if not result.applied:
        session.buffers.restore()
    meter.step(plan.global_batch)
    return result


def _micro_step(
    session: Session, batch: Batch, weight: float, meter: SpeedMeter
) -> dict[str, Tensor]:
    """Run both engines forwards and backwards over one micro-batch."""
    config = session.config
    inputs = prepare_inputs(
        batch.to(session.world.device), session.frozen, config.condition, seed=config.seed
    )
    if meter.flops_per_sample == 0:
        discriminator = session.discriminator.module if session.discriminator is not None else None
        meter.flops_per_sample = forward_flops(session.network.module, discriminator, inputs)
        meter.restart()
    scale = weight * session.plan.loss_scale
    made = generator_step(
        session.network,
        session.discriminator,
        inputs,
        session.frozen.schedule,
        config.loss,
        perceptual=session.perceptual,
        weight=scale,
    )
    losses = made.losses
    if session.discriminator is not None and made.pictures is not None:
        losses |= discriminator_step(
            session.discriminator, made.pictures, inputs, config.loss, weight=scale
        )
    spread = session.network.module.latent_std
    if isinstance(spread, Tensor):
        losses[LATENT_STD] = spread
    return losses


def _share(
    session: Session, result: StepResult, stop: bool
) -> tuple[dict[str, float], bool, list[str]]:
    """Add up losses, stop requests and faults over all workers in one exchange."""
    names = sorted(result.losses)
    numbers = torch.stack([result.losses[name].double() for name in names]).tolist()
    *sums, stops, fault_count = session.world.sum(
        [*numbers, float(stop), float(len(result.faults))]
    )
    faults = result.faults
    if fault_count and session.world.size > 1:
        gathered: list[list[str]] = [[] for _ in range(session.world.size)]
        dist.all_gather_object(gathered, faults)
        faults = [fault for some in gathered for fault in some]
    return dict(zip(names, sums, strict=True)), stops > 0, faults


def _crossed(session: Session, interval: int) -> bool:
    """Say whether the last step passed a multiple of `interval` samples."""
    before = session.samples_seen - session.plan.global_batch
    return session.samples_seen // interval > before // interval


def _save(session: Session, store: CheckpointStore, reporter: Reporter, *, must: bool) -> None:
    """Save a checkpoint; `must` where nothing will follow that could make up for a failure."""
    record = {
        "engine_layout": session.engine_layout(),
        "guard": session.guard.state(),
        "validation_loss": reporter.metrics.get("validation_loss"),
        "metrics": reporter.metrics,
        "index_digest": session.clips.digest,
    }
    saved = store.save(
        session.samples_seen,
        record,
        lambda folder: session.write_checkpoint(folder, reporter.metrics),
    )
    failed = session.world.any([saved is None])[0]
    if failed and must:
        why = store.failure
        raise UserError(
            f"the last checkpoint, at sample {session.samples_seen}, could not be written: "
            + (why.what if isinstance(why, UserError) else str(why or "another worker failed")),
            (why.remedy if isinstance(why, UserError) else "free disk space")
            + "; the same command goes on from the checkpoint before",
        )
    if saved is not None:
        reporter.checkpoint(saved)


def find_start(store: CheckpointStore, run_dir: Path, resume: Resume) -> Checkpoint | None:
    """Return the checkpoint to go on from.

    Raises:
        UserError: there is one and none is wanted, or none and one is wanted.
    """
    found = store.latest()
    if resume == "never" and found is not None:
        raise UserError(
            f"{run_dir} already holds a run, at sample {found.samples_seen}",
            "give another name, or resume it",
        )
    if resume == "must" and found is None:
        raise UserError(f"{run_dir} holds no sound checkpoint to resume from", "start it anew")
    return found
