"""Detection of skipped steps, loss spikes and latent collapse."""

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from preprocessing.errors import Diverged, UserError
from xnemo.training.config import GuardConfig

# Log key of the standard deviation of the motion latent over the frames of a pass.
LATENT_STD = "latent_std"
# Consecutive steps with a collapsed latent after which it is reported, once.
COLLAPSE_STEPS = 20
# Applied steps before evaluation is judged.
SETTLED_STEPS = 100


class StepGuard:
    """Check every step by numbers that all workers share, so that all workers decide alike."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._recent: deque[float] = deque(maxlen=SETTLED_STEPS)
        self._collapsed_in_row = 0
        # Of the last applied step.
        self._latent_std = 0.0
        self.skipped_in_row = 0
        self.skipped_total = 0

    def check(
        self, losses: Mapping[str, float], applied: bool, samples_seen: int, keys: Sequence[str]
    ) -> dict[str, Any] | None:
        """Return an event for the log if the step was skipped, spiked or collapsed, else None.

        Args:
            losses: mean of each loss over all workers.
            applied: whether both engines applied the step.
            samples_seen: position in the run.
            keys: clips that this worker trained on.

        Raises:
            Diverged: too many consecutive steps were skipped.
        """
        if not applied:
            return self._skipped(losses, samples_seen, keys)
        self.skipped_in_row = 0
        loss = losses["loss"]
        median = statistics.median(self._recent) if len(self._recent) >= 20 else math.inf
        self._recent.append(loss)
        if loss > self._config.spike_factor * median:
            return {
                "event": "loss spike",
                "cause": f"loss is {loss:.4g} and its recent median {median:.4g}",
                "losses": dict(losses),
                "keys": list(keys),
            }
        std = losses.get(LATENT_STD, math.inf)
        self._latent_std = std if math.isfinite(std) else 0.0
        collapsed = std < self._config.min_latent_std
        self._collapsed_in_row = self._collapsed_in_row + 1 if collapsed else 0
        if self._collapsed_in_row == COLLAPSE_STEPS:
            return {
                "event": "latent collapse",
                "cause": f"the motion latent's standard deviation over frames is {std:.2g}, so the "
                "networks receive no motion; start from trained weights with init_from, or set "
                "network.motion.standardise=true",
            }
        return None

    def check_validation(self, metrics: Mapping[str, float], samples_seen: int) -> None:
        """Stop a run whose motion latent is constant in evaluation.

        Raises:
            UserError: the latent of held-out clips hardly varies.
        """
        held_out = metrics.get(f"validation_{LATENT_STD}", math.inf)
        ratio = self._config.min_latent_ratio
        least = max(self._config.min_latent_std, ratio * self._latent_std)
        # Until then the running statistics of batch norms are still those of the start.
        settled = len(self._recent) >= SETTLED_STEPS
        if ratio > 0 and settled and held_out < least:
            raise UserError(
                f"latent collapse at sample {samples_seen}: the motion latent's standard deviation "
                f"is {held_out:.2g} on held-out clips and {self._latent_std:.2g} in training, so "
                "every driving frame gives the same motion",
                "start from a bundle of the motion stage with init_from, or set "
                "network.motion.standardise=true; guards.min_latent_ratio=0 goes on",
            )

    def _skipped(
        self, losses: Mapping[str, float], samples_seen: int, keys: Sequence[str]
    ) -> dict[str, Any]:
        self.skipped_in_row += 1
        self.skipped_total += 1
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        cause = f"loss {', '.join(bad)} is not finite" if bad else "a gradient is not finite"
        if self.skipped_in_row >= self._config.max_skipped_steps:
            raise Diverged(
                f"{self.skipped_in_row} steps in a row were skipped at sample {samples_seen}: "
                f"{cause}",
                "resume from the last checkpoint with a lower optimizer.lr or optimizer.clip",
            )
        return {"event": "step skipped", "cause": cause, "keys": list(keys)}

    def state(self) -> dict[str, Any]:
        """Return plain data for `load_state`."""
        return {
            "recent": list(self._recent),
            "collapsed_in_row": self._collapsed_in_row,
            "skipped_in_row": self.skipped_in_row,
            "skipped_total": self.skipped_total,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load `state`; missing entries keep their initial value."""
        self._recent.extend(state.get("recent", []))
        self._collapsed_in_row = state.get("collapsed_in_row", 0)
        self.skipped_in_row = state.get("skipped_in_row", 0)
        self.skipped_total = state.get("skipped_total", 0)


class BufferBackup:
    """Backup of a module's buffers, to undo a skipped step: a NaN never leaves a running mean."""

    def __init__(self, module: nn.Module) -> None:
        self._buffers: list[Tensor] = list(module.buffers())
        self._saved: list[Tensor] = []

    def save(self) -> None:
        """Copy all buffers."""
        self._saved = [buffer.clone() for buffer in self._buffers]

    def restore(self) -> None:
        """Set all buffers to their last saved values."""
        for buffer, saved in zip(self._buffers, self._saved, strict=True):
            buffer.copy_(saved)
