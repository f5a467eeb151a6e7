"""Building, saving and loading all parts."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from preprocessing.errors import UserError
from xnemo.model.config import NetworkConfig, full, small, tiny
from xnemo.model.networks import Networks, build_networks
from xnemo.model.unet.config import UNetConfig

WEIGHTS = "diffusion_pytorch_model.safetensors"


def with_temporal(config: NetworkConfig) -> NetworkConfig:
    return replace(config, unet=replace(config.unet, temporal=True))


@pytest.fixture(scope="module")
def networks() -> Networks:
    return build_networks(tiny(), seed=3)


@pytest.fixture
def saved(networks, tmp_path):
    networks.save(tmp_path / "saved")
    return tmp_path / "saved"


def assert_same_bits(one: torch.nn.Module, other: torch.nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert value.dtype == b[key].dtype, key
        assert torch.equal(value, b[key]), key


def test_saved_networks_load_bit_for_bit(networks, saved):
    loaded = Networks.load(saved)
    assert loaded.config == networks.config
    assert loaded.trained_parts().keys() == networks.trained_parts().keys()
    for name, part in networks.trained_parts().items():
        assert_same_bits(part, getattr(loaded, name))
        flags = {key: p.requires_grad for key, p in part.named_parameters()}
        assert flags == {k: p.requires_grad for k, p in getattr(loaded, name).named_parameters()}


def test_training_loaded_networks_does_not_change_their_files(networks, saved):
    """Mapped weights may be written to; the file stays as it is."""
    loaded = Networks.load(saved)
    before = load_file(saved / "denoiser" / WEIGHTS)["conv_in.weight"].clone()
    with torch.no_grad():
        loaded.denoiser.conv_in.weight.add_(1)
    assert torch.equal(load_file(saved / "denoiser" / WEIGHTS)["conv_in.weight"], before)
    assert torch.equal(networks.denoiser.conv_in.weight, before)


def test_half_precision_and_channels_last_survive_saving(tmp_path):
    networks = build_networks(tiny(), training=False)
    networks.denoiser.to(torch.bfloat16)
    networks.reference_net.to(memory_format=torch.channels_last)
    networks.save(tmp_path / "a")
    loaded = Networks.load(tmp_path / "a")
    assert loaded.gan_head is None
    assert loaded.discriminator is None
    assert_same_bits(networks.denoiser, loaded.denoiser)
    assert_same_bits(networks.reference_net, loaded.reference_net)


PARTS = (
    "denoiser",
    "reference_net",
    "motion_encoder",
    "gan_head",
    "discriminator",
    "motion_readout",
)


@pytest.mark.parametrize("name", PARTS)
def test_each_part_loads_by_itself(networks, saved, name):
    part = getattr(networks, name)
    assert_same_bits(part, type(part).from_pretrained(saved / name))


@pytest.mark.parametrize("low_memory", [True, False])
@pytest.mark.parametrize("name", PARTS)
def test_a_part_saved_by_diffusers_loads_again(networks, tmp_path, name, low_memory):
    part = getattr(networks, name)
    part.save_pretrained(tmp_path)
    again = type(part).from_pretrained(tmp_path, low_cpu_mem_usage=low_memory)
    assert_same_bits(part, again)


def test_weights_depend_only_on_seed_and_name(networks):
    again = build_networks(tiny(), seed=3)
    torch.manual_seed(99)
    with_modules = build_networks(with_temporal(tiny()), seed=3, training=False)
    other = build_networks(tiny(), seed=4)
    for name, part in networks.trained_parts().items():
        assert_same_bits(part, getattr(again, name))
    shared = with_modules.denoiser.state_dict()
    for key, value in networks.denoiser.state_dict().items():
        assert torch.equal(value, shared[key]), key
    ours, theirs = (n.denoiser.down_blocks[0].resnets[0].conv1.weight for n in (networks, other))
    assert not torch.equal(ours, theirs)


def test_building_does_not_change_the_global_generator():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    build_networks(tiny(), seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_the_temporal_stage_starts_from_the_image_stage(networks, saved):
    staged = Networks.load(saved, config=with_temporal(tiny()), seed=8)
    image, clip = networks.denoiser.state_dict(), staged.denoiser.state_dict()
    assert all(torch.equal(clip[key], value) for key, value in image.items())
    fresh = clip.keys() - image.keys()
    assert fresh
    assert all(".temporal_modules." in key for key in fresh)
    z, tokens = torch.randn(1, 12, 2, 16, 16), torch.randn(1, 1, 48)
    motion = torch.randn(1, 2, 8, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            staged.denoiser(z, 5, tokens, motion), networks.denoiser(z, 5, tokens, motion)
        )


def test_the_image_stage_can_take_a_temporal_network(tmp_path):
    networks = build_networks(with_temporal(tiny()), training=False)
    networks.save(tmp_path / "a")
    image = Networks.load(tmp_path / "a", config=tiny())
    assert image.gan_head is not None
    whole = networks.denoiser.state_dict()
    assert all(torch.equal(whole[k], v) for k, v in image.denoiser.state_dict().items())


def test_existing_folders_are_not_overwritten(networks, saved):
    with pytest.raises(UserError, match="exists already"):
        networks.save(saved)


def test_a_failed_save_leaves_nothing(networks, tmp_path, monkeypatch):
    monkeypatch.setattr("xnemo.model.networks.save_file", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        networks.save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def one_line(error: pytest.ExceptionInfo[UserError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_a_config_that_contradicts_its_weights_is_refused(saved):
    path = saved / "network.json"
    data = json.loads(path.read_text())
    data["unet"]["widths"] = [64, 96]
    path.write_text(json.dumps(data))
    with pytest.raises(UserError) as error:
        Networks.load(saved)
    one_line(error, "denoiser", "mis-shaped", "where", "and")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: "{", ("JSON",)),
        (lambda text: "[]", ("no configuration",)),
        (lambda text: text.replace('"widths"', '"width"', 1), ("width",)),
    ],
)
def test_a_damaged_config_is_refused(saved, damage, words):
    path = saved / "network.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError) as error:
        Networks.load(saved)
    one_line(error, *words)


def test_a_truncated_file_is_refused(saved):
    path = saved / "motion_encoder" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError) as error:
        Networks.load(saved)
    one_line(error, "motion_encoder", "damaged")


def test_a_missing_part_is_refused(saved):
    (saved / "reference_net" / WEIGHTS).unlink()
    with pytest.raises(UserError) as error:
        Networks.load(saved)
    one_line(error, "reference_net", "holds none of")
    with pytest.raises(UserError, match="has no network"):
        Networks.load(saved / "denoiser")


def test_a_foreign_tensor_is_refused(saved):
    path = saved / "denoiser" / WEIGHTS
    tensors = load_file(path)
    tensors["stranger"] = torch.zeros(1)
    save_file(tensors, path)
    with pytest.raises(UserError) as error:
        Networks.load(saved)
    one_line(error, "1 surplus: stranger")


def test_presets_are_consistent():
    assert full().latent_size == 64
    assert full().unet == UNetConfig()
    assert small().latent_size == 32
    assert tiny().latent_size == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unet": {"latent_channels": 4}}, "unet.latent_channels = 4"),
        ({"unet": {"motion_width": 8}}, "unet.motion_width = 8"),
        ({"unet": {"image_embedding_width": 64}}, "unet.image_embedding_width = 64"),
        ({"gan": {"motion_dim": 64}}, "gan.motion_dim = 64"),
        ({"gan": {"motion_source": "fused", "motion_dim": 512}}, "fused width = 128"),
        ({"image_size": 66}, "image_size = 66"),
        ({"image_size": 4}, "too few for 2 levels"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(change, message):
    changes = {
        name: replace(getattr(tiny(), name), **value) if isinstance(value, dict) else value
        for name, value in change.items()
    }
    with pytest.raises(UserError, match=message):
        replace(tiny(), **changes)
