"""Losses of the GAN head and its discriminator.

The paper names an adversarial and a feature matching loss; hinge and R1 are not published, chosen
because the motion encoder's ancestors train with hinge and R1 stabilises short runs.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from xnemo.model.gan.discriminator import DiscriminatorOutput

Outputs = Sequence[DiscriminatorOutput]


def _mean(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).mean()


def hinge_discriminator(real: Outputs, fake: Outputs) -> Tensor:
    """Hinge loss of the discriminator: real logits above 1, fake ones below -1, mean over scales.

    `fake` must come from detached images; this function cannot check that.
    """
    return _mean(
        [
            F.relu(1 - r.logits.float()).mean() + F.relu(1 + f.logits.float()).mean()
            for r, f in zip(real, fake, strict=True)
        ]
    )


def hinge_generator(fake: Outputs) -> Tensor:
    """Adversarial loss of the generator: raise the discriminator's logits, mean over scales."""
    return _mean([-f.logits.float().mean() for f in fake])


def feature_matching(real: Outputs, fake: Outputs) -> Tensor:
    """L1 distance between discriminator features of real and fake, summed over layers.

    The mean over scales, as in pix2pixHD and SPADE, whose weight of 10 belongs to the sum. The real
    side is detached: it is a target.
    """
    return _mean(
        [
            torch.stack(
                [
                    F.l1_loss(f.float(), r.detach().float())
                    for r, f in zip(real_scale.features, fake_scale.features, strict=True)
                ]
            ).sum()
            for real_scale, fake_scale in zip(real, fake, strict=True)
        ]
    )


def r1_penalty(discriminator: Callable[[Tensor], Outputs], real_BCHW: Tensor) -> Tensor:
    """Half the squared gradient of the logits at real images, mean over the batch.

    Mescheder et al. 2018. Each scale's logits are averaged over its patches first, so that the
    weight of the penalty does not depend on the image size. Differentiates twice; under ZeRO-3,
    whose hooks support one backward pass only, use `r1_penalty_by_difference`.
    """
    real = real_BCHW.detach().requires_grad_(True)
    score = _mean([o.logits.float().mean(dim=(1, 2, 3)) for o in discriminator(real)]) * len(real)
    (gradient,) = torch.autograd.grad(score, real, create_graph=True)
    return 0.5 * gradient.float().square().sum(dim=(1, 2, 3)).mean()


def r1_penalty_by_difference(
    discriminator: Callable[[Tensor], Outputs],
    real_BCHW: Tensor,
    noise_BCHW: Tensor,
    sigma: float = 0.01,
) -> Tensor:
    """R1 from two forward passes: `½ ‖(D(x + σn) − D(x)) / σ‖²`, n standard normal.

    Its expectation over `noise_BCHW` is `r1_penalty` to first order in `sigma`; it needs no second
    derivative and runs both images in one batch.
    """
    both = torch.cat([real_BCHW, real_BCHW + sigma * noise_BCHW])
    scores_2B = torch.stack(
        [o.logits.float().mean(dim=(1, 2, 3)) for o in discriminator(both)]
    ).mean(0)
    clean_B, noisy_B = scores_2B.chunk(2)
    return 0.5 * ((noisy_B - clean_B) / sigma).square().mean()
