"""The reduced reference network and denoiser give the authors' numbers."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from xnemo.model.layers.transformer_block import ZeroLinear
from xnemo.model.unet.config import UNetConfig
from xnemo.model.unet.denoising_unet import DenoisingUNet
from xnemo.model.unet.reference_attention import ReferenceTokens
from xnemo.model.unet.reference_features import ReferenceFeatures
from xnemo.model.unet.reference_net import ReferenceNet

FRAMES = 5


@pytest.fixture(scope="module", params=["A", "B"])
def pair(request, official_dir, manifest, fill):
    """Both UNets filled by one rule, the golden arrays, inputs and the reference features."""
    rule = request.param
    golden = np.load(official_dir / "unet_small.npz")
    config = UNetConfig.from_diffusers(
        json.loads((official_dir / "unet_small_config.json").read_text())
    )
    denoiser = fill(DenoisingUNet(**asdict(config)), manifest("denoising_unet_small"), rule)
    reference_net = fill(
        ReferenceNet.from_unet_config(config), manifest("reference_unet_small"), rule
    )
    inputs = {
        name: torch.from_numpy(golden[name])
        for name in ("ref_latent", "clip", "noisy", "motion", "neg_motion")
    }
    null = torch.zeros_like(inputs["clip"])
    with torch.no_grad():
        # As the official pipeline: one row for the null token, one for the portrait's.
        both = reference_net(
            inputs["ref_latent"].repeat(2, 1, 1, 1), torch.cat([null, inputs["clip"]])
        )
    return SimpleNamespace(
        golden={key[2:]: golden[key] for key in golden if key.startswith(f"{rule}_")},
        denoiser=denoiser,
        timestep=int(golden["timestep"]),
        null=null,
        negative=inputs["neg_motion"][:, None].expand(-1, FRAMES, -1, -1),
        both=both,
        reference=both.select([1]),
        **inputs,
    )


def guided(pair) -> tuple[Tensor, Tensor, Tensor, ReferenceFeatures]:
    """Inputs of both branches of guidance in one batch, unconditional first."""
    return (
        pair.noisy.repeat(2, 1, 1, 1, 1),
        torch.cat([pair.null, pair.clip]),
        torch.cat([pair.negative, pair.motion]),
        pair.reference.select([0, 0]).with_presence(torch.tensor([False, True])),
    )


def run_guided(pair, denoiser=None) -> Tensor:
    noisy, clip, motion, reference = guided(pair)
    return (denoiser or pair.denoiser)(noisy, pair.timestep, clip, motion, reference)


@torch.no_grad()
def test_reference_features_are_the_official_banks(pair, assert_golden):
    names = {key.removeprefix("bankstat_") for key in pair.golden if key.startswith("bankstat_")}
    assert pair.both.by_block.keys() == names
    for name, tokens in pair.both.by_block.items():
        statistics = [*tokens.shape, tokens.mean(), tokens.std()]
        np.testing.assert_allclose(
            statistics, pair.golden[f"bankstat_{name}"], rtol=1e-4, atol=1e-6
        )
        if f"bank_{name}" in pair.golden:
            assert_golden(tokens, pair.golden[f"bank_{name}"], name)


@torch.no_grad()
def test_guidance_in_one_batch_is_the_official_prediction(pair, assert_golden):
    assert_golden(run_guided(pair), pair.golden["pred"], "split batch")


def test_guidance_by_key_mask_is_the_official_prediction(pair, assert_golden):
    assert_golden(run_guided(pair).detach(), pair.golden["pred"], "key mask")


@torch.no_grad()
def test_single_branches_are_the_official_predictions(pair, assert_golden):
    d, t = pair.denoiser, pair.timestep
    conditional = d(pair.noisy, t, pair.clip, pair.motion, pair.reference)
    one = d(pair.noisy[:, :, :1], t, pair.clip, pair.motion[:, :1], pair.reference)
    plain = d(pair.noisy, t, pair.null, pair.negative)
    absent = pair.reference.with_presence(torch.tensor([False]))
    masked = d(pair.noisy, t, pair.null, pair.negative, absent)
    assert_golden(conditional, pair.golden["pred_nocfg"], "conditional")
    assert_golden(one, pair.golden["pred_nocfg_1frame"], "one frame")
    assert_golden(plain, pair.golden["pred_uncond_plain"], "no reference given")
    assert_golden(masked, pair.golden["pred_uncond_plain"], "reference absent")


@torch.no_grad()
def test_new_modules_change_nothing_until_they_are_trained(pair, assert_golden):
    config = UNetConfig(**{
        name: tuple(value) if isinstance(value, list | tuple) else value
        for name, value in pair.denoiser.config.items()
        if not name.startswith("_")
    })  # fmt: skip
    fresh = DenoisingUNet(**asdict(config)).eval()
    trained = pair.denoiser.state_dict()
    outputs = {
        f"{name}.{part}"
        for name, module in fresh.named_modules()
        if isinstance(module, ZeroLinear)
        for part in ("weight", "bias")
    }
    assert len(outputs) == 2 * 42
    fresh.load_state_dict({k: v for k, v in trained.items() if k not in outputs}, strict=False)
    # The authors' own switch that skips both module families.
    assert_golden(run_guided(pair, fresh), pair.golden["pred_skip_mm"], "modules skipped")


@torch.no_grad()
def test_every_inner_module_gives_the_official_output(pair, assert_golden):
    names = {key.removeprefix("tapstat_") for key in pair.golden if key.startswith("tapstat_")}
    taps: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_module, _inputs, output) -> None:
            taps[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [
        pair.denoiser.get_submodule(name).register_forward_hook(keep(name)) for name in names
    ]
    # The mask keeps the batch whole, so that every module runs once on both branches.
    with torch.enable_grad():
        run_guided(pair)
    for handle in handles:
        handle.remove()
    assert len(names) == 16
    for name in names:
        tap = taps[name].detach()
        assert_golden(
            [tap.mean(), tap.std(), tap.abs().max()], pair.golden[f"tapstat_{name}"], name
        )
        if f"tap_{name}" in pair.golden:
            video = tap.unflatten(0, (2, FRAMES)).transpose(1, 2) if tap.ndim == 4 else tap
            assert_golden(video, pair.golden[f"tap_{name}"], name)


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(pair):
    """Mixed presence, time steps, motion and masks: each row equals the row run alone."""
    torch.manual_seed(0)
    presence = torch.tensor([True, False, True])
    noisy = torch.randn(3, *pair.noisy.shape[1:])
    clip, motion = torch.randn(3, *pair.clip.shape[1:]), torch.randn(3, *pair.motion.shape[1:])
    timestep = torch.tensor([481, 3, 990])
    seeds = [5, 6, 7]
    whole = pair.both.select([0, 1, 1])
    batch = whole.mask_tokens(0.3, seeds).with_presence(presence)
    with torch.enable_grad():
        by_mask = pair.denoiser(noisy, timestep, clip, motion, batch).detach()
    by_split = pair.denoiser(noisy, timestep, clip, motion, batch)
    torch.testing.assert_close(by_mask, by_split, rtol=1e-4, atol=1e-5)
    for i in range(3):
        alone = whole.select([i]).mask_tokens(0.3, seeds[i : i + 1])
        row = pair.denoiser(
            noisy[i : i + 1],
            timestep[i],
            clip[i : i + 1],
            motion[i : i + 1],
            alone if presence[i] else None,
        )
        torch.testing.assert_close(by_mask[i : i + 1], row, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_dropped_tokens_count_for_nothing_and_kept_ones_as_before(pair):
    """Masking equals attention in which the dropped keys have no weight."""
    name = "mid_block.attentions.0.transformer_blocks.0"
    masked = pair.reference.mask_tokens(0.5, [11])
    kept = masked.by_block[name][0]
    block = pair.denoiser.mid_block.attentions[0].transformer_blocks[0]
    torch.manual_seed(0)
    tokens = torch.randn(1, 4, kept.shape[1])
    out, _ = block(tokens, pair.clip, ReferenceTokens(kept[None], 1), (2, 2))
    order = torch.randperm(len(kept))
    again, _ = block(tokens, pair.clip, ReferenceTokens(kept[order][None], 1), (2, 2))
    assert len(kept) == 2
    torch.testing.assert_close(out, again, rtol=1e-5, atol=1e-5)
