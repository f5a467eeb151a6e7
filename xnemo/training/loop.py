"""The training loop: steps, validation and checkpoints."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch

from preprocessing.errors import UserError
from xnemo.data.loader import BatchLoader
from xnemo.training.checkpoint.store import Checkpoint, CheckpointStore
from xnemo.training.config import TrainConfig
from xnemo.training.engines.world import current_world
from xnemo.training.monitor.callbacks import Callback
from xnemo.training.monitor.watchdog import Watchdog
from xnemo.training.reporter import Reporter
from xnemo.training.setup import build_train_state
from xnemo.training.state import TrainState
from xnemo.training.step import StepResult, train_step
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
    write_log: bool = True,
    pause_every: int | None = None,
) -> dict[str, Any]:
    """Train until `config.samples` or a stop request, and return the last metrics.

    All workers call this with the same arguments; rank and world size come from torch.distributed.
    The run folder receives `config.json`, `log.jsonl`, `checkpoints/` and, at the end, `bundle/`.

    Args:
        config: the resolved configuration.
        data: folders or URLs of preprocessed data sets.
        run_dir: folder of this run.
        resume: "auto" resumes from the newest undamaged checkpoint, if any; "must" requires one;
            "never" requires a folder without checkpoints.
        callbacks: receive events on the main worker; their errors do not stop training.
        should_stop: called after every step on every worker; if any returns True, all workers save
            a checkpoint and stop.
        write_log: write `log.jsonl`; False if the caller writes it, from its callbacks.
        pause_every: save a checkpoint and stop at the next multiple of this many samples.

    Raises:
        UserError: settings, data or weights do not fit, or too many steps were skipped.
    """
    world = current_world(config.engine.device)
    run_dir = Path(run_dir)
    roots = (data,) if isinstance(data, str) else tuple(map(str, data))
    store = CheckpointStore(run_dir, config.checkpoint, world)
    checkpoint = find_checkpoint(store, run_dir, resume)
    state = build_train_state(config, roots, world, checkpoint)
    with ExitStack() as stack:
        reporter = stack.enter_context(Reporter(state, run_dir, callbacks, write_log))
        watchdog = stack.enter_context(Watchdog(config.guards, run_dir, world.rank))
        reporter.start(checkpoint)
        loader = stack.enter_context(
            BatchLoader(
                state.reader,
                state.plan,
                samples_seen=state.samples_seen,
                pin_memory=world.device.type == "cuda",
            )
        )
        validator = None
        if config.validation.every_samples:
            validator = Validator(config, roots, state.sizes, state.frozen, world)

        stopping = False
        while state.samples_seen < config.samples and not stopping:
            watchdog.enter("data and step")
            result = train_step(state, loader, reporter.meter, watchdog)
            watchdog.enter("exchange with the other workers")
            losses, stopping, faults = _reduce(state, result, should_stop())
            if pause_every is not None and state.samples_seen < config.samples:
                stopping = stopping or _crossed(state, pause_every)
            norms = {name: outcome.grad_norm for name, outcome in result.outcomes.items()}
            reporter.step(
                losses, norms, result.applied, result.learning_rate_scale, result.keys, faults
            )
            if validator is not None and _crossed(state, config.validation.every_samples):
                watchdog.enter("validation")
                measured = validator.measure(state.network)
                reporter.validation(measured)
                state.guard.check_validation(measured, state.samples_seen)
            due = _crossed(state, config.checkpoint.every_samples)
            last = stopping or state.samples_seen >= config.samples
            if due or last:
                watchdog.enter("checkpoint")
                _save(state, store, reporter, must=last)
        watchdog.enter("final bundle")
        state.write_bundle(run_dir / "bundle", reporter.metrics, moments=False)
        return reporter.end(stopped=stopping)


def find_checkpoint(store: CheckpointStore, run_dir: Path, resume: Resume) -> Checkpoint | None:
    """Return the checkpoint to resume from, if any.

    Raises:
        UserError: there is one and `resume` is "never", or none and `resume` is "must".
    """
    found = store.latest()
    if resume == "never" and found is not None:
        raise UserError(
            f"{run_dir} already holds a run, at sample {found.samples_seen}",
            "use another name, or resume it",
        )
    if resume == "must" and found is None:
        raise UserError(
            f"{run_dir} has no checkpoint to resume from", "start it with --resume auto"
        )
    return found


def _reduce(
    state: TrainState, result: StepResult, stop: bool
) -> tuple[dict[str, float], bool, list[str]]:
    """Sum losses, stop requests and faults over all workers in one exchange."""
    names = sorted(result.losses)
    numbers = torch.stack([result.losses[name].double() for name in names]).tolist()
    *sums, stops, fault_count = state.world.sum([*numbers, float(stop), float(len(result.faults))])
    faults = state.world.gather_strings(result.faults) if fault_count else []
    return dict(zip(names, sums, strict=True)), stops > 0, faults


def _crossed(state: TrainState, interval: int) -> bool:
    """Return whether the last step crossed a multiple of `interval` samples."""
    before = state.samples_seen - state.plan.global_batch
    return state.samples_seen // interval > before // interval


def _save(state: TrainState, store: CheckpointStore, reporter: Reporter, *, must: bool) -> None:
    """Save a checkpoint; `must` raises on failure, for the last checkpoint of a run."""
    record = {
        "engine_layout": state.engine_layout(),
        "guard": state.guard.state(),
        "validation_loss": reporter.metrics.get("validation_loss"),
        "metrics": reporter.metrics,
        "index_digest": state.clips.digest,
    }
    saved = store.save(
        state.samples_seen,
        record,
        lambda folder: state.write_checkpoint(folder, reporter.metrics),
    )
    if must and state.world.any(saved is None):
        why = store.failure
        raise UserError(
            f"cannot write the last checkpoint, at sample {state.samples_seen}: "
            + (why.what if isinstance(why, UserError) else str(why or "another worker failed")),
            (why.remedy if isinstance(why, UserError) else "free disk space")
            + "; the same command resumes from the previous checkpoint",
        )
    if saved is not None:
        reporter.checkpoint(saved)
