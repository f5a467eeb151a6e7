"""The model of the package: loads by name, is small, and can be trained on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xnemo.animation.load_model import load_model
from xnemo.model.builtin import BUILTIN, model_folder
from xnemo.recipes import get_recipe
from xnemo.training.checkpoint.bundle import load_bundle
from xnemo.training.loop import run_training


def test_it_is_small_and_says_what_it_is() -> None:
    folder = model_folder(BUILTIN).parent
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert size < 25 * 2**20
    card = (folder / "README.md").read_text()
    for word in ("CC0", "Licence", "Limits", "never lived"):
        assert word in card


def test_it_loads_by_name_in_full_precision() -> None:
    loaded = load_model(BUILTIN)
    networks = loaded.networks
    assert networks.config.image_size == 64
    assert networks.gan_head is None
    assert {p.dtype for p in networks.denoiser.parameters()} == {torch.float32}
    assert loaded.diffusion == get_recipe("mini").diffusion
    assert networks.config == get_recipe("mini").network
    # A path of that name is not taken for it.
    assert model_folder(f"./{BUILTIN}") == Path(BUILTIN)


def test_training_goes_on_from_it(faces: Path, tmp_path: Path) -> None:
    recipe = get_recipe("mini-finetune")
    recipe = replace(
        recipe,
        samples=4,
        global_batch=4,
        micro_batch=4,
        engine=replace(recipe.engine, kind="torch"),
    )
    run_training(recipe, str(faces), tmp_path / "run")
    trained = load_file(tmp_path / "run" / "bundle" / "raw.safetensors")
    start = load_file(model_folder(BUILTIN) / "raw.safetensors")
    largest = 0.0
    for name in start.keys() & trained.keys():
        tensor = start[name]
        if tensor.is_floating_point() and "running_" not in name:
            largest = max(largest, float((trained[name] - tensor.float()).abs().max()))
    # One step of the warm-up moves no weight further than its rate.
    assert 0 < largest < 1e-3
    assert {name.partition(".")[0] for name in start.keys() & trained.keys()} >= {
        "denoiser", "reference_net", "motion_encoder",
    }  # fmt: skip
    bundle = load_bundle(tmp_path / "run" / "bundle")
    assert bundle.config.init_from == BUILTIN


@pytest.mark.slow
def test_a_portrait_is_animated_without_naming_a_model(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    from pipelines.cli import main as cli
    from preprocessing.encode.clip_encoder import encode_clip
    from preprocessing.synthetic import render, sample_motion, sample_person

    frames = render(sample_person(7), sample_motion(7, np.arange(4) / 25), 192)
    Image.fromarray(frames[0]).save(tmp_path / "portrait.png")
    (tmp_path / "driving.mp4").write_bytes(encode_clip(iter(frames), 25.0))
    files = [str(tmp_path / "portrait.png"), str(tmp_path / "driving.mp4")]
    out = str(tmp_path / "out.mp4")
    assert cli.run(["animate", *files, "-o", out, "--steps", "4"]) == 0
    assert Path(out).stat().st_size > 0
