"""Models that others trained, on the command line: animated, described, or refused in one line."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from diffusers import UniPCMultistepScheduler
from PIL import Image

from pipelines.cli import main as cli
from preprocessing.encode.clip_encoder import encode_clip
from preprocessing.errors import UserError
from xnemo.animation.load_model import load_model
from xnemo.animation.pipeline import XNeMoPipeline
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.model.config import FrozenPaths, NetworkConfig, full, tiny
from xnemo.model.frozen.autoencoder import AutoencoderConfig
from xnemo.model.loading.official import export_official
from xnemo.model.networks import Networks, build_networks
from xnemo.training.checkpoint.bundle import save_bundle
from xnemo.training.config import TrainConfig

FAST = ["steps=1", "guidance=1", "device=cpu", "--max-frames", "2"]
PROCESS = DiffusionConfig(prediction_type="v_prediction", beta_end=0.015)


def shape() -> NetworkConfig:
    return replace(tiny(), unet=replace(tiny().unet, temporal=True))


@pytest.fixture(scope="module")
def networks() -> Networks:
    return build_networks(shape(), seed=4, training=False).eval()


@pytest.fixture(scope="module")
def models(networks, tmp_path_factory) -> Path:
    """One model in each of the three forms, a portrait and a driving video."""
    root = tmp_path_factory.mktemp("models")
    export_official(networks, root / "official")
    pipeline = XNeMoPipeline.from_networks(networks, PROCESS)
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(root / "pipeline")
    raw = {
        f"{part}.{name}": tensor
        for part, module in networks.trained_parts().items()
        for name, tensor in module.state_dict().items()
    }
    config = TrainConfig(network=shape(), diffusion=PROCESS)
    save_bundle(root / "bundle", config, {"samples_seen": 0}, raw=raw, ema=raw)
    picture = skimage.data.astronaut()
    Image.fromarray(picture).save(root / "portrait.png")
    frames = [np.ascontiguousarray(picture[:256, 90 + i : 346 + i]) for i in range(3)]
    (root / "driving.mp4").write_bytes(encode_clip(frames))
    return root


@pytest.fixture
def released_shape(monkeypatch):
    """Official files do not tell their shape: take the small one for the published."""
    monkeypatch.setattr("xnemo.animation.load_model.full", shape)


@pytest.mark.parametrize("form", ["official", "pipeline", "bundle"])
def test_each_form_gives_the_same_networks(networks, models, form):
    loaded = load_model(models / form, shape=shape())
    assert loaded.diffusion == (DiffusionConfig() if form == "official" else PROCESS)
    for name in ("denoiser", "reference_net", "motion_encoder"):
        ours, theirs = (getattr(n, name) for n in (networks, loaded.networks))
        assert not theirs.training
        for key, value in ours.state_dict().items():
            assert torch.equal(theirs.state_dict()[key], value), key


@pytest.mark.parametrize("form", ["official", "pipeline"])
@pytest.mark.usefixtures("released_shape")
def test_each_form_animates(models, tmp_path, form, capsys):
    out = tmp_path / "out.mp4"
    files = [str(models / name) for name in ("portrait.png", "driving.mp4")]
    model = ["--model", str(models / form)]
    assert cli.run(["animate", *files, *model, "-o", str(out), *FAST]) == 0
    assert "2 frames" in capsys.readouterr().out
    assert out.stat().st_size > 0


def test_a_saved_pipeline_is_exported_under_the_official_names(networks, models, tmp_path, capsys):
    target = tmp_path / "official"
    assert cli.run(["export", str(models / "pipeline"), str(target)]) == 0
    assert str(target) in capsys.readouterr().out.replace("\n", "")
    encoder = torch.load(target / "xnemo_motion_encoder.pth", weights_only=True)
    assert torch.equal(encoder["pe"], networks.motion_encoder.pe)


def test_frozen_parts_are_looked_for_where_this_machine_has_them():
    paths = FrozenPaths(autoencoder="/models/svd", image_embedding="/models/clip")
    found = paths.apply_to(full())
    assert (found.autoencoder.path, found.image_embedding.path) == ("/models/svd", "/models/clip")
    assert (found.autoencoder.subfolder, found.image_embedding.subfolder) == (None, None)
    assert found.autoencoder.kind == full().autoencoder.kind
    assert FrozenPaths().apply_to(full()) == full()
    # A part without weights has no place.
    assert paths.apply_to(tiny()) == tiny()


def test_a_place_without_the_part_is_named(models, tmp_path):
    autoencoder = AutoencoderConfig(path="nobody/nothing")
    unet = replace(shape().unet, latent_channels=4, use_2d_rope=False)
    moved = replace(shape(), autoencoder=autoencoder, unet=unet)
    with pytest.raises(UserError, match=r"autoencoder\.path = .*nowhere"):
        load_model(models / "official", vae=str(tmp_path / "nowhere"), shape=moved)


def test_a_missing_part_is_reported_with_its_setting(models, tmp_path, monkeypatch, capsys):
    unet = replace(shape().unet, latent_channels=4, use_2d_rope=False)
    away = AutoencoderConfig(path=str(tmp_path / "away"))
    monkeypatch.setattr(
        "xnemo.animation.load_model.full", lambda: replace(shape(), autoencoder=away, unet=unet)
    )
    files = [str(models / name) for name in ("portrait.png", "driving.mp4")]
    model = ["--model", str(models / "official")]
    status = cli.run(["animate", *files, *model, "-o", str(tmp_path / "out.mp4"), *FAST])
    assert status == cli.EXIT_BAD_INPUT
    assert "vae=FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("form", "kind", "told"),
    [
        ("official", "official checkpoints", {"networks": 4}),
        ("pipeline", "saved pipeline", {"networks": 3, "image_size": 64}),
        ("pipeline/denoiser", "weights", {}),
        ("official/xnemo_motion_encoder.pth", "weights", {}),
    ],
)
def test_weights_are_described(networks, models, form, kind, told, capsys):
    assert cli.run(["inspect", str(models / form), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == kind
    for name, value in told.items():
        assert (len(found[name]) if isinstance(found[name], list) else found[name]) == value
    if form == "pipeline/denoiser":
        assert found["tensors"] == len(networks.denoiser.state_dict())
        assert found["parameters"] == sum(
            t.numel() for t in networks.denoiser.state_dict().values()
        )
    assert found["next"]


def test_settings_alone_are_no_weights(tmp_path, capsys):
    """A run that has no bundle yet keeps its settings under a name that diffusers uses too."""
    (tmp_path / "config.json").write_text('{"samples": 3}')
    assert cli.run(["inspect", str(tmp_path)]) == cli.EXIT_BAD_INPUT
    assert "neither a data set" in capsys.readouterr().err


class RunsCode:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


def _rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tensors = torch.load(path, weights_only=True)
    change(tensors)
    torch.save(tensors, path)


ENCODER = "xnemo_motion_encoder.pth"
UNET = "denoiser/diffusion_pytorch_model.safetensors"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str, bool]] = {
    # Form, what is done to it, words of the line, whether "inspect" sees it too.
    "page": ("official", lambda f: (f / ENCODER).write_text("<html>"), "web server", True),
    "pointer": (
        "official",
        lambda f: (f / ENCODER).write_text("version https://git-lfs.github.com/spec/v1\n"),
        "git lfs pull",
        True,
    ),
    "empty": ("official", lambda f: (f / ENCODER).write_bytes(b""), "is empty", True),
    "cut": ("official", lambda f: _cut(f / ENCODER), "damaged", True),
    "code": (
        "official",
        lambda f: torch.save({"pe": RunsCode(f / "ran")}, f / ENCODER),
        "was not opened",
        True,
    ),
    "one file lost": ("official", lambda f: (f / ENCODER).unlink(), f"lacks {ENCODER}", True),
    "tensor lost": (
        "official",
        lambda f: _rewrite(f / ENCODER, lambda t: t.pop("final_proj.bias")),
        "1 missing: final_proj.bias",
        False,
    ),
    "tensor too many": (
        "official",
        lambda f: _rewrite(f / ENCODER, lambda t: t.update(more=torch.zeros(1))),
        "1 surplus: more",
        False,
    ),
    "nan": (
        "official",
        lambda f: _rewrite(f / ENCODER, lambda t: t["final_proj.bias"].fill_(torch.nan)),
        "NaN or infinity",
        False,
    ),
    "pipeline cut": ("pipeline", lambda f: _cut(f / UNET), "damaged", True),
    "pipeline without weights": ("pipeline", lambda f: (f / UNET).unlink(), "holds none of", True),
    "pipeline of other settings": (
        "pipeline",
        lambda f: _edit(f / "network.json", lambda c: c["unet"].update(widths=[96, 96])),
        "mis-shaped",
        False,
    ),
    "pipeline of broken settings": (
        "pipeline",
        lambda f: (f / "network.json").write_text("{"),
        "not readable as JSON",
        True,
    ),
    "config alone": (
        "pipeline",
        lambda f: [shutil.rmtree(p) if p.is_dir() else p.unlink() for p in f.iterdir()]
        and (f / "config.json").write_text('{"_class_name": "DenoisingUNet"}'),
        "no",
        True,
    ),
    "bundle with averages cut": (
        "bundle", lambda f: _cut(f / "ema.safetensors"), "ema.safetensors has", True,
    ),
    "bundle without a list": (
        "bundle",
        lambda f: _edit(f / "bundle.json", lambda c: c.pop("files")),
        "no readable bundle.json",
        True,
    ),
    "bundle without settings": (
        "bundle",
        lambda f: _edit(f / "bundle.json", lambda c: c.pop("config")),
        "no readable bundle.json",
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.usefixtures("released_shape")
def test_damage_ends_every_command_in_one_line_and_status_2(models, tmp_path, damage, capsys):
    form, harm, words, seen = DAMAGE[damage]
    model = tmp_path / "model"
    shutil.copytree(models / form, model)
    harm(model)
    rest = [str(models / "portrait.png"), str(models / "driving.mp4")]
    commands = [
        ["animate", *rest, "--model", str(model), "-o", str(tmp_path / "out.mp4"), *FAST],
        ["export", str(model), str(tmp_path / "exported")],
    ]
    for arguments in [*commands, *([["inspect", str(model)]] if seen else [])]:
        assert cli.run(arguments) == cli.EXIT_BAD_INPUT, arguments
        line = capsys.readouterr().err
        assert line.startswith("error: ")
        assert line.count("\n") == 1
        assert words in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    assert not (model / "ran").exists()
