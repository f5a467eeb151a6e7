import copy
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from preprocessing.errors import UserError
from xnemo.model.gan.convolutions import ModulatedConv2d
from xnemo.model.gan.gan_head import GanHead, GanHeadConfig

TINY = GanHeadConfig(image_size=32, widths=(8, 12, 16), motion_dim=10, appearance_dim=6)


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    return GanHead(**asdict(TINY))


def kernel_per_sample(layer, x, style):
    """StyleGAN2's definition: one kernel per sample, modulated, then normalised."""
    out = []
    for sample, s in zip(x, layer.to_scale(style), strict=True):
        kernel = layer.weight * layer.gain * s[None, :, None, None]
        if layer.demodulate:
            kernel = kernel / (kernel.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        out.append(F.conv2d(sample[None], kernel, layer.bias, padding=layer.padding))
    return torch.cat(out)


@pytest.mark.parametrize("demodulate", [True, False])
def test_shared_kernel_equals_one_kernel_per_sample_in_value_and_gradient(demodulate):
    torch.manual_seed(1)
    layer = ModulatedConv2d(5, 7, 3, style_dim=4, demodulate=demodulate).double()
    x = torch.randn(3, 5, 6, 6, dtype=torch.double, requires_grad=True)
    style = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    weights = torch.randn(3, 7, 6, 6, dtype=torch.double)
    results = []
    for y in (layer(x, style), kernel_per_sample(layer, x, style)):
        gradients = torch.autograd.grad((y * weights).sum(), [x, style, *layer.parameters()])
        results.append([y, *gradients])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


def test_motion_gradient_equals_finite_differences(head):
    head = copy.deepcopy(head).double()
    reference, weights = torch.randn(2, 1, 3, 32, 32, dtype=torch.double)
    motion = torch.randn(1, 10, dtype=torch.double, requires_grad=True)
    direction = torch.randn(1, 10, dtype=torch.double)

    def loss(m):
        return (head(reference, m) * weights).sum()

    (gradient,) = torch.autograd.grad(loss(motion), motion)
    step = 1e-6
    with torch.no_grad():
        difference = (loss(motion + step * direction) - loss(motion - step * direction)) / (
            2 * step
        )
    assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=1e-4)


def test_every_parameter_has_a_gradient(head):
    head.zero_grad()
    head(torch.randn(2, 3, 32, 32), torch.randn(2, 10)).square().mean().backward()
    without = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_image_is_bounded_and_depends_on_both_inputs_but_not_on_its_batch(head):
    reference, motion = torch.randn(3, 3, 32, 32), torch.randn(3, 10)
    with torch.no_grad():
        picture = head(reference, motion)
        assert picture.shape == (3, 3, 32, 32)
        assert picture.abs().max() <= 1
        torch.testing.assert_close(head(reference[1:2], motion[1:2])[0], picture[1])
        assert not torch.allclose(head(reference, motion.flip(0))[0], picture[0], atol=1e-3)
        assert not torch.allclose(head(reference.flip(0), motion)[0], picture[0], atol=1e-3)


def test_bf16_stays_near_fp32(head):
    reference, motion = torch.randn(2, 3, 32, 32), torch.randn(2, 10)
    with torch.no_grad():
        exact = head(reference, motion)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = head(reference, motion)
        full = GanHead(**asdict(TINY)).to(torch.bfloat16)
        full.load_state_dict(head.state_dict())
        low = full(reference.bfloat16(), motion.bfloat16())
    assert (mixed.float() - exact).abs().max() < 0.1
    assert (low.float() - exact).abs().max() < 0.15


def test_noise_depends_only_on_the_samples_seed():
    torch.manual_seed(0)
    head = GanHead(**asdict(TINY) | {"noise": True})
    for name, parameter in head.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.ones_(parameter)
    reference, motion = torch.randn(2, 3, 32, 32), torch.randn(2, 10)
    with torch.no_grad():
        together = head(reference, motion, noise_seeds=[5, 9])
        torch.manual_seed(77)
        alone = head(reference[1:], motion[1:], noise_seeds=[9])
        other = head(reference[1:], motion[1:], noise_seeds=[5])
    torch.testing.assert_close(alone[0], together[1])
    assert not torch.allclose(other, alone, atol=1e-3)


def test_full_size_is_256_from_an_8x8_map():
    with torch.device("meta"):
        head = GanHead(**asdict(GanHeadConfig()))
        picture = head(torch.empty(1, 3, 256, 256), torch.empty(1, 512))
        assert head.appearance_encoder(torch.empty(1, 3, 256, 256))[0].shape == (1, 512, 8, 8)
    assert picture.shape == (1, 3, 256, 256)


def test_saved_head_loads_bit_for_bit(head, tmp_path):
    head.save_pretrained(tmp_path)
    again = GanHead.from_pretrained(tmp_path)
    for name, tensor in head.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"image_size": 100, "widths": (8, 8, 8, 8)}, "image_size"),
        ({"widths": ()}, "widths"),
        ({"motion_dim": 0}, "motion_dim"),
    ],
)
def test_wrong_sizes_name_the_field(change, field):
    with pytest.raises(UserError, match=rf"gan\.{field}"):
        GanHeadConfig(**change)
