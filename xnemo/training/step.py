"""One optimiser step of both engines over a global batch."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xnemo.data.batch import Batch
from xnemo.data.seeding import stream_seed
from xnemo.training.engines.engine import StepOutcome
from xnemo.training.engines.optimizer import learning_rate_scale
from xnemo.training.monitor.guards import LATENT_STD
from xnemo.training.monitor.speed import SpeedMeter
from xnemo.training.monitor.watchdog import Watchdog
from xnemo.training.passes import count_flops, discriminator_pass, generator_pass, motion_pass
from xnemo.training.state import TrainState
from xnemo.training.step_inputs import MotionInputs, StepInputs, prepare_inputs


@dataclass
class StepResult:
    """Result of a step on one worker."""

    # This worker's share of each mean loss.
    losses: dict[str, Tensor] = field(default_factory=dict)
    # Outcome by engine.
    outcomes: dict[str, StepOutcome] = field(default_factory=dict)
    # Clips of the samples, and why samples were replaced.
    keys: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    # Factor on the configured learning rates.
    learning_rate_scale: float = 0.0

    @property
    def applied(self) -> bool:
        """Whether every engine applied the step."""
        return all(outcome.applied for outcome in self.outcomes.values())


def train_step(
    state: TrainState,
    loader: Iterator[tuple[Batch, float]],
    meter: SpeedMeter,
    watchdog: Watchdog,
) -> StepResult:
    """Run one optimiser step of both engines and advance `state.samples_seen`; collective."""
    config, plan, world = state.config, state.plan, state.world
    result = StepResult()
    result.learning_rate_scale = learning_rate_scale(
        config.optimizer, state.samples_seen, config.samples
    )
    for backup in state.buffers.values():
        backup.save()
    for number in range(plan.accumulation):
        watchdog.enter("waiting for data")
        begin = time.perf_counter()
        batch, weight = next(loader)
        meter.add_wait(time.perf_counter() - begin)
        watchdog.enter("forward and backward")
        # Dropout depends on the position only, so that a resumed run repeats it.
        position = (state.samples_seen * plan.accumulation + number) * world.size + world.rank
        torch.manual_seed(stream_seed(config.seed, position, "step"))
        for engine in state.engines.values():
            engine.begin_pass(last=number == plan.accumulation - 1)
        if state.discriminator is not None:
            # Training mode updates the spectral norms: once per step, not once per micro-batch.
            state.discriminator.module.train(number == 0)
        losses = _micro_step(state, batch, weight, meter)
        for name, value in losses.items():
            share = value * (weight * plan.micro_batch / plan.global_batch)
            result.losses[name] = result.losses.get(name, 0) + share
        result.keys += batch.keys
        result.faults += batch.faults
    watchdog.enter("optimiser step")
    for name, engine in state.engines.items():
        result.outcomes[name] = engine.step(result.learning_rate_scale)
    state.samples_seen += plan.global_batch
    if result.outcomes["network"].applied and state.ema is not None:
        state.ema.update(state.samples_seen, plan.global_batch)
    for name, outcome in result.outcomes.items():
        if not outcome.applied:
            state.buffers[name].restore()
    meter.add_samples(plan.global_batch)
    return result


def _micro_step(
    state: TrainState, batch: Batch, weight: float, meter: SpeedMeter
) -> dict[str, Tensor]:
    """Run both engines forward and backward over one micro-batch."""
    config = state.config
    batch = batch.to(state.world.device)
    inputs: StepInputs | MotionInputs
    if config.stage == "motion":
        inputs = MotionInputs.of(batch)
    else:
        inputs = prepare_inputs(batch, state.frozen, config.condition, seed=config.seed)
    if meter.flops_per_sample == 0:
        discriminator = state.discriminator.module if state.discriminator is not None else None
        meter.flops_per_sample = count_flops(state.network.module, discriminator, inputs)
        meter.restart()
    scale = weight * state.plan.loss_scale
    if isinstance(inputs, MotionInputs):
        losses = motion_pass(state.network, inputs, config.loss, weight=scale)
    else:
        losses = _image_pass(state, inputs, scale)
    latent_std = state.network.module.latent_std
    if isinstance(latent_std, Tensor):
        losses[LATENT_STD] = latent_std
    return losses


def _image_pass(state: TrainState, inputs: StepInputs, scale: float) -> dict[str, Tensor]:
    """Run the networks and then the discriminator forward and backward."""
    config = state.config
    generated = generator_pass(
        state.network,
        state.discriminator,
        inputs,
        state.frozen.schedule,
        config.loss,
        perceptual=state.perceptual,
        weight=scale,
    )
    losses = generated.losses
    if state.discriminator is not None and generated.images is not None:
        losses |= discriminator_pass(
            state.discriminator, generated.images, inputs, config.loss, weight=scale
        )
    return losses
