"""Notice a run that goes wrong, and say what it is."""

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from preprocessing.errors import UserError
from xnemo.training.config import GuardConfig

# What the log calls the deviation of the motion latent over the frames of a pass.
LATENT_STD = "latent_std"
# Steps in a row after which a silent latent is reported, once.
SILENT_STEPS = 20


class StepGuard:
    """Judge every step by numbers that all workers share, so that all judge alike."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._recent: deque[float] = deque(maxlen=100)
        self._silent_in_row = 0
        self.skipped_in_row = 0
        self.skipped_total = 0

    def judge(
        self, losses: Mapping[str, float], applied: bool, samples_seen: int, keys: Sequence[str]
    ) -> dict | None:
        """Return an event for the log where something is wrong with a step, else None.

        That is: it was skipped, its loss leaps, or the motion latent has been silent for a while.

        Args:
            losses: Mean over all workers of each loss of the step.
            applied: Whether both engines took the step.
            keys: Clips this worker trained on, to look at.

        Raises:
            UserError: too many steps in a row were skipped.
        """
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if not applied:
            self.skipped_in_row += 1
            self.skipped_total += 1
            cause = f"loss {', '.join(bad)} is not finite" if bad else "a gradient is not finite"
            if self.skipped_in_row >= self._config.max_skipped_steps:
                raise UserError(
                    f"{self.skipped_in_row} steps in a row were skipped at sample {samples_seen}: "
                    f"{cause}",
                    "resume from the last checkpoint with a lower optimizer.lr or optimizer.clip",
                )
            return {"event": "step skipped", "cause": cause, "keys": list(keys)}
        self.skipped_in_row = 0
        loss = losses["loss"]
        usual = statistics.median(self._recent) if len(self._recent) >= 20 else math.inf
        self._recent.append(loss)
        if loss > self._config.spike_factor * usual:
            return {
                "event": "loss spike",
                "cause": f"loss {loss:.4g} where {usual:.4g} is usual",
                "losses": dict(losses),
                "keys": list(keys),
            }
        spread = losses.get(LATENT_STD, math.inf)
        self._silent_in_row = self._silent_in_row + 1 if spread < self._config.silent_motion else 0
        if self._silent_in_row == SILENT_STEPS:
            return {
                "event": "silent motion",
                "cause": f"the motion latent differs by {spread:.2g} between frames, so that no "
                "driver can be followed; start from trained weights with init_from, or with "
                "network.motion.standardise=true",
            }
        return None

    def state(self) -> dict:
        """Return what a resumed run needs to judge alike."""
        return {
            "recent": list(self._recent),
            "silent_in_row": self._silent_in_row,
            "skipped_in_row": self.skipped_in_row,
            "skipped_total": self.skipped_total,
        }

    def load_state(self, state: Mapping) -> None:
        """Take back `state`; what an earlier version did not write counts as nothing seen."""
        self._recent.extend(state.get("recent", []))
        self._silent_in_row = state.get("silent_in_row", 0)
        self.skipped_in_row = state.get("skipped_in_row", 0)
        self.skipped_total = state.get("skipped_total", 0)


class BufferKeeper:
    """Undo what a step that is skipped did to statistics: a NaN stays in a running mean forever."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._buffers: list[Tensor] = [b for module in modules for b in module.buffers()]
        self._kept: list[Tensor] = []

    def keep(self) -> None:
        """Remember all buffers."""
        self._kept = [buffer.clone() for buffer in self._buffers]

    def restore(self) -> None:
        """Bring all buffers back to where `keep` saw them."""
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(kept)
