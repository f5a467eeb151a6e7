"""Does a model follow its driver? Held against frames that are known, and against doing nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from preprocessing import geometry
from xnemo.animation.animator import AnimateConfig, Animator
from xnemo.animation.pictures import to_tensor
from xnemo.evaluation.lpips import Lpips
from xnemo.evaluation.pictures import l1, mean_finite, psnr, ssim

TRAINED = "trained"
UNTRAINED = "untrained"
# Position and scale of the driver's face are kept from the model: what it still follows it has read
# from the look of the face.
FACE_ALONE = "trained, place withheld"
NO_MOTION = "trained, driver held still"
REPEATED = "portrait repeated"

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Trial:
    """A portrait, a driver, and what the portrait should look like when it follows."""

    name: str
    # The picture to be animated, RGB uint8 (H, W, 3).
    portrait: NDArray[np.uint8]
    # RGB uint8 frames.
    driving: Pictures
    # The true frames in the portrait's pixels, (F, H, W, 3); cut as the animator cuts its portrait.
    truth: Pictures


@dataclass(frozen=True)
class Followed:
    """How near a contender comes to the truth; means over frames, then over trials."""

    contender: str
    # Mean absolute difference, as a share of the full range.
    l1: float
    # In dB.
    psnr: float
    # Structural similarity, 1 for equal.
    ssim: float
    # Perceptual distance; NaN without its weights.
    lpips: float
    # Correlation of each pixel's changes over time with the true ones: 1 follows exactly, 0 not.
    follows: float


def compare_followers(
    trained: Animator,
    trials: Sequence[Trial],
    *,
    untrained: Animator | None = None,
    config: AnimateConfig | None = None,
    lpips: Lpips | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> list[Followed]:
    """Let every contender animate every trial and score it against the known truth.

    The contenders: the model, the model that is not told where in the picture the driver's face
    is, the model with a driver that holds its first pose, the portrait repeated, and, where given,
    the same networks untrained. They share seed and options.

    Args:
        trained: The model.
        trials: What to animate.
        untrained: The networks with the weights that training began with.
        config: Options; left out, the driver's place in the picture is followed as in training.
        lpips: For the perceptual distance.
        on_progress: Told how many animations are done, of how many, and what comes next.
    """
    config = config or AnimateConfig(box="real")
    names = [TRAINED, FACE_ALONE, NO_MOTION, REPEATED, *([UNTRAINED] if untrained else [])]
    scores: dict[str, list[Followed]] = {name: [] for name in names}
    total, done = len(trials) * len(names), 0
    for trial in trials:
        wide, truth = framed(trained, trial, config)
        for name in names:
            if on_progress:
                on_progress(done, total, f"{trial.name}: {name}")
            made = _animate(name, trial, wide, trained, untrained, config)
            scores[name].append(score(name, made, truth, lpips))
            done += 1
    return [_mean(scores[name]) for name in names]


def framed(
    animator: Animator, trial: Trial, config: AnimateConfig | None = None
) -> tuple[NDArray[np.uint8], Pictures]:
    """Return portrait (S, S, 3) and truth (F, S, S, 3) in the framing of the animator's results."""
    portrait = animator.prepare_portrait(trial.portrait, config)
    size = portrait.wide.shape[0]
    box = geometry.reference_crop_box(portrait.box, trial.portrait.shape[:2])
    return portrait.wide, np.stack([geometry.crop_resize(x, box, size) for x in trial.truth])


def score(
    contender: str, made_FHWC: Pictures, truth_FHWC: Pictures, lpips: Lpips | None = None
) -> Followed:
    """Hold frames against the truth, both RGB uint8 of one size."""
    made, truth = to_tensor(made_FHWC), to_tensor(truth_FHWC)
    with torch.no_grad():
        perceptual = mean_finite(lpips(made, truth)) if lpips is not None else float("nan")
    return Followed(
        contender=contender,
        l1=mean_finite(l1(made, truth)),
        psnr=mean_finite(psnr(made, truth)),
        ssim=mean_finite(ssim(made, truth)),
        lpips=perceptual,
        follows=change_correlation(made_FHWC, truth_FHWC),
    )


def change_correlation(made_FHWC: Pictures, truth_FHWC: Pictures) -> float:
    """Return the correlation of pixels' changes about their mean in time; 0 where one is still."""
    a, b = (x.astype(np.float64) - x.mean(0, dtype=np.float64) for x in (made_FHWC, truth_FHWC))
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / norm) if norm > 0 else 0.0


def _animate(
    name: str,
    trial: Trial,
    wide: NDArray[np.uint8],
    trained: Animator,
    untrained: Animator | None,
    config: AnimateConfig,
) -> Pictures:
    if name == REPEATED:
        return np.repeat(wide[None], len(trial.driving), axis=0)
    animator = untrained if name == UNTRAINED else trained
    assert animator is not None
    driving = trial.driving
    if name == FACE_ALONE:
        config = replace(config, box="constant")
    if name == NO_MOTION:
        driving = np.repeat(driving[:1], len(driving), axis=0)
    return np.stack(list(animator.animate(trial.portrait, driving, config)))


def _mean(scores: list[Followed]) -> Followed:
    numbers = {
        field.name: mean_finite(torch.tensor([getattr(s, field.name) for s in scores]))
        for field in fields(Followed)
        if field.name != "contender"
    }
    return Followed(contender=scores[0].contender, **numbers)
