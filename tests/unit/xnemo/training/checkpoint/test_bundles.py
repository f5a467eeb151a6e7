"""Bundles: round trip, fit and damage."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from preprocessing.errors import UserError
from xnemo.config import digest
from xnemo.model.networks import build_networks, empty_networks
from xnemo.training.checkpoint.bundle import (
    PARTS,
    load_bundle,
    load_weights,
    read_weights,
    save_bundle,
)


def test_raw_and_averaged_weights_are_loaded(short_run: Path, nano: Callable[..., Any]) -> None:
    folder = short_run / "bundle"
    raw, ema = load_bundle(folder, "raw"), load_bundle(folder)
    for bundle, name in ((raw, "raw"), (ema, "ema")):
        stored = load_file(folder / f"{name}.safetensors")
        for part, module in bundle.networks.trained_parts().items():
            assert not module.training
            for key, tensor in module.state_dict().items():
                stored_name = f"{part}.{key}"
                if stored_name in stored:
                    assert torch.equal(tensor, stored[stored_name]), stored_name
    some = ["denoiser", "conv_in.weight"][1]
    assert not torch.equal(
        raw.networks.denoiser.state_dict()[some], ema.networks.denoiser.state_dict()[some]
    )
    assert digest(raw.config) == digest(nano(samples=12, checkpoint__every_samples=8))
    assert raw.meta["samples_seen"] == 12
    assert raw.meta["index_digest"]


def test_every_parameter_and_statistic_is_stored(short_run: Path) -> None:
    networks = load_bundle(short_run / "bundle", "raw").networks
    stored = read_weights(short_run / "bundle", "raw")
    wanted = {f"{p}.{k}" for p, m in networks.trained_parts().items() for k in m.state_dict()}
    assert wanted == set(stored)
    assert any(name.endswith("running_mean") for name in stored)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: shutil.rmtree(f), "there is no bundle"),
        (lambda f: (f / "bundle.json").unlink(), "no readable bundle.json"),
        (lambda f: (f / "bundle.json").write_text("{"), "no readable bundle.json"),
        (lambda f: (f / "bundle.json").write_text("[]"), "no readable bundle.json"),
        (lambda f: _edit(f, "files", ["raw.safetensors"]), "no readable bundle.json"),
        (lambda f: _edit(f, "files", {"raw.safetensors": 7}), "no readable bundle.json"),
        (lambda f: (f / "raw.safetensors").unlink(), "raw.safetensors is missing"),
        (lambda f: _cut(f / "ema.safetensors"), "ema.safetensors has"),
        (lambda f: _flip(f / "raw.safetensors"), "raw.safetensors differs from its checksum"),
        (lambda f: _edit(f, "format", 99), "format 99"),
        (lambda f: _edit(f, "config", {"nonsense": 1}), "does not fit this version"),
    ],
)
def test_damage_is_a_one_line_error(
    short_run: Path, tmp_path: Path, harm: Callable[[Path], Any], said: str
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(short_run / "bundle", folder)
    harm(folder)
    with pytest.raises(UserError) as caught:
        load_bundle(folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_weight_that_is_not_finite_is_never_saved(
    tmp_path: Path, nano: Callable[..., Any]
) -> None:
    with pytest.raises(UserError, match=r"denoiser\.x is not finite"):
        save_bundle(
            tmp_path / "b", nano(), {}, raw={"denoiser.x": torch.tensor([1.0, float("nan")])}
        )
    assert list(tmp_path.iterdir()) == []


def test_an_image_bundle_starts_a_temporal_stage_and_nothing_else_may_be_missing(
    short_run: Path, nano: Callable[..., Any]
) -> None:
    tensors = read_weights(short_run / "bundle", "ema")
    config = nano().network
    wider = dataclasses.replace(config, unet=dataclasses.replace(config.unet, temporal=True))
    networks = build_networks(wider)
    assert load_weights(networks, tensors, short_run) == [
        "denoiser.temporal_modules",
        "motion_readout",
    ]
    assert torch.equal(networks.denoiser.conv_in.weight, tensors["denoiser.conv_in.weight"])
    without = {n: t for n, t in tensors.items() if n != "denoiser.conv_in.weight"}
    with pytest.raises(UserError, match=r"denoiser\.conv_in\.weight"):
        load_weights(networks, without, short_run)
    extra = {**tensors, "reference_net.surplus": torch.zeros(1)}
    with pytest.raises(UserError, match=r"reference_net\.surplus"):
        load_weights(networks, extra, short_run)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda t: t.pop("reference_net.conv_in.bias"), "1 missing: reference_net.conv_in.bias"),
        (lambda t: t.__setitem__("stranger.weight", torch.zeros(1)), "1 surplus: stranger.weight"),
        (lambda t: t.__setitem__("motion_encoder.pe", torch.zeros(2)), "motion_encoder.pe 2 where"),
        (lambda t: t["motion_encoder.final_proj.bias"].fill_(torch.nan), "NaN or infinity in 1"),
    ],
)
def test_weights_that_do_not_fit_leave_every_part_as_it_was(
    short_run: Path, nano: Callable[..., Any], harm: Callable[..., Any], said: str
) -> None:
    """The faulty part is not the first one; those before it are not loaded either."""
    tensors = read_weights(short_run / "bundle", "ema")
    networks = empty_networks(nano().network, training=False)
    harm(tensors)
    with pytest.raises(UserError) as caught:
        load_weights(networks, tensors, short_run)
    assert said in str(caught.value)
    for part in networks.trained_parts().values():
        assert all(parameter.is_meta for parameter in part.parameters())


def test_partial_temporal_modules_are_refused(short_run: Path, nano: Callable[..., Any]) -> None:
    tensors = read_weights(short_run / "bundle", "ema")
    config = nano().network
    clip = dataclasses.replace(config, unet=dataclasses.replace(config.unet, temporal=True))
    networks = build_networks(clip, training=False)
    own = {f"denoiser.{n}": t for n, t in networks.denoiser.state_dict().items()}
    tensors = {n: t for n, t in (tensors | own).items() if n.split(".")[0] in PARTS[:3]}
    assert load_weights(networks, tensors, short_run) == []
    lost = next(name for name in tensors if ".temporal_modules." in name)
    del tensors[lost]
    with pytest.raises(UserError, match=f"1 missing: {lost}"):
        load_weights(networks, tensors, short_run)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


def _edit(folder: Path, field: str, value: Any) -> None:
    meta = json.loads((folder / "bundle.json").read_text())
    meta[field] = value
    (folder / "bundle.json").write_text(json.dumps(meta))
