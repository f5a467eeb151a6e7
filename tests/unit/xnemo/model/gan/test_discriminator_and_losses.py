from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from preprocessing.errors import UserError
from xnemo.model.gan.adversarial_losses import (
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    r1_penalty,
    r1_penalty_by_difference,
)
from xnemo.model.gan.convolutions import SpectralConv2d
from xnemo.model.gan.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    DiscriminatorOutput,
)

TINY = DiscriminatorConfig(scales=2, width=8, max_width=16, layers=2)


@pytest.fixture
def discriminator():
    torch.manual_seed(0)
    return Discriminator(**asdict(TINY))


def output(value, features=()):
    return DiscriminatorOutput(torch.full((2, 1, 3, 3), float(value)), list(features))


def test_hinge_is_zero_beyond_the_margin_and_linear_inside():
    assert hinge_discriminator([output(2)], [output(-2)]) == 0
    assert hinge_discriminator([output(0.5)], [output(0)]) == 1.5
    assert hinge_discriminator([output(0), output(2)], [output(0), output(-2)]) == 1
    assert hinge_generator([output(3), output(1)]) == -2


def test_feature_matching_has_no_gradient_on_the_real_side():
    real, fake = (torch.ones(1, 2, requires_grad=True) * v for v in (3, 1))
    real.retain_grad()
    fake.retain_grad()
    loss = feature_matching([output(0, [real])], [output(0, [fake])])
    loss.backward()
    assert loss == 2
    assert real.grad is None
    assert fake.grad.abs().sum() > 0


def test_feature_matching_sums_layers_and_averages_scales():
    def scale(distance):
        layers = [torch.zeros(1, 2), torch.zeros(1, 5)]
        return output(0, layers), output(0, [layer + distance for layer in layers])

    real, fake = zip(scale(1.0), scale(3.0), strict=True)
    assert feature_matching(real, fake) == (2 * 1 + 2 * 3) / 2


def test_r1_of_a_linear_discriminator_is_half_its_squared_norm():
    weight = torch.randn(3, 8, 8)

    def linear(x):
        return [DiscriminatorOutput((x * weight).sum(dim=(1, 2, 3)).view(-1, 1, 1, 1), [])]

    real = torch.randn(4, 3, 8, 8)
    expected = float(0.5 * weight.square().sum())
    assert float(r1_penalty(linear, real)) == pytest.approx(expected, rel=1e-5)
    draws = [
        float(r1_penalty_by_difference(linear, real, torch.randn(4, 3, 8, 8), 0.1))
        for _ in range(400)
    ]
    assert sum(draws) / len(draws) == pytest.approx(expected, rel=0.15)


def test_r1_matches_finite_differences_and_trains_the_discriminator(discriminator):
    discriminator.eval().double()
    real = torch.randn(2, 3, 32, 32, dtype=torch.double)
    penalty = r1_penalty(discriminator, real)
    penalty.backward()
    weight = discriminator.discriminators[0].convs[1].weight
    assert weight.grad.abs().sum() > 0
    picked, step = (0, 0, 1, 1), 1e-4
    expected = float(weight.grad[picked])
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[picked] += sign * step
        values.append(r1_penalty(discriminator, real).item())
        with torch.no_grad():
            weight[picked] -= sign * step
    assert expected == pytest.approx((values[0] - values[1]) / (2 * step), rel=0.02, abs=1e-7)


def test_each_scale_halves_the_image(discriminator):
    sides = [o.logits.shape[-1] for o in discriminator(torch.randn(1, 3, 64, 64))]
    assert sides[0] > sides[1]
    assert len(discriminator(torch.randn(1, 3, 64, 64))[0].features) == TINY.layers + 1


def test_spectral_norm_is_the_largest_singular_value_and_still_while_frozen():
    torch.manual_seed(0)
    conv = SpectralConv2d(4, 6, 3)
    x = torch.randn(1, 4, 9, 9)
    for _ in range(50):
        conv(x)
    sigma = torch.linalg.matrix_norm(conv.weight.detach().flatten(1), 2)
    torch.testing.assert_close(
        conv(x), F.conv2d(x, conv.weight / sigma, conv.bias), rtol=1e-3, atol=1e-4
    )
    conv.weight.data.normal_()
    before = conv.left.clone()
    conv.requires_grad_(False)
    conv(x)
    assert torch.equal(conv.left, before)
    conv.requires_grad_(True)
    with torch.no_grad():
        conv(x)
    assert torch.equal(conv.left, before)
    conv(x)
    assert not torch.equal(conv.left, before)


def test_a_frozen_discriminator_passes_gradients_to_the_image_only(
    discriminator,
):
    state = {name: tensor.clone() for name, tensor in discriminator.state_dict().items()}
    discriminator.requires_grad_(False)
    fake = torch.randn(2, 3, 32, 32, requires_grad=True)
    real = discriminator(torch.randn(2, 3, 32, 32))
    logits = discriminator(fake)
    (hinge_generator(logits) + feature_matching(real, logits)).backward()
    assert fake.grad.abs().sum() > 0
    assert all(p.grad is None for p in discriminator.parameters())
    assert all(
        torch.equal(tensor, state[name]) for name, tensor in discriminator.state_dict().items()
    )


def test_every_parameter_has_a_gradient_in_the_discriminator_pass(discriminator):
    hinge_discriminator(
        discriminator(torch.randn(2, 3, 32, 32)), discriminator(torch.randn(2, 3, 32, 32))
    ).backward()
    assert not [n for n, p in discriminator.named_parameters() if p.grad is None]


def test_bf16_stays_near_fp32(discriminator):
    x = torch.randn(2, 3, 32, 32)
    discriminator.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = discriminator(x)
    with torch.no_grad():
        exact = discriminator(x)
    for low, high in zip(mixed, exact, strict=True):
        assert (low.logits.float() - high.logits).abs().max() < 0.1


@pytest.mark.parametrize("norm", ["spectral_instance", "spectral", "instance", "none"])
def test_norm_options_select_the_layers(norm):
    discriminator = Discriminator(**asdict(TINY) | {"norm": norm})
    kinds = {type(m) for m in discriminator.modules()}
    assert (SpectralConv2d in kinds) == ("spectral" in norm)
    assert (nn.InstanceNorm2d in kinds) == ("instance" in norm)


def test_an_unknown_norm_is_named():
    with pytest.raises(UserError, match=r"discriminator\.norm = 'batch'"):
        DiscriminatorConfig(norm="batch")  # type: ignore[arg-type]
