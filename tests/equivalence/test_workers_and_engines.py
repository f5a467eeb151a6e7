"""One process, DDP and every stage of ZeRO train the same networks on the same samples.

Rounding is what differs, and Adam blows it up where a gradient is zero but for rounding (a bias
before a norm): these runs use a large epsilon, which makes the update smooth in the gradient.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xnemo.training.loop import run_training
from xnemo.training.monitor.run_log import read_log

SETTINGS = {
    "samples": 20,
    "checkpoint__every_samples": 1000,
    "network__motion__dropout": 0.0,
    "optimizer__eps": 1e-3,
    # With two frames a sample, and so with every part that there is.
    "data__pairs__frames": 2,
    "loss__motion": 1.0,
}


def zero(stage: int, **changes: Any) -> dict[str, Any]:
    """Return the settings of a run under ZeRO."""
    return {**SETTINGS, "engine__kind": "deepspeed", "engine__zero_stage": stage, **changes}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, faces: Path, nano: Callable[..., Any]) -> Path:
    """The same run in one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    run_training(nano(**SETTINGS), str(faces), folder)
    return folder


def samples_of(run: Path, world: int) -> list[list[Any]]:
    """Return the run's samples in global order, with their clips."""
    files = [run / f"samples_worker{rank}.jsonl" for rank in range(world)]
    passes = zip(*[path.read_text().splitlines() for path in files], strict=True)
    sequence = []
    for lines in passes:
        for line in lines:
            indices, keys = json.loads(line)
            sequence += [[index, key] for index, key in zip(indices, keys, strict=True)]
    return sequence


def losses_of(run: Path) -> list[list[float]]:
    """Return all losses of every step."""
    names = (
        "loss", "diffusion", "discriminator", "head_l1", "head_feature_matching",
        "head_adversarial", "motion",
    )  # fmt: skip
    return [[r[n] for n in names] for r in read_log(run) if "loss" in r]


@pytest.mark.slow
def test_two_workers_under_every_engine(
    one: Path,
    run_workers: Callable[..., dict[str, Path]],
    weights_of: Callable[..., Any],
    assert_close_weights: Callable[..., None],
    assert_same_bits: Callable[..., None],
) -> None:
    """Weights, averages and moments agree, parameter by parameter, after 5 steps."""
    runs = run_workers(
        2,
        [
            ("ddp", SETTINGS),
            *[(f"zero{stage}", zero(stage)) for stage in (1, 2, 3)],
            # Stopped after two steps and taken up again: from the workers' parts, from the bundle.
            ("parts2", zero(2, stop_at=2)),
            ("parts2", zero(2)),
            ("parts3", zero(3, stop_at=2)),
            ("parts3", zero(3)),
            ("bundle2", zero(2, stop_at=2, checkpoint__engine_shards=False)),
            ("bundle2", zero(2, checkpoint__engine_shards=False)),
            ("bundle3", zero(3, stop_at=2, checkpoint__engine_shards=False)),
            ("bundle3", zero(3, checkpoint__engine_shards=False)),
        ],
    )
    expected = weights_of(one)
    for name in ("ddp", "zero1", "zero2", "zero3"):
        assert_close_weights(weights_of(runs[name]), expected, tolerance=2e-6)
        for mine, theirs in zip(losses_of(runs[name]), losses_of(one), strict=True):
            assert mine == pytest.approx(theirs, abs=1e-5), name
        assert samples_of(runs[name], 2) == samples_of(runs["ddp"], 2)
    sizes = {name: read_log(folder)[0]["parameters"] for name, folder in runs.items()}
    assert len(set(sizes.values())) == 1, sizes
    assert sizes["ddp"] > 0
    assert [index for index, _ in samples_of(runs["ddp"], 2)] == list(range(20))
    for stage in (2, 3):
        for way in ("parts", "bundle"):
            assert_same_bits(weights_of(runs[f"{way}{stage}"]), weights_of(runs[f"zero{stage}"]))


@pytest.mark.slow
def test_four_workers(
    one: Path,
    run_workers: Callable[..., dict[str, Path]],
    weights_of: Callable[..., Any],
    assert_close_weights: Callable[..., None],
    assert_same_bits: Callable[..., None],
) -> None:
    runs = run_workers(
        4, [("ddp", SETTINGS), ("stopped", {**SETTINGS, "stop_at": 2}), ("stopped", SETTINGS)]
    )
    assert [index for index, _ in samples_of(runs["ddp"], 4)] == list(range(20))
    assert_close_weights(weights_of(runs["ddp"]), weights_of(one), tolerance=2e-6)
    for mine, theirs in zip(losses_of(runs["ddp"]), losses_of(one), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
    assert_same_bits(weights_of(runs["stopped"]), weights_of(runs["ddp"]))


@pytest.mark.slow
def test_a_run_moves_between_numbers_of_workers(
    one: Path,
    run_workers: Callable[..., dict[str, Path]],
    faces: Path,
    nano: Callable[..., Any],
    weights_of: Callable[..., Any],
    assert_close_weights: Callable[..., None],
) -> None:
    """Two workers under ZeRO-2, then three (which do not divide the batch) by DDP, then one.

    Statistics are frozen: three workers see other micro-batches. The sequence of samples is the
    same.
    """
    frozen = {"engine__batch_norm": "frozen"}
    settings = {**SETTINGS, **frozen}
    folder = run_workers(2, [("run", zero(2, stop_at=2, **frozen))])["run"]
    run_workers(3, [("run", {**settings, "micro_batch": 1, "stop_at": 2})])
    run_training(nano(**settings), str(faces), folder, resume="must")
    other = folder.with_name("other")
    run_training(nano(**settings), str(faces), other)
    assert_close_weights(weights_of(folder), weights_of(other), tolerance=2e-6)
