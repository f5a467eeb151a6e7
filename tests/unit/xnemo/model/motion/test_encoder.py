"""Training behaviour and invariances of the motion encoder."""

import copy
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from preprocessing.errors import UserError
from xnemo.model.motion.config import MotionEncoderConfig
from xnemo.model.motion.encoder import MotionEncoder

CONFIG = MotionEncoderConfig(
    image_size=32, stem_width=8, heatmaps=6, hourglass_depth=2, attention_width=32,
    attention_heads=2, norm_groups=4, latent_width=20, box_width=6, tokens=5, token_width=4,
)  # fmt: skip


@pytest.fixture
def encoder(wake_up):
    torch.manual_seed(0)
    return wake_up(MotionEncoder(**asdict(CONFIG)))


@pytest.fixture
def crops():
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(2, 3, 3, 32, 32, generator=generator) * 2 - 1
    return image, torch.randn(2, 3, 3, generator=generator)


@torch.no_grad()
def test_frames_are_encoded_independently(encoder, crops):
    image, box = crops
    encoder.eval()
    clip = encoder(image, box)
    assert clip.tokens.shape == (2, 3, 5, 4)
    assert clip.face.shape == (2, 3, 20)
    for b in range(2):
        for f in range(3):
            frame = encoder(image[b : b + 1, :, f], box[b : b + 1, f])
            for whole, one in zip(clip, frame, strict=True):
                torch.testing.assert_close(whole[b, f][None], one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(clip.tokens, clip.fused.unflatten(-1, (5, 4)) + encoder.pe)


@torch.no_grad()
def test_face_motion_is_independent_of_position_and_scale(encoder, crops):
    image, box = crops
    encoder.eval()
    here, there = encoder(image, box), encoder(image, box + 1)
    assert torch.equal(here.face, there.face)
    assert not torch.allclose(here.tokens, there.tokens)


def statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items() if "running" in k or "num_b" in k}


def test_frozen_statistics_stay_and_switch_dropout_off(encoder, crops):
    encoder.train()
    encoder.freeze_statistics()
    before = statistics(encoder)
    first, second = encoder(*crops), encoder(*crops)
    assert torch.equal(first.tokens, second.tokens)
    encoder.train()
    encoder(*crops).tokens.sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in statistics(encoder).items())
    assert all(p.grad is not None for p in encoder.parameters())
    encoder.freeze_statistics(False)
    encoder.train()
    encoder(*crops)
    assert any(not torch.equal(v, before[k]) for k, v in statistics(encoder).items())


def test_the_hourglass_drops_activations_in_training_alone(encoder, crops):
    encoder.train()
    assert not torch.equal(encoder(*crops).tokens, encoder(*crops).tokens)
    encoder.eval()
    assert torch.equal(encoder(*crops).tokens, encoder(*crops).tokens)
    still = MotionEncoder(**asdict(replace(CONFIG, dropout=0.0))).train()
    # Batch statistics alone are the same twice.
    assert torch.equal(still(*crops).tokens, still(*crops).tokens)


def test_checkpointing_changes_neither_gradients_nor_running_statistics(encoder, crops):
    other = copy.deepcopy(encoder)
    other.enable_gradient_checkpointing()
    results = []
    for module in (encoder, other):
        module.train()
        torch.manual_seed(5)
        module(*crops).tokens.square().sum().backward()
        results.append(({n: p.grad for n, p in module.named_parameters()}, statistics(module)))
    for name, gradient in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], gradient, rtol=1e-6, atol=1e-8, msg=name)
    assert all(torch.equal(results[1][1][key], value) for key, value in results[0][1].items())


def test_batch_norms_can_be_synchronised(encoder):
    plain = sum(type(m) is nn.BatchNorm2d for m in encoder.modules())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(encoder))
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in converted.modules()) == plain > 0
    assert converted.state_dict().keys() == encoder.state_dict().keys()
    converted.freeze_statistics()
    converted.train()
    assert not any(m.training for m in converted.modules() if isinstance(m, nn.SyncBatchNorm))


@torch.no_grad()
def test_new_patch_attention_changes_nothing_until_it_is_trained():
    encoder = MotionEncoder(**asdict(CONFIG))
    x = torch.randn(2, 16, 16, 16)
    assert torch.equal(encoder.model.att_1(x), x)


@torch.no_grad()
def test_patches_are_reassembled_in_place(encoder):
    """A change of one patch changes only its own pixels."""
    attention = encoder.eval().model.att_1
    # Without attention and feed-forward a token is its patch alone.
    block = attention.transformer_blocks[0]
    block.attention_blocks[0].to_out[0].weight.zero_()
    block.attention_blocks[0].to_out[0].bias.zero_()
    block.ff.net[2].weight.zero_()
    attention.norm = nn.Identity()
    x = torch.randn(1, 16, 16, 16)
    moved = x.clone()
    moved[:, :, 4:8, 8:12] += 1
    changed = ((attention(moved) - moved) - (attention(x) - x)).abs().amax(dim=(0, 1)) > 1e-6
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:8, 8:12] = True
    assert torch.equal(changed, inside)


def test_a_crop_of_another_size_is_refused(encoder):
    with pytest.raises(ValueError, match="not 32×32"):
        encoder(torch.zeros(1, 3, 24, 32), torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 100}, "motion.image_size = 100"),
        ({"image_size": 32}, "hourglass_depth = 4"),
        ({"attention_width": 1000}, "motion.attention_width = 1000"),
        ({"stem_width": 20}, "motion.stem_width = 20"),
        ({"dropout": 1.0}, "motion.dropout"),
        ({"tokens": 0}, "motion.tokens = 0"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        MotionEncoderConfig(**change)
