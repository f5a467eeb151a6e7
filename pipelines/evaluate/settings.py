"""Settings and shared state of an evaluation, and rows of its tables."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import UserError
from preprocessing.faces.detector import Detector
from xnemo.animation.animator import Animator, Progress
from xnemo.animation.config import AnimateConfig, BoxMode
from xnemo.evaluation.face_metrics import face_distances
from xnemo.evaluation.lpips import Lpips
from xnemo.training.checkpoint.bundle import Bundle, Weights

# A row of a table; a number that could not be measured is None.
Row = dict[str, Any]


@dataclass(frozen=True)
class EvaluateOptions(AnimateConfig):
    """All settings of `xnemo evaluate`: those of the animations and of the measurement."""

    # As in training: the truth of self-reenactment has the driving face's position.
    box: BoxMode = "real"
    # Averaged or raw weights of a bundle.
    weights: Weights = "ema"
    # Filter expression on the rows of the index; empty uses the bundle's validation filter.
    filter: str = ""
    # Most clips or pairs to animate; None animates 8 clips of a data set, or all pairs of a list.
    limit: int | None = None
    # Frames of each clip.
    frames: int = 16
    # Distance between the frames used.
    stride: int = 2
    # Clips for the probes of the motion latent, which need no animation; 0 turns them off.
    probe_clips: int = 64
    # Synthetic strangers who are animated, where no source is given.
    people: int = 12
    # Frames of each stranger.
    motions: int = 25
    # Other synthetic people, whom the linear reader of the motion latent is fitted to.
    reader_people: int = 48
    # Bundle whose motion encoder reads motion back from results; None uses the model's own.
    reader: str | None = None
    # Also measure the same networks untrained.
    untrained: bool = True
    # Also animate every portrait with a clip of another identity.
    cross: bool = True
    # Detector that finds the faces; insightface with its weights also measures identity.
    detector: str = "centerface"
    # Folder or name of the insightface detector's weights.
    face_model_dir: str | None = None
    # Folder of the two weight files of LPIPS; None leaves it out.
    lpips: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (
            ("limit", 1),
            ("frames", 2),
            ("stride", 1),
            ("probe_clips", 0),
            ("people", 2),
            ("motions", 4),
            ("reader_people", 3),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} is {value}", f"set it to {least} or more")


@dataclass
class Run:
    """Everything an evaluation shares."""

    bundle: Bundle
    options: EvaluateOptions
    detector: Detector
    lpips: Lpips | None
    report: Progress
    # What was not measured, and why.
    notes: list[str] = field(default_factory=list)


def cross_row(
    animator: Animator,
    portrait: tuple[str, NDArray[np.uint8]],
    driving: tuple[str, NDArray[np.uint8]],
    config: AnimateConfig,
) -> Row:
    """Animate a named portrait with named driving frames and return the face metrics."""
    generated = np.stack(list(animator.animate(portrait[1], driving[1], config)))
    distances = face_distances(generated, driving[1], portrait[1], animator.detector)
    return {"portrait": portrait[0], "driving": driving[0], **plain(asdict(distances))}


def with_mean(rows: list[Row]) -> list[Row]:
    """Return rows of `cross_row` and one with the means of all numbers that were measured."""
    if not rows:
        return []
    mean: Row = {}
    for name in rows[0]:
        numbers = [row[name] for row in rows if isinstance(row[name], float)]
        mean[name] = float(np.mean(numbers)) if numbers else None
    return [*rows, mean | {"portrait": "mean"}]


def plain(row: Mapping[str, Any]) -> Row:
    """Return a row with None for numbers that are not finite, which JSON cannot hold."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
