"""What a network that starts from nothing is given, and the published one is not."""

from dataclasses import asdict, replace

import pytest
import torch

from xnemo.model.config import full, small, tiny
from xnemo.model.denoising_unet import DenoisingUNet
from xnemo.model.motion_encoder import MotionEncoder
from xnemo.model.networks import Networks, build_networks
from xnemo.model.position_tables import cell_table


@pytest.fixture(scope="module")
def networks():
    return build_networks(tiny(), seed=2).eval()


def conditions(networks, samples=3):
    z = torch.randn(samples, 32, 8, 8)
    image_token = torch.randn(samples, 1, 48)
    return z, image_token, networks.reference_net(z, image_token)


def test_the_published_network_has_none_of_it():
    assert not full().unet.place_code
    assert not full().motion.standardise
    assert small().motion.standardise


@torch.no_grad()
def test_both_networks_start_alike_and_see_their_own_place_in_the_reference(networks):
    ours, theirs = networks.denoiser.state_dict(), networks.reference_net.state_dict()
    shared = [name for name in theirs if name in ours]
    assert len(shared) > 100
    assert all(torch.equal(ours[name], theirs[name]) for name in shared)
    z, image_token, reference = conditions(networks, samples=1)
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    written = networks.reference_net(z, image_token, timestep=0).by_block[block]
    likeness = (written[0] @ written[0].T).softmax(dim=1)
    assert (likeness.argmax(dim=1) == torch.arange(64)).all()
    assert reference.by_block[block].equal(written)


def test_a_place_keeps_its_code_at_another_resolution():
    coarse, fine = cell_table(4, 4, 32), cell_table(12, 12, 32)
    # The middle of each third of the fine table is the middle of a coarse cell.
    torch.testing.assert_close(fine[:, 1::3, 1::3], coarse, rtol=0, atol=1e-6)
    assert len(torch.unique(coarse.flatten(1), dim=1).T) == 16


def test_loaded_layers_are_not_calmed(tmp_path):
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
    assert again.config.place_code
