"""Promotion: a candidate and the champion measured on the same held-out clips."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from pipelines.animate.job import place_networks, write_file
from pipelines.cluster.connect import cluster_address, connect
from pipelines.promote import Metric
from pipelines.promote.champion import (
    Champion,
    bundle_name,
    champion_store,
    fetch_champion,
    publish_champion,
    read_champion,
)
from pipelines.tracking import RunLog, choose_uri, default_uri, sync
from pipelines.train.job import absolute_root
from pipelines.train.run_folder import is_open
from preprocessing.errors import UserError
from preprocessing.faces import make_detector
from preprocessing.storage.store import Store
from xnemo.animation.animator import Animator
from xnemo.animation.config import AnimateConfig
from xnemo.evaluation.held_out import KnownFaces, read_held_out
from xnemo.evaluation.reenactment import TRAINED, Trial, framed, mean_scores, score
from xnemo.training.checkpoint.bundle import bundle_config, load_bundle, read_meta

#: File in a run folder: what was decided about its bundle.
DECISION = "promotion.json"

# Held-out clips, the frames of each, and their stride.
_CLIPS, _FRAMES, _STRIDE = 32, 16, 2

#: MLflow's alias of the champion's version of a model.
_ALIAS = "champion"


@dataclass(frozen=True)
class Decision:
    """Whether a candidate became the champion, and why."""

    promoted: bool
    metric: str
    # Value of the candidate, and of the champion it was compared with; None without one.
    candidate: float
    champion: float | None
    champion_run: str | None
    # MLflow has not heard of it yet; `xnemo sync` tells it.
    unsent: bool = False

    def facts(self, run_dir: Path) -> dict[str, str]:
        """Return the decision as names and values to show."""
        other = "" if self.champion is None else f", {self.champion:.4g} of {self.champion_run}"
        before = f"{self.champion_run or 'nothing'} as before"
        facts = {
            "served": run_dir.name if self.promoted else before,
            self.metric: f"{self.candidate:.4g} of {run_dir.name}{other}",
        }
        return facts | ({"not yet in MLflow": f"run xnemo sync {run_dir}"} if self.unsent else {})


def promote(
    run_dir: str | Path,
    data: Sequence[str],
    champion: str,
    *,
    metric: Metric = "motion_correlation",
    address: str | None = None,
    tracking_uri: str | None = None,
) -> Decision:
    """Make a run's bundle the champion if it animates held-out clips better.

    Args:
        run_dir: folder of the run.
        data: data sets; both bundles are measured on the held-out clips that they have now.
        champion: folder or fsspec URL of the champion.
        metric: what decides; equal is not better.
        address: Ray cluster whose GPUs measure; None for this process.
        tracking_uri: as for `train`.

    Raises:
        UserError: there is no bundle, no held-out clip or no right to write, the run is being
            trained, or another job decides about this champion.
    """
    folder = Path(run_dir).absolute()
    if folder.is_dir() and is_open(folder):
        raise UserError(f"run {folder.name} is being trained", "promote it when it has ended")
    with champion_store(champion) as store:
        return decide(folder, data, store, metric, address, tracking_uri)


def decide(
    run_dir: Path,
    data: Sequence[str],
    store: Store,
    metric: Metric,
    address: str | None,
    tracking_uri: str | None,
) -> Decision:
    """Decide as the champion's only writer, and record it in the run folder and MLflow."""
    bundle = run_dir / "bundle"
    meta = read_meta(bundle)
    name = bundle_name(run_dir.name, bundle)
    before = read_champion(store)
    if before is not None and before.bundle == name:
        # A job that was killed here has moved the pointer.
        decision = Decision(True, metric, before.scores.get(metric, math.nan), None, None)
    else:
        rivals = [bundle]
        if before is not None:
            rivals.append(fetch_champion(store, before, run_dir.parent / ".champion"))
        held_out = bundle_config(bundle, meta).validation.filter
        roots = [absolute_root(root) for root in data]
        measured = _measure_all([str(rival) for rival in rivals], roots, held_out, address)
        values = [one[metric] for one in measured]
        better = _is_better(metric, *values)
        others = (values[1], before.run) if before is not None else (None, None)
        decision = Decision(better, metric, values[0], *others)
        if better:
            publish_champion(store, bundle, Champion(run_dir.name, name, measured[0]))
    told = _tell(run_dir, meta["samples_seen"], decision, tracking_uri)
    write_file(run_dir / DECISION, json.dumps(asdict(decision), indent=1).encode())
    return Decision(**{**asdict(decision), "unsent": not told})


def _is_better(metric: Metric, candidate: float, champion: float | None = None) -> bool:
    if not math.isfinite(candidate):
        return False
    if champion is None or not math.isfinite(champion):
        return True
    return candidate < champion if metric == "l1" else candidate > champion


def _measure_all(
    bundles: list[str], data: list[str], held_out: str, address: str | None
) -> list[dict[str, float]]:
    if cluster_address(address) is None:
        return [measure(bundle, data, held_out) for bundle in bundles]
    with connect(address) as cluster:
        import ray

        task = ray.remote(measure).options(num_cpus=1, num_gpus=int(cluster.gpus > 0))
        try:
            return list(ray.get([task.remote(bundle, data, held_out) for bundle in bundles]))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise


def measure(bundle: str, data: list[str], held_out: str) -> dict[str, float]:
    """Return the mean scores of a bundle that animates held-out clips with themselves.

    Args:
        bundle: its folder.
        data: data sets.
        held_out: filter expression of the clips.
    """
    loaded = load_bundle(bundle)
    place_networks(loaded.networks)
    clips = read_held_out(data, held_out, clips=_CLIPS, frames=_FRAMES, stride=_STRIDE)
    faces = KnownFaces(clips, make_detector())
    animator = Animator(loaded.networks, faces, loaded.config.diffusion, window=loaded.window)
    # The truth has the position of the driving face, as in training.
    config = AnimateConfig(box="real")
    scores = []
    for clip in clips:
        trial = Trial(clip.key, clip.frames[0], clip.frames, clip.frames)
        _, truth = framed(animator, trial, config)
        made = np.stack(list(animator.animate(trial.portrait, trial.driving, config)))
        scores.append(score(TRAINED, made, truth))
    mean = asdict(mean_scores(scores))
    return {name: mean[name] for name in get_args(Metric)}


def _tell(run_dir: Path, samples_seen: int, decision: Decision, uri: str | None) -> bool:
    """Record a decision in the run log and send it; return whether MLflow has it."""
    log = RunLog(run_dir)
    if log.key is None:
        # Trained elsewhere: MLflow knows no version of it.
        log.close()
        return True
    log.metrics(samples_seen, {f"promotion/{decision.metric}": decision.candidate})
    if decision.promoted:
        log.alias(_ALIAS)
    log.end("FINISHED")
    log.close()
    try:
        sync(run_dir, choose_uri(uri, default_uri(run_dir.parent)))
    except UserError:
        return False
    return True
