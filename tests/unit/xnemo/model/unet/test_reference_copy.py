"""Initialisation and position encodings of networks without pretrained weights."""

from dataclasses import asdict, replace

import pytest
import torch

from xnemo.model.config import full, small, tiny
from xnemo.model.layers.position_embeddings import cell_table
from xnemo.model.motion.encoder import MotionEncoder
from xnemo.model.networks import Networks, build_networks
from xnemo.model.unet.copy_channels import CopyChannels
from xnemo.model.unet.denoising_unet import DenoisingUNet
from xnemo.model.unet.reference_copy import reconstruct_reference


def test_the_published_network_uses_neither_rope_nor_standardisation():
    assert not full().unet.use_2d_rope
    assert not full().motion.standardise
    assert small().motion.standardise


def likeness(a, b):
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 7])
def test_untrained_networks_output_the_reference(seed):
    networks = build_networks(tiny(), seed=seed).eval()
    generator = torch.Generator().manual_seed(seed + 100)
    z, made = reconstruct_reference(networks.denoiser, networks.reference_net, generator)
    assert likeness(z, made) > 0.92
    assert float((z * made).sum() / z.square().sum()) == pytest.approx(1, abs=0.05)


@torch.no_grad()
def test_untrained_networks_of_small_output_the_reference():
    config = small().unet
    config = replace(config, temporal=False)
    networks = build_networks(
        replace(
            small(),
            unet=config,
            autoencoder=replace(tiny().autoencoder, factor=8, dct_kept=(2, 1)),
            image_embedding=replace(tiny().image_embedding, width=768),
        ),
        training=False,
    ).eval()
    z, made = reconstruct_reference(
        networks.denoiser, networks.reference_net, torch.Generator().manual_seed(1)
    )
    assert likeness(z, made) > 0.92


