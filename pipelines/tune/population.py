"""Population-based training: bad trials go on from the weights and optimizers of good ones.

A trial trains in rounds of the same number of samples. At the end of a round its workers end with
a checkpoint in its run folder, and its process reports a `Checkpoint` of Ray that only names it.
When all trials have reported, the worst quarter take over the checkpoints of the best quarter, with
their settings changed.
"""

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Checkpoint
from ray.tune.schedulers import PopulationBasedTraining

from pipelines.tune.search_space import Space, to_tune
from preprocessing.errors import UserError
from xnemo.training.checkpoint.integrity import link_or_copy, publish_folder

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial as RayTrial

_POINTER = "checkpoint.json"

# Sections of settings that take effect from the next step on, whatever was trained before.
_CHANGEABLE = ("augment", "condition", "loss", "optimizer")


def check_changeable(space: Space) -> None:
    """Require that every setting of a space can change within a run.

    Raises:
        UserError: one cannot.
    """
    for name in space:
        if name.split(".")[0] not in _CHANGEABLE or name == "optimizer.kind":
            sections = ", ".join(f"{section}.*" for section in _CHANGEABLE)
            raise UserError(
                f"{name} cannot change within a run, as population-based training does",
                f"search {sections} with it, and {name} with --scheduler asha",
            )


class Population(PopulationBasedTraining):
    """Ray's population-based training, in rounds that all trials finish before any goes on."""

    def __init__(self, space: Space) -> None:
        """Change settings within ``space``."""
        draws = to_tune(space)
        lists = ("choice", "grid")
        super().__init__(
            time_attr="round",
            perturbation_interval=1,
            # A list is changed to a neighbouring value.
            hyperparam_mutations={
                name: values if draw in lists else draws[name]
                for name, (draw, values) in space.items()
            },
            custom_explore_fn=lambda settings: clip(settings, space),
            log_config=False,
            synch=True,
        )

    def choose_trial_to_run(self, tune_controller: "TuneController") -> "RayTrial | None":
        """Return the trial to run next.

        Ray exchanges when the last trial reports, and waits for ever for one that has failed.
        """
        waiting = [t for t in tune_controller.get_trials() if not t.is_finished()]
        due = self._next_perturbation_sync
        if waiting and all(
            t.status == t.PAUSED and self._trial_state[t].last_train_time >= due for t in waiting
        ):
            tune_controller.get_live_trials().intersection_update(waiting)
            last: Any = self._trial_state[waiting[0]].last_result
            self.on_trial_result(tune_controller, waiting[0], last)
        return super().choose_trial_to_run(tune_controller)


def clip(settings: dict[str, Any], space: Space) -> dict[str, Any]:
    """Return settings inside their ranges: a change multiplies them by 0.8 or 1.2."""
    clipped = dict(settings)
    for name, (draw, values) in space.items():
        if draw in ("choice", "grid"):
            continue
        low, high, *step = values
        value = settings[name]
        if step:
            value = round(value / step[0]) * step[0]
        # The end of a range of whole numbers does not belong to it.
        value = min(max(value, low), high - 1 if "int" in draw else high)
        clipped[name] = int(value) if "int" in draw else value
    return clipped


def round_samples(samples: int, global_batch: int, wanted: int | None) -> int:
    """Return the samples between exchanges; by default a fifth of a trial.

    Raises:
        UserError: there would be no exchange, or several in a step.
    """
    found = wanted if wanted is not None else max(global_batch, math.ceil(samples / 5))
    if not global_batch <= found < samples:
        raise UserError(
            f"{found} samples between exchanges do not fit trials of {samples} samples in steps "
            f"of {global_batch}",
            f"set --exchange-samples to at least {global_batch} and below {samples}",
        )
    return found


def point_to(run_dir: Path, samples_seen: int) -> Any:
    """Return a checkpoint of Ray that names one in a run folder."""
    folder = run_dir / ".pointer"
    folder.mkdir(exist_ok=True)
    content = {"run": run_dir.name, "samples_seen": samples_seen}
    (folder / _POINTER).write_text(json.dumps(content))
    return Checkpoint.from_directory(folder)


def read_pointer(checkpoint: Checkpoint) -> tuple[str, int]:
    """Return the run and the position that a checkpoint of Ray names."""
    with checkpoint.as_directory() as folder:
        content = json.loads((Path(folder) / _POINTER).read_text())
    return str(content["run"]), int(content["samples_seen"])


def take_over(run_dir: Path, donor: Path, samples_seen: int) -> None:
    """Replace the checkpoints of a run by one of another run.

    Raises:
        UserError: the other run does not have it any more.
    """
    name = f"{samples_seen:012d}"
    source = donor / "checkpoints" / name
    own = run_dir / "checkpoints"
    temporary = own / f".{name}.taken.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        shutil.copytree(source, temporary, copy_function=link_or_copy)
    except (OSError, shutil.Error) as error:
        raise UserError(
            f"{donor.name} has no checkpoint at sample {samples_seen} for {run_dir.name}",
            "keep more with checkpoint.keep_last",
        ) from error
    others = [path for path in own.iterdir() if path.name.isdigit() and path.name != name]
    publish_folder(temporary, own / name)
    for path in others:
        # Hidden first: half a folder is no checkpoint.
        shutil.rmtree(path.rename(own / f".{path.name}.left.old"), ignore_errors=True)
