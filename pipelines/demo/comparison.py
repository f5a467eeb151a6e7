"""Does the trained model follow its driver? Measured against frames that are known.

The demo's motion is known, so what a held-out portrait looks like under a held-out motion is known
too: `render` shows it. Every contender animates the same portraits with the same drivers, and is
held against that truth within the face.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.demo.faces import Portrait, load_portrait
from pipelines.demo.videos import DemoClip, read_frames
from pipelines.demo.warp import render
from preprocessing import geometry
from xnemo.animate import AnimateConfig, Animator

Frames = NDArray[np.uint8]

TRAINED = "trained model"
IGNORING = "trained model, driver held still"
UNTRAINED = "untrained model"
REPEATED = "portrait repeated"


@dataclass(frozen=True)
class Trial:
    """A portrait under a held-out clip's motion."""

    portrait: Portrait
    clip: DemoClip

    @property
    def title(self) -> str:
        """Who is moved by whom."""
        driver = self.clip.identity
        name = self.portrait.identity
        return f"{name} driven by " + ("their own clip" if name == driver else driver)


@dataclass(frozen=True)
class Score:
    """How near a contender comes to the truth, within the face."""

    contender: str
    # Mean absolute difference of 8-bit values.
    error: float
    # Correlation of each pixel's changes over time with the true ones, over all pixels together: 1
    # follows the motion exactly, 0 not at all.
    follows: float


@dataclass(frozen=True)
class Truth:
    """A trial's driver and the frames a perfect model would make of it."""

    driving: list[NDArray[np.uint8]]
    # (F, S, S, 3) in the framing of the model's results.
    target: Frames
    # The portrait in the same framing (S, S, 3).
    wide: NDArray[np.uint8]
    # Face box of the portrait in that framing.
    face: NDArray[np.int64]


def known_truth(trial: Trial, animator: Animator, every: int = 1) -> Truth:
    """Take every `every`-th frame of a trial's driver, and move the portrait by its motion."""
    _, motion = trial.clip.read_motion()
    driving = read_frames(trial.clip.path)
    if len(driving) != len(motion):
        raise RuntimeError(f"{trial.clip.path} has {len(driving)} frames of {len(motion)}")
    prepared = animator.prepare_portrait(trial.portrait.image)
    size = prepared.wide.shape[0]
    crop = geometry.reference_crop_box(prepared.box, trial.portrait.image.shape[:2])
    target = [
        geometry.crop_resize(frame, crop, size) for frame in render(trial.portrait, motion[::every])
    ]
    face = geometry.transform_boxes(prepared.box, geometry.crop_affine(crop, size))
    return Truth(
        driving[::every],
        np.stack(target),
        prepared.wide,
        np.clip(face.round(), 0, size).astype(int),
    )


def compare(
    trained: Animator,
    untrained: Animator,
    trials: Sequence[Trial],
    config: AnimateConfig,
    every: int = 3,
    on_progress: Callable[[float, str], None] = lambda fraction, note: None,
) -> list[Score]:
    """Score all contenders over all trials; the contenders' order is fixed.

    Args:
        trained: Animates with the trained weights.
        untrained: The same networks with the weights training began with.
        trials: Portraits and drivers, none of them trained on.
        config: Options of animation, the same for all.
        every: Frames of the drivers to go on by; 1 takes all.
        on_progress: Told the share done, between 0 and 1, and a few words.
    """
    contenders: dict[str, Callable[[Truth, Trial], Iterator[NDArray[np.uint8]]]] = {
        TRAINED: lambda truth, trial: trained.animate(trial.portrait.image, truth.driving, config),
        IGNORING: lambda truth, trial: trained.animate(
            trial.portrait.image, truth.driving[:1] * len(truth.driving), config
        ),
        UNTRAINED: lambda truth, trial: untrained.animate(
            trial.portrait.image, truth.driving, config
        ),
        REPEATED: lambda truth, trial: iter([truth.wide] * len(truth.target)),
    }
    scores: dict[str, list[Score]] = {name: [] for name in contenders}
    for number, trial in enumerate(trials):
        truth = known_truth(trial, trained, every)
        for place, (name, animate) in enumerate(contenders.items()):
            share = (number + place / len(contenders)) / len(trials)
            on_progress(share, f"{trial.title}: {name}")
            frames = np.stack(list(animate(truth, trial)))
            scores[name].append(score(name, frames, truth))
    return [
        replace(
            ofs[0],
            error=float(np.mean([s.error for s in ofs])),
            follows=float(np.mean([s.follows for s in ofs])),
        )
        for ofs in scores.values()
    ]


def score(contender: str, frames: Frames, truth: Truth) -> Score:
    """Hold frames (F, S, S, 3) against the truth within the face."""
    x0, y0, x1, y1 = truth.face
    made = frames[:, y0:y1, x0:x1].astype(np.float64)
    wanted = truth.target[:, y0:y1, x0:x1].astype(np.float64)
    made_change, wanted_change = made - made.mean(0), wanted - wanted.mean(0)
    norm = np.sqrt((made_change**2).sum() * (wanted_change**2).sum())
    follows = (made_change * wanted_change).sum() / norm if norm > 0 else 0.0
    return Score(contender, float(abs(made - wanted).mean()), float(follows))


def held_out_trials(clips: Sequence[DemoClip], identities: Sequence[str]) -> list[Trial]:
    """Pair each portrait with its own held-out clip, and the first with Hopper's as well."""
    held_out = {clip.identity: clip for clip in clips if clip.split == "held_out"}
    trials = [Trial(load_portrait(identities[0]), held_out["hopper"])]
    return trials + [Trial(load_portrait(name), held_out[name]) for name in identities]
