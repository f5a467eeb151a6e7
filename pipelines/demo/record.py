"""Held-out samples and scores of the demo in MLflow."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipelines.tracking import RunLog, sync
from pipelines.train.job import TrainResult
from preprocessing.errors import UserError
from xnemo.evaluation.reenactment import ReenactmentScores

# Folder of samples, in the run's folder and in MLflow.
_SAMPLES = "samples"


def record_results(
    training: TrainResult, files: Sequence[Path], scores: Sequence[ReenactmentScores]
) -> str | None:
    """Add sample files and held-out scores to the training run, once.

    Returns:
        Why MLflow did not receive them, or None; `xnemo sync` sends pending records.
    """
    folder = training.run_dir / _SAMPLES
    if not folder.exists():
        folder.mkdir()
        for file in files:
            shutil.copyfile(file, folder / file.name)
        log = RunLog(training.run_dir)
        try:
            log.artifact(folder, _SAMPLES)
            log.metrics(training.samples_seen, held_out_metrics(scores))
            log.end("FINISHED")
        finally:
            log.close()
    try:
        return sync(training.run_dir, training.tracking_uri).refusal
    except UserError as error:
        return str(error)


def held_out_metrics(scores: Sequence[ReenactmentScores]) -> dict[str, float]:
    """Return the scores by MLflow metric names, such as `held_out/trained/l1`."""
    return {
        f"held_out/{re.sub(r'[^a-z]+', '_', score.method)}/{name}": float(getattr(score, name))
        for score in scores
        for name in ("l1", "psnr", "ssim", "motion_correlation")
    }