def portrait(networks, height=16, width=16):
    """Smooth latents whose amplitudes fall as those of images, and their conditions."""
    coarse = torch.randn(1, 12, height // 4, width // 4, generator=torch.Generator().manual_seed(3))
    size = torch.tensor([1.2, *[0.4] * 7, 0.3, 0.1, 0.1, 0.1])[:, None, None]
    z = size * torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    image_embedding = torch.zeros(1, 1, 48)
    motion = torch.zeros(1, 1, 8, 16)
    return z, image_embedding, motion, networks.reference_net(z, image_embedding)


@torch.no_grad()
@pytest.mark.parametrize(("down", "right"), [(0, 1), (-1, 0), (1, -1)])
def test_shift_channels_shift_what_is_fetched(down, right):
    networks = build_networks(tiny(), seed=2).eval()
    z, image_embedding, motion, reference = portrait(networks)
    shift = CopyChannels(12).shift
    made = {}
    for amount in (0, 3):
        networks.denoiser.conv_in.bias[shift] = amount * torch.tensor([down, right]).float()
        noise = torch.randn(1, 12, 1, 16, 16, generator=torch.Generator().manual_seed(4))
        made[amount] = networks.denoiser(noise, 999, image_embedding, motion, reference)[:, :, 0]

    def like(picture, dy, dx):
        moved = torch.roll(z, (-dy, -dx), dims=(2, 3))[:, :, 3:-3, 3:-3]
        return likeness(moved, picture[:, :, 3:-3, 3:-3])

    assert like(made[0], 0, 0) > like(made[0], down, right)
    assert like(made[3], down, right) > like(made[3], 0, 0)
    assert like(made[3], down, right) > like(made[3], -down, -right)


@torch.no_grad()
def test_masked_tokens_keep_the_positions_of_the_others():
    networks = build_networks(tiny(), seed=2).eval()
    z, image_embedding, motion, reference = portrait(networks, 12, 20)
    noise = torch.randn(1, 12, 1, 12, 20, generator=torch.Generator().manual_seed(4))
    masked = reference.mask_tokens(0.4, [11])
    # Attention is invariant to the order of tokens with their cells.
    mixed = replace(
        masked,
        by_block={name: tokens.flip(1) for name, tokens in masked.by_block.items()},
        cells_by_block={name: cells.flip(1) for name, cells in masked.cells_by_block.items()},
    )
    made = networks.denoiser(noise, 999, image_embedding, motion, masked)
    again = networks.denoiser(noise, 999, image_embedding, motion, mixed)
    torch.testing.assert_close(again, made, rtol=0, atol=1e-4)
    # With the wrong cells the result differs.
    lost = replace(mixed, cells_by_block=masked.cells_by_block)
    other = networks.denoiser(noise, 999, image_embedding, motion, lost)
    assert float((other - made).abs().max()) > 0.05
    cells = masked.cells_by_block["up_blocks.1.attentions.1.transformer_blocks.0"][0]
    assert likeness(z.flatten(2)[:, :, cells], made.flatten(2)[:, :, cells]) > 0.9
    with pytest.raises(ValueError, match="masked already"):
        masked.mask_tokens(0.4, [11])


def test_a_masked_reference_in_training_equals_an_absent_one_at_inference():
    networks = build_networks(tiny(), seed=2).eval()
    z, image_embedding, motion, _ = portrait(networks)
    both = z.repeat(3, 1, 1, 1)
    reference = networks.reference_net(both, image_embedding.repeat(3, 1, 1)).mask_tokens(
        0.3, [1, 2, 3]
    )
    reference = reference.with_presence(torch.tensor([True, False, True]))
    noise = torch.randn(3, 12, 2, 16, 16, generator=torch.Generator().manual_seed(4))

    def run():
        return networks.denoiser(
            noise, 500, image_embedding.repeat(3, 1, 1), motion.repeat(3, 2, 1, 1), reference
        )

    trained = run().detach()
    with torch.no_grad():
        torch.testing.assert_close(run(), trained, rtol=0, atol=1e-4)


def test_a_place_keeps_its_code_at_another_resolution():
    coarse, fine = cell_table(4, 4, 32), cell_table(12, 12, 32)
    # The middle of each third of the fine table is the middle of a coarse cell.
    torch.testing.assert_close(fine[:, 1::3, 1::3], coarse, rtol=0, atol=1e-6)
    assert len(torch.unique(coarse.flatten(1), dim=1).T) == 16


def test_training_may_follow_inference_in_one_process():
    networks = build_networks(tiny(), seed=2)
    size = (20, 12)  # that no other test has asked tables for
    with torch.inference_mode():
        portrait(networks, *size)
    z, image_embedding, motion, reference = portrait(networks, *size)
    networks.denoiser(z[:, :, None], 5, image_embedding, motion, reference).sum().backward()
    assert networks.reference_net.conv_in.weight.grad.abs().sum() > 0


def test_loaded_layers_are_not_replaced(tmp_path):
    networks = build_networks(tiny(), seed=2)
    with torch.no_grad():
        for parameter in networks.denoiser.parameters():
            parameter.add_(0.01)
    networks.save(tmp_path / "saved")
    again = Networks.load(tmp_path / "saved")
    for name, value in networks.denoiser.state_dict().items():
        assert torch.equal(again.denoiser.state_dict()[name], value), name


def test_a_standardised_latent_cannot_fall_silent():
    torch.manual_seed(0)
    config = asdict(tiny().motion)
    crops, boxes = torch.rand(8, 3, 32, 32) * 2 - 1, torch.randn(8, 3) * 0.01
    plain = MotionEncoder(**{**config, "standardise": False}).train()
    kept = MotionEncoder(**config).train()
    for encoder in (plain, kept):
        with torch.no_grad():
            # Almost silent already: a hundredth is left of what the crops do.
            encoder.model.fc.weight.mul_(1e-2)
    with torch.no_grad():
        spread = {e: float(e(crops, boxes).face.std(dim=0).mean()) for e in (plain, kept)}
    assert spread[plain] < 1e-2
    assert spread[kept] == pytest.approx((8 / 7) ** 0.5, rel=0.05)
    kept.freeze_statistics()
    before = kept.standards["face"].running_mean.clone()
    kept(crops, boxes)
    assert torch.equal(kept.standards["face"].running_mean, before)


def test_fields_reach_the_saved_configuration(tmp_path):
    unet = replace(tiny().unet, temporal=True)
    denoiser = DenoisingUNet(**asdict(unet))
    denoiser.save_pretrained(tmp_path / "denoiser")
    again = DenoisingUNet.from_pretrained(tmp_path / "denoiser")
    assert again.config.use_2d_rope


@torch.no_grad()
@pytest.mark.parametrize("bias", [0.0, -50.0])
def test_the_channel_that_motion_passes_through_cannot_fall_below_zero(bias):
    config = asdict(tiny().motion)
    side = config["image_size"]
    crops = torch.rand(8, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    still = torch.tensor([0.0, 0.0, 1.0]).expand(8, 3)
    for standardise in (True, False):
        torch.manual_seed(0)
        encoder = MotionEncoder(**{**config, "standardise": standardise}).eval()
        encoder.model.conv6.bias.fill_(bias)
        rectified = []
        encoder.model.fc.register_forward_pre_hook(
            lambda m, inputs, to=rectified: to.append(*inputs)
        )
        encoder(crops, still)
        alive = float((rectified[0] > 0).float().mean())
        if standardise:
            # A lift of one deviation: 84 % of a bell-shaped map.
            assert 0.7 < alive < 0.95
        elif bias < 0:
            assert alive == 0
