"""A run resumes with other networks, averages or optimisers than before."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from preprocessing.errors import UserError
from xnemo.training.checkpoint.bundle import read_meta, read_moments
from xnemo.training.checkpoint.store import CheckpointStore
from xnemo.training.engines.engine import OptimizerMoments
from xnemo.training.engines.torch_engine import TorchEngine
from xnemo.training.engines.world import World
from xnemo.training.loop import run_training

ALONE = World(0, 1, torch.device("cpu"))

CHANGES: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "GAN head off": ({}, {"loss__gan": 0.0}),
    "GAN head on": ({"loss__gan": 0.0}, {}),
    "average off": ({}, {"ema__enabled": False}),
    "average on": ({"ema__enabled": False}, {}),
    "fused": ({}, {"optimizer__kind": "fused"}),
    "no own parts": ({"checkpoint__engine_shards": False}, {}),
}


@pytest.mark.parametrize("kind", ["torch", "deepspeed"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_run_resumes_with_changed_parts(
    change: str, kind: str, tmp_path: Path, faces: Path, nano: Callable[..., Any]
) -> None:
    before, after = ({"engine__kind": kind, **changes} for changes in CHANGES[change])
    run_training(nano(samples=8, **before), str(faces), tmp_path)
    result = run_training(nano(samples=16, **after), str(faces), tmp_path, resume="must")
    assert result["samples_seen"] == 16
    assert result["skipped_steps"] == 0
    last = tmp_path / "checkpoints" / f"{16:012d}" / "bundle"
    moments = read_moments(last, read_meta(last))
    # Two steps before, two after: what both have was not begun anew.
    assert moments["network"].updates == 4
    assert ("discriminator" in moments) == (after.get("loss__gan") != 0.0)
    assert (last / "ema.safetensors").exists() == after.get("ema__enabled", True)


def test_a_checkpoint_of_another_network_is_refused(
    short_run: Path, tmp_path: Path, faces: Path, nano: Callable[..., Any]
) -> None:
    shutil.copytree(short_run, tmp_path / "run")
    wider = nano(samples=16, network__unet__layers=2)
    with pytest.raises(UserError, match=r"does not fit: \d+ missing: denoiser\."):
        run_training(wider, str(faces), tmp_path / "run")


def test_a_record_with_fewer_entries_resumes(
    short_run: Path, tmp_path: Path, faces: Path, nano: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(short_run, run)
    for record in run.glob("checkpoints/*/checkpoint.json"):
        known = json.loads(record.read_text())
        kept = {name: known[name] for name in ("files", "samples_seen", "engine_layout")}
        record.write_text(json.dumps(kept))
    assert run_training(nano(samples=16), str(faces), run, resume="must")["samples_seen"] == 16


def test_another_optimiser_ignores_moments_of_adamw() -> None:
    """As an 8-bit one, whose blocks have no name by parameter."""
    module = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([{"params": list(module.parameters())}], lr=0.1, momentum=0.9)
    engine = TorchEngine(module, optimizer, ALONE, clip=1.0, accumulation=1)
    ones = {name: torch.ones_like(p) for name, p in module.named_parameters()}
    engine.load_moments(OptimizerMoments(3, ones, ones))
    assert not optimizer.state


def test_a_failed_last_checkpoint_is_an_error_with_its_cause(
    tmp_path: Path, faces: Path, nano: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise UserError("x is not finite, so no bundle is written", "resume from the last one")

    monkeypatch.setattr("xnemo.training.state.save_bundle", refuse)
    with pytest.raises(
        UserError,
        match=r"cannot write the last checkpoint.*x is not finite.*resume from",
    ):
        run_training(nano(samples=4), str(faces), tmp_path)
    assert CheckpointStore(tmp_path, nano().checkpoint, ALONE).latest() is None
