"""Invariances of the UNets, and gradients of their parameters."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from preprocessing.errors import UserError
from xnemo.model.compiling import require_compiling
from xnemo.model.unet.config import UNetConfig
from xnemo.model.unet.denoising_unet import DenoisingUNet
from xnemo.model.unet.reference_features import ReferenceFeatures
from xnemo.model.unet.reference_net import ReferenceNet


def predict(little, masked: bool = True) -> Tensor:
    reference = little.reference_net(little.portrait, little.tokens)
    if masked:
        reference = reference.mask_tokens(0.3, [1, 2, 3]).with_presence(little.present)
    return little.denoiser(little.noisy, little.timestep, little.tokens, little.motion, reference)


def gradients(little) -> dict[str, Tensor]:
    parts = {"denoiser": little.denoiser, "reference_net": little.reference_net}
    for part in parts.values():
        part.zero_grad()
    predict(little).square().mean().backward()
    return {
        f"{name}.{key}": parameter.grad.clone()
        for name, part in parts.items()
        for key, parameter in part.named_parameters()
        if parameter.grad is not None
    }


def test_checkpointing_changes_neither_output_nor_gradients(little):
    plain, plain_output = gradients(little), predict(little).detach()
    for part in (little.denoiser, little.reference_net):
        part.enable_gradient_checkpointing()
    torch.testing.assert_close(predict(little).detach(), plain_output, rtol=0, atol=0)
    recomputed = gradients(little)
    assert recomputed.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-6, atol=1e-9, msg=name)


def test_checkpointing_keeps_less_for_the_backward_pass(little):
    def kept() -> int:
        seen: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            seen[tensor.data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = predict(little)
        del output
        return sum(tensor.numel() for tensor in seen.values())

    plain = kept()
    little.denoiser.enable_gradient_checkpointing()
    assert kept() < 0.6 * plain


@pytest.mark.parametrize("present", [[True, False, True], [False, False, False], [True] * 3])
def test_every_trainable_parameter_gets_a_gradient_whatever_is_dropped(little, present):
    """A distributed engine waits for each of them."""
    little.present = torch.tensor(present)
    found = gradients(little)
    for name, part in (("denoiser", little.denoiser), ("reference_net", little.reference_net)):
        for key, parameter in part.named_parameters():
            assert parameter.requires_grad == (f"{name}.{key}" in found), key
    if not any(present):
        read = [g for name, g in found.items() if name.startswith("reference_net")]
        assert all(not g.any() for g in read)


def test_only_parameters_beyond_the_last_written_block_are_frozen(little):
    last = "up_blocks.2.attentions.1"
    frozen = {name for name, p in little.reference_net.named_parameters() if not p.requires_grad}
    assert all(name.startswith(last) for name in frozen)
    live = {f"{last}.{part}.{kind}" for part in ("norm", "proj_in") for kind in ("weight", "bias")}
    live |= {f"{last}.transformer_blocks.0.norm1.{kind}" for kind in ("weight", "bias")}
    everything = {n for n, _ in little.reference_net.named_parameters() if n.startswith(last)}
    assert everything - frozen == live


@torch.no_grad()
def test_channels_last_gives_the_same_numbers(little):
    plain = predict(little)
    for part in (little.denoiser, little.reference_net):
        part.to(memory_format=torch.channels_last)
    torch.testing.assert_close(predict(little), plain, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(little, dtype):
    plain = predict(little)
    for part in (little.denoiser, little.reference_net):
        part.to(dtype)
    for name in ("portrait", "noisy", "tokens", "motion"):
        setattr(little, name, getattr(little, name).to(dtype))
    half = predict(little)
    assert half.dtype == dtype
    error = (half.float() - plain).norm() / plain.norm()
    assert error < (0.05 if dtype == torch.bfloat16 else 0.01)


@torch.no_grad()
def test_autocast_reads_masked_references(little):
    plain = predict(little)
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        cast = predict(little).detach()
    assert (cast.float() - plain).norm() / plain.norm() < 0.05


@torch.no_grad()
def test_a_frame_is_the_same_alone_and_in_a_clip_without_temporal_modules(little):
    image = DenoisingUNet(**asdict(replace(little.config, temporal=False)))
    image.load_state_dict(
        {k: v for k, v in little.denoiser.state_dict().items() if ".temporal_modules." not in k}
    )
    little.denoiser = image
    clip = predict(little)
    little.noisy, little.motion = little.noisy[:, :, 1:], little.motion[:, 1:]
    torch.testing.assert_close(predict(little), clip[:, :, 1:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_frames_interact_in_the_temporal_modules(little):
    clip = predict(little)
    little.noisy = little.noisy.clone()
    little.noisy[:, :, 0] += 1
    assert not torch.allclose(predict(little)[:, :, 1], clip[:, :, 1])


@torch.no_grad()
def test_time_can_be_reversed_only_with_positions(little):
    """Attention over frames is bidirectional: only the position table encodes their order."""
    for name, buffer in little.denoiser.named_buffers():
        if name.endswith(".pe"):
            buffer.zero_()
    forwards = predict(little)
    little.noisy, little.motion = little.noisy.flip(2), little.motion.flip(1)
    torch.testing.assert_close(predict(little).flip(2), forwards, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(6, 10), (5, 7), (9, 8)])
def test_sizes_need_not_be_multiples(little, size):
    little.portrait = torch.randn(3, 3, *size)
    little.noisy = torch.randn(3, 3, 2, *size)
    assert predict(little).shape == little.noisy.shape


@torch.no_grad()
@pytest.mark.parametrize(
    ("widths", "attention", "layers"),
    [((16,), (True,), 1), ((16, 32), (False, True), 3), ((8, 8, 8, 8, 16), (False,) * 5, 2)],
)
def test_any_number_of_levels(widths, attention, layers):
    config = UNetConfig(
        latent_channels=5, widths=widths, attention=attention, layers=layers, heads=4,
        norm_groups=4, module_norm_groups=8, image_embedding_width=7, motion_width=3,
    )  # fmt: skip
    denoiser, reference_net = DenoisingUNet(**asdict(config)), ReferenceNet.from_unet_config(config)
    z = torch.randn(2, 5, 1, 16, 16)
    reference = reference_net(z[:, :, 0], torch.randn(2, 4, 7))
    assert list(reference.by_block) == denoiser.transformer_names()
    out = denoiser(z, 7, torch.randn(2, 4, 7), torch.randn(2, 1, 6, 3), reference)
    assert out.shape == z.shape


@torch.no_grad()
def test_one_image_embedding_is_a_special_case_of_many(little):
    """A token repeated has the weight of one: the shortcut for a single key is exact."""
    once = predict(little)
    little.tokens = little.tokens.repeat(1, 3, 1)
    torch.testing.assert_close(predict(little), once, rtol=1e-4, atol=1e-5)


def test_arguments_that_do_not_belong_together_are_refused(little):
    reference = little.reference_net(little.portrait, little.tokens)
    arguments = (little.noisy, 5, little.tokens, little.motion)
    with pytest.raises(ValueError, match="another network"):
        little.denoiser(*arguments, ReferenceFeatures({"other": torch.zeros(3, 4, 16)}))
    with pytest.raises(ValueError, match="of 2 samples for a batch of 3"):
        little.denoiser(*arguments, reference.select([0, 1]))
    with pytest.raises(ValueError, match="motion tokens"):
        little.denoiser(little.noisy, 5, little.tokens, little.motion[:, :1])
    with pytest.raises(ValueError, match="temporal modules take 4"):
        little.denoiser(torch.randn(1, 3, 5, 8, 8), 5, little.tokens[:1], torch.randn(1, 5, 5, 6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (320, 630)}, "2 levels and unet.attention 4"),
        ({"widths": (320, 640, 1280, 1284)}, "1284"),
        ({"heads": 0}, "unet.heads = 0"),
        ({"layers": 0}, "unet.layers = 0"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        UNetConfig(**change)


def test_other_unet_families_are_refused():
    with pytest.raises(UserError, match="use_linear_projection"):
        UNetConfig.from_diffusers({"use_linear_projection": True})
    with pytest.raises(UserError, match="in_channels"):
        UNetConfig.from_diffusers({})


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_blocks_give_the_same_numbers(least, backend):
    """Each block is one graph, forwards and backwards, with and without the key mask."""
    if backend == "inductor" and " " in torch.__file__:
        with pytest.raises(UserError, match="in a path with a space"):
            require_compiling("cpu")
        return
    torch._dynamo.reset()
    plain, plain_gradients = predict(least).detach(), gradients(least)
    with torch.no_grad():
        inference = predict(least)
    for part in (least.denoiser, least.reference_net):
        part.compile_repeated_blocks(backend=backend, fullgraph=True)
    torch.testing.assert_close(predict(least).detach(), plain, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients(least).items():
        torch.testing.assert_close(gradient, plain_gradients[name], rtol=1e-3, atol=1e-5, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(predict(least), inference, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()
