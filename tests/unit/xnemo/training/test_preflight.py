"""What a run cannot use is refused before its networks are built and its workers start."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from preprocessing.errors import UserError
from xnemo.training import preflight
from xnemo.training.preflight import check_run

# Setting, its value and the words of the refusal; {tmp} is an empty folder.
WRONG = {
    "init_from": ("init_from", "{tmp}/none", "no such file or folder"),
    "autoencoder": (
        "network",
        {
            "autoencoder": {"kind": "kl", "path": "{tmp}/none", "factor": 8},
            "unet": {"latent_channels": 4, "use_2d_rope": False},
        },
        "autoencoder.path",
    ),
    "embedding": (
        "network",
        {
            "image_embedding": {"kind": "clip", "path": "{tmp}/none", "width": 768},
            "unet": {"image_embedding_width": 768},
        },
        "image_embedding.path",
    ),
    "perceptual, none": ("loss__perceptual", 1.0, "perceptual.weights is empty"),
    "optimizer": ("optimizer__kind", "8bit", "bitsandbytes is not installed"),
    "filter": ("data__filter", "frames > 9999", "0 after the filter"),
    "too few frames": ("data__pairs", {"frames": 900, "layout": "window"}, "frames"),
    "validation": (
        "validation",
        {"every_samples": 4, "filter": "frames > 9999"},
        "frames > 9999",
    ),
    "weights": ("data__weights", (1.0, 2.0), "data.weights has 2 values for 1 data sets"),
    "matched": ("data__pairs", {"matched": 0.5}, "same motion"),
    "frozen encoder": (
        "optimizer__encoder_lr_scale",
        0.0,
        "optimizer.encoder_lr_scale=0 keeps the motion encoder as random",
    ),
    "frozen norms": ("engine__batch_norm", "frozen", "engine.batch_norm=frozen keeps"),
    "temporal": (
        "",
        {
            "stage": "temporal",
            "network": {"unet": {"temporal": True}},
            "data": {"pairs": {"layout": "window", "frames": 2}},
        },
        "stage=temporal keeps",
    ),
}


def changed(config: Any, name: str, value: Any, tmp: Path) -> Any:
    """Return a configuration with one setting, or several of one section, replaced."""
    from xnemo.config import from_dict, to_dict

    def merge(into: dict[str, Any], new: dict[str, Any]) -> None:
        for key, item in new.items():
            if isinstance(item, dict):
                merge(into[key], item)
            else:
                into[key] = str(tmp / "none") if item == "{tmp}/none" else item

    whole = to_dict(config)
    update: Any = value
    for part in reversed(name.split("__") if name else []):
        update = {part: update}
    merge(whole, update)
    return from_dict(type(config), whole)


@pytest.mark.parametrize("name", WRONG)
def test_each_is_refused_in_one_line_before_networks_are_built(
    faces: Path,
    nano: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    setting, value, words = WRONG[name]
    monkeypatch.setattr("xnemo.training.engines.optimizer.find_spec", lambda _: None)
    config = changed(nano(), setting, value, tmp_path)
    with pytest.raises(UserError) as refused:
        check_run(config, [str(faces)], tmp_path / "run")
    line = f"{refused.value.what} {refused.value.remedy}"
    assert words in line
    assert "\n" not in line
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_not_there_is_refused(
    faces: Path, nano: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no usable GPU"):
        check_run(nano(engine__device="cuda"), [str(faces)], tmp_path)


def test_a_machine_that_cannot_compile_is_refused(
    faces: Path, nano: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(device: str) -> None:
        raise UserError(f"no compiler for {device}", "install one")

    monkeypatch.setattr(preflight, "require_compiling", refuse)
    with pytest.raises(UserError, match="no compiler for cpu"):
        check_run(nano(engine__compile=True, engine__device="cpu"), [str(faces)], tmp_path)


def test_a_resumed_run_does_not_need_its_first_weights(
    faces: Path, nano: Callable[..., Any], tmp_path: Path
) -> None:
    config = nano(init_from=str(tmp_path / "gone"))
    with pytest.raises(UserError, match="no such file"):
        check_run(config, [str(faces)], tmp_path)
    (tmp_path / "checkpoints" / "000000000004").mkdir(parents=True)
    check_run(config, [str(faces)], tmp_path)


def test_a_usable_run_passes(faces: Path, nano: Callable[..., Any], tmp_path: Path) -> None:
    check_run(nano(), [str(faces)], tmp_path)
