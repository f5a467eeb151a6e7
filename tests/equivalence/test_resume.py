"""A run that was stopped anywhere ends with the same bits as one that was not."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xnemo.training.loop import run_training

# Two forward passes per step, dropout on, warm-up and schedule under way: all that could depend on
# where a run was stopped.
SETTINGS = {"micro_batch": 2, "optimizer__schedule": "cosine"}
STEPS = 12


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, faces: Path, nano: Callable[..., Any]
) -> Path:
    """A run of 12 steps with a checkpoint after each."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    run_training(nano(**SETTINGS), str(faces), folder)
    return folder


def stopped_copy(run: Path, step: int, target: Path, *, shards: bool) -> Path:
    """Return a run folder as it was when the run stopped after `step`."""
    name = f"{step * 4:012d}"
    shutil.copytree(run / "checkpoints" / name, target / "checkpoints" / name)
    if not shards:
        record = target / "checkpoints" / name / "checkpoint.json"
        record.write_text(record.read_text().replace("torch x 1", "zero3 x 512"))
    return target


@pytest.mark.parametrize("step", range(1, STEPS))
def test_every_stop_from_engine_shards(
    step: int,
    uninterrupted: Path,
    tmp_path: Path,
    faces: Path,
    nano: Callable[..., Any],
    weights_of: Callable[..., Any],
    assert_same_bits: Callable[..., None],
) -> None:
    run = stopped_copy(uninterrupted, step, tmp_path / "run", shards=True)
    run_training(nano(**SETTINGS, checkpoint__every_samples=1000), str(faces), run, resume="must")
    assert_same_bits(weights_of(run), weights_of(uninterrupted))


@pytest.mark.parametrize(
    "step",
    [pytest.param(s, marks=[] if s in (1, 7) else pytest.mark.slow) for s in range(1, STEPS)],
)
def test_every_stop_from_the_bundle(
    step: int,
    uninterrupted: Path,
    tmp_path: Path,
    faces: Path,
    nano: Callable[..., Any],
    weights_of: Callable[..., Any],
    assert_same_bits: Callable[..., None],
) -> None:
    run = stopped_copy(uninterrupted, step, tmp_path / "run", shards=False)
    run_training(nano(**SETTINGS, checkpoint__every_samples=1000), str(faces), run, resume="must")
    assert_same_bits(weights_of(run), weights_of(uninterrupted))


def test_a_requested_stop_saves_first(
    uninterrupted: Path,
    tmp_path: Path,
    faces: Path,
    nano: Callable[..., Any],
    weights_of: Callable[..., Any],
    assert_same_bits: Callable[..., None],
) -> None:
    config = nano(**SETTINGS, checkpoint__every_samples=1000)
    steps = iter([False, False, True])
    result = run_training(config, str(faces), tmp_path / "run", should_stop=lambda: next(steps))
    assert result["stopped"]
    assert result["samples_seen"] == 12
    result = run_training(config, str(faces), tmp_path / "run")
    assert not result["stopped"]
    assert_same_bits(weights_of(tmp_path / "run"), weights_of(uninterrupted))


def test_killed_in_the_middle_of_an_accumulation(
    uninterrupted: Path,
    tmp_path: Path,
    faces: Path,
    nano: Callable[..., Any],
    run_workers: Callable[..., dict[str, Path]],
    weights_of: Callable[..., Any],
    assert_same_bits: Callable[..., None],
) -> None:
    # Checkpoints after steps 2 and 4; killed between the two passes of step 6.
    settings = {**SETTINGS, "checkpoint__every_samples": 8}
    run = run_workers(1, [("run", {**settings, "kill_at": 11})], killed=True)["run"]
    result = run_training(nano(**settings), str(faces), run, resume="must")
    assert result["samples_seen"] == 48
    assert_same_bits(weights_of(run), weights_of(uninterrupted))


def test_a_damaged_last_checkpoint_only_repeats_its_steps(
    uninterrupted: Path,
    tmp_path: Path,
    faces: Path,
    nano: Callable[..., Any],
    weights_of: Callable[..., Any],
    assert_same_bits: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = stopped_copy(uninterrupted, 5, tmp_path / "run", shards=True)
    stopped_copy(uninterrupted, 8, run, shards=True)
    (run / "checkpoints" / f"{32:012d}" / "engine" / "worker0.pt").write_bytes(b"torn")
    run_training(nano(**SETTINGS, checkpoint__every_samples=1000), str(faces), run)
    assert "falling back to the previous one" in caplog.text
    assert_same_bits(weights_of(run), weights_of(uninterrupted))
