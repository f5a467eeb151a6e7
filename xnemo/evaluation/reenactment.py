"""Self-reenactment: a model, its ablations and baselines against the true frames."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from preprocessing import geometry
from xnemo.animation.animator import Animator
from xnemo.animation.config import AnimateConfig
from xnemo.animation.motion import to_tensor
from xnemo.evaluation.image_metrics import l1, mean_finite, psnr, ssim
from xnemo.evaluation.lpips import Lpips

# The methods that are compared.
TRAINED = "trained"
# The position and scale of the driving face are constant: motion comes from its appearance alone.
CONSTANT_BOX = "trained, position withheld"
STILL = "trained, driving video held still"
REPEATED = "portrait repeated"

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Trial:
    """A portrait, driving frames, and the true result."""

    name: str
    # The portrait, RGB uint8 (H, W, 3).
    portrait: NDArray[np.uint8]
    # RGB uint8 frames.
    driving: Frames
    # The true frames in the portrait's pixels (F, H, W, 3), cropped as the animator does.
    truth: Frames


@dataclass(frozen=True)
class ReenactmentScores:
    """Metrics of one method against the true frames: means over frames, then over trials."""

    # The model, an ablation or a baseline.
    method: str
    # Mean absolute difference, as a fraction of the full range.
    l1: float
    # In dB.
    psnr: float
    # Structural similarity, 1 for equal.
    ssim: float
    # Perceptual distance; NaN without its weights.
    lpips: float
    # Correlation of each pixel's changes over time with the true ones: 1 for equal motion, 0 for
    # none.
    motion_correlation: float


def compare_methods(
    trained: Animator,
    trials: Sequence[Trial],
    *,
    others: Mapping[str, Animator] | None = None,
    config: AnimateConfig | None = None,
    lpips: Lpips | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> list[ReenactmentScores]:
    """Run every method on every trial and score it against the true frames.

    The methods: the model, the model without the position of the driving face, the model with
    driving frames that repeat the first one, the repeated portrait, and other models. All share
    seed and settings.

    Args:
        trained: The model.
        trials: What to animate.
        untrained: The networks with their initial weights.
        others: Other models by the name of their method, such as the untrained networks.
        config: Settings; by default the driving face's position is used as in training.
        lpips: The perceptual distance.
        on_progress: Receives animations done, animations in all, and the name of the next one.
    """
    config = config or AnimateConfig(box="real")
    others = others or {}
    methods = [TRAINED, CONSTANT_BOX, STILL, REPEATED, *others]
    scores: dict[str, list[ReenactmentScores]] = {method: [] for method in methods}
    total, done = len(trials) * len(methods), 0
    for trial in trials:
        wide, truth = framed(trained, trial, config)
        for method in methods:
            if on_progress:
                on_progress(done, total, f"{trial.name}: {method}")
            generated = _animate(method, trial, wide, others.get(method, trained), config)
            scores[method].append(score(method, generated, truth, lpips))
            done += 1
    return [mean_scores(scores[method]) for method in methods]


def framed(
    animator: Animator, trial: Trial, config: AnimateConfig | None = None
) -> tuple[NDArray[np.uint8], Frames]:
    """Return portrait (S, S, 3) and truth (F, S, S, 3), cropped as the animator's results."""
    portrait = animator.prepare_portrait(trial.portrait, config)
    size = portrait.wide.shape[0]
    truth = [geometry.crop_resize(x, portrait.crop, size) for x in trial.truth]
    return portrait.wide, np.stack(truth)


def score(
    method: str, generated_FHWC: Frames, truth_FHWC: Frames, lpips: Lpips | None = None
) -> ReenactmentScores:
    """Compare generated with true frames, both RGB uint8 of one size."""
    generated, truth = to_tensor(generated_FHWC), to_tensor(truth_FHWC)
    with torch.no_grad():
        perceptual = mean_finite(lpips(generated, truth)) if lpips is not None else float("nan")
    return ReenactmentScores(
        method=method,
        l1=mean_finite(l1(generated, truth)),
        psnr=mean_finite(psnr(generated, truth)),
        ssim=mean_finite(ssim(generated, truth)),
        lpips=perceptual,
        motion_correlation=motion_correlation(generated_FHWC, truth_FHWC),
    )


def motion_correlation(a_FHWC: Frames, b_FHWC: Frames) -> float:
    """Return the correlation of pixels' changes about their mean over time; 0 if one is still."""
    a, b = (x.astype(np.float64) - x.mean(0, dtype=np.float64) for x in (a_FHWC, b_FHWC))
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / norm) if norm > 0 else 0.0


def _animate(
    method: str,
    trial: Trial,
    wide: NDArray[np.uint8],
    animator: Animator,
    config: AnimateConfig,
) -> Frames:
    if method == REPEATED:
        return np.repeat(wide[None], len(trial.driving), axis=0)
    driving = trial.driving
    if method == CONSTANT_BOX:
        config = replace(config, box="constant")
    if method == STILL:
        driving = np.repeat(driving[:1], len(driving), axis=0)
    return np.stack(list(animator.animate(trial.portrait, driving, config)))


def mean_scores(scores: Sequence[ReenactmentScores]) -> ReenactmentScores:
    """Return the means of one method's scores over trials."""
    numbers = {
        field.name: mean_finite(torch.tensor([getattr(s, field.name) for s in scores]))
        for field in fields(ReenactmentScores)
        if field.name != "method"
    }
    return ReenactmentScores(method=scores[0].method, **numbers)
