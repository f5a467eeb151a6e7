"""The training loop: logs, skipped steps, guards, failing callbacks and bad samples."""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from preprocessing.errors import Diverged, UserError
from xnemo.training.config import GuardConfig
from xnemo.training.loop import run_training
from xnemo.training.monitor.guards import COLLAPSE_STEPS, LATENT_STD, SETTLED_STEPS, StepGuard
from xnemo.training.monitor.run_log import read_log
from xnemo.training.monitor.watchdog import Watchdog

FINE = {"loss": 1.0, "diffusion": 1.0}


def test_files_and_log_of_a_run(short_run: Path) -> None:
    records = read_log(short_run)
    assert records[0]["event"] == "started"
    assert records[0]["index_digest"]
    assert records[-1]["event"] == "finished"
    steps = [r for r in records if "loss" in r]
    assert [r["samples_seen"] for r in steps] == [4, 8, 12]
    for name in (
        "samples_per_s",
        "data_wait_pct",
        "mfu",
        "peak_memory_gb",
        "grad_norm_discriminator",
    ):
        assert all(math.isfinite(r[name]) and r[name] >= 0 for r in steps), name
    assert json.loads((short_run / "config.json").read_text())["samples"] == 12
    assert (short_run / "bundle" / "bundle.json").is_file()
    folders = sorted(p.name for p in (short_run / "checkpoints").iterdir())
    assert folders == [f"{8:012d}", f"{12:012d}"]


def test_resume_never_and_must(
    short_run: Path, faces: Path, tmp_path: Path, nano: Callable[..., Any]
) -> None:
    with pytest.raises(UserError, match="already holds a run"):
        run_training(nano(), str(faces), short_run, resume="never")
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        run_training(nano(), str(faces), tmp_path / "none", resume="must")


def test_a_run_pauses_at_multiples_and_ends_at_its_length(
    faces: Path, tmp_path: Path, nano: Callable[..., Any]
) -> None:
    config = nano(samples=16, checkpoint__every_samples=100)
    ends = []
    for _ in range(3):
        result = run_training(config, str(faces), tmp_path / "run", pause_every=6)
        ends.append((result["samples_seen"], result["stopped"]))
    assert ends == [(8, True), (12, True), (16, False)]
    folders = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert folders == [8, 12, 16]


class Broken:
    """Fails at every event."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        def fail(*arguments: Any) -> None:
            raise ConnectionError("tracking server is gone")

        return fail


def test_a_failing_callback_does_not_stop_training(
    faces: Path, tmp_path: Path, nano: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = run_training(
            nano(samples=8, checkpoint__every_samples=100),
            str(faces),
            tmp_path / "run",
            callbacks=[Broken()],
        )
    assert result["samples_seen"] == 8
    assert caplog.text.count("failed at on_log") == 1


def test_non_finite_steps_are_skipped_and_counted(
    faces: Path, tmp_path: Path, nano: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import xnemo.training.step as step_module

    prepare = step_module.prepare_inputs
    bad_steps = {1}
    calls = [0]

    def poisoned(*arguments: Any, **options: Any):
        inputs = prepare(*arguments, **options)
        if calls[0] in bad_steps:
            inputs.driving_BCFHW[0, 0, 0, 0, 0] = float("nan")
        calls[0] += 1
        return inputs

    monkeypatch.setattr(step_module, "prepare_inputs", poisoned)
    run = tmp_path / "run"
    result = run_training(nano(samples=12, checkpoint__every_samples=100), str(faces), run)
    assert result["skipped_steps"] == 1
    assert math.isfinite(result["loss"])
    events = [r for r in read_log(run) if r.get("event") == "step skipped"]
    assert len(events) == 1
    assert "not finite" in events[0]["cause"]
    assert events[0]["keys"]
    from safetensors.torch import load_file

    for tensor in load_file(run / "bundle" / "raw.safetensors").values():
        assert torch.isfinite(tensor).all()
    # Statistics and weights were those of a run that never saw the step: two updates were taken.
    meta = json.loads(next((run / "checkpoints").glob("0*/bundle/bundle.json")).read_text())
    assert meta["updates"] == {"discriminator": 2, "network": 2}

    calls[0], bad_steps = 0, set(range(100))
    with pytest.raises(UserError, match="3 steps in a row"):
        run_training(nano(samples=48, guards__max_skipped_steps=3), str(faces), tmp_path / "second")


def test_the_guard_reports_spikes_after_a_resume() -> None:
    guard = StepGuard(GuardConfig(spike_factor=3))
    for n in range(30):
        assert guard.check(FINE, True, n, ["a"]) is None
    resumed = StepGuard(GuardConfig(spike_factor=3))
    resumed.load_state(json.loads(json.dumps(guard.state())))
    event = resumed.check({"loss": 3.5}, True, 31, ["clip7"])
    assert event is not None
    assert event["event"] == "loss spike"
    assert event["keys"] == ["clip7"]
    assert resumed.check({"loss": 2.9}, True, 32, []) is None


def test_the_guard_names_the_non_finite_loss_and_stops() -> None:
    guard = StepGuard(GuardConfig(max_skipped_steps=2))
    event = guard.check({"loss": math.nan, "discriminator": math.inf, "l1": 1.0}, False, 1, [])
    assert event is not None
    assert "loss, discriminator" in event["cause"]
    guard.check(FINE, True, 2, [])
    guard.check(FINE, False, 3, [])
    with pytest.raises(Diverged, match="2 steps in a row"):
        guard.check(FINE, False, 4, [])
    assert guard.skipped_total == 3


def test_the_watchdog_names_the_stage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR), Watchdog(GuardConfig(stall_seconds=0.2), tmp_path, 0) as d:
        d.enter("waiting for data")
        time.sleep(0.7)
        d.enter("step")
    assert caplog.text.count("in stage waiting for data") == 1
    report = (tmp_path / "stall_worker0.txt").read_text()
    assert "test_the_watchdog_names_the_stage" in report


def test_bad_samples_are_named_counted_and_bounded(
    faces: Path, tmp_path: Path, nano: Callable[..., Any]
) -> None:
    import shutil

    from xnemo.data.clip_table import open_clips

    root = tmp_path / "copy"
    shutil.copytree(faces, root)
    row = open_clips([str(root)], "split == 'train'").rows.iloc[0]
    path = root / "shards" / row["shard"]
    content = bytearray(path.read_bytes())
    start = int(row["mp4_offset"])
    content[start : start + int(row["mp4_length"])] = bytes(int(row["mp4_length"]))
    path.write_bytes(content)
    changes = {"samples": 8, "checkpoint__every_samples": 100, "data__retries": 0}
    result = run_training(nano(**changes), str(root), tmp_path / "run")
    assert result["bad_samples"] >= 1
    named = [r for r in read_log(tmp_path / "run") if r.get("event") == "bad sample"]
    assert row["key"] in named[0]["cause"]
    with pytest.raises(UserError, match=row["key"]):
        run_training(nano(**changes, data__max_bad_samples=1), str(root), tmp_path / "second")


def test_latent_collapse_is_reported_once() -> None:
    guard = StepGuard(GuardConfig())
    seen = [
        guard.check({"loss": 1.0, LATENT_STD: spread}, True, step, [])
        for step, spread in enumerate([0.3] * 5 + [1e-6] * 60)
    ]
    told = [(step, event) for step, event in enumerate(seen) if event is not None]
    assert [step for step, _ in told] == [4 + COLLAPSE_STEPS]
    assert told[0][1]["event"] == "latent collapse"
    assert "standardise" in told[0][1]["cause"]
    again = StepGuard(GuardConfig())
    again.load_state(guard.state())
    assert again.check({"loss": 1.0, LATENT_STD: 1e-6}, True, 99, []) is None


def test_latent_std_is_in_the_log(short_run: Path) -> None:
    records = [r for r in read_log(short_run) if "loss" in r]
    assert records
    assert all(0 < r[LATENT_STD] < 10 for r in records)


def test_a_weighted_perceptual_loss_without_weights_does_not_train(
    faces: Path, tmp_path: Path, nano: Callable[..., Any]
) -> None:
    with pytest.raises(UserError, match=r"perceptual\.weights is empty"):
        run_training(nano(loss__perceptual=1.0), str(faces), tmp_path / "run")


def test_an_engine_s_skipped_step_leaves_the_other_s_buffers_and_average_updated(
    faces: Path, tmp_path: Path, nano: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import xnemo.training.step as step_module

    discriminate = step_module.discriminator_pass

    def poisoned(engine: Any, images: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        return discriminate(engine, images * float("nan"), *arguments, **options)

    monkeypatch.setattr(step_module, "discriminator_pass", poisoned)
    run = tmp_path / "run"
    run_training(nano(samples=8, guards__max_skipped_steps=5), str(faces), run)
    from safetensors.torch import load_file

    meta = json.loads((run / "checkpoints/000000000008/bundle/bundle.json").read_text())
    assert meta["updates"] == {"discriminator": 0, "network": 2}
    raw = load_file(run / "bundle" / "raw.safetensors")
    counts = [t for name, t in raw.items() if name.endswith("num_batches_tracked")]
    assert counts
    assert all(int(count) == 2 for count in counts)
    averaged = load_file(run / "bundle" / "ema.safetensors")
    assert all(torch.isfinite(t).all() for t in averaged.values())


def test_validation_leaves_out_short_clips_and_replaces_a_damaged_one(
    faces: Path, tmp_path: Path, nano: Callable[..., Any]
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(faces, root)
    table = pq.read_table(root / "index.parquet").to_pydict()
    # A clip too short for a window of 6 frames at stride 3, and one of zeros.
    table["frames"][0] = 10
    start, length = table["mp4_offset"][1], table["mp4_length"][1]
    shard = root / "shards" / table["shard"][1]
    content = bytearray(shard.read_bytes())
    content[start : start + length] = bytes(length)
    shard.write_bytes(content)
    schema = pq.read_schema(root / "index.parquet")
    pq.write_table(pa.table(table, schema=schema), root / "index.parquet")
    config = nano(
        samples=4,
        data__pairs__layout="window",
        data__pairs__frames=6,
        data__pairs__stride=3,
        data__retries=0,
        validation__every_samples=4,
        validation__samples=8,
        validation__filter="",
    )
    assert math.isfinite(run_training(config, str(root), tmp_path / "run")["validation_loss"])


def test_a_latent_that_is_constant_in_evaluation_stops_the_run() -> None:
    """Batch statistics hide a dead encoder in training: there the deviation stays near 1."""
    guard = StepGuard(GuardConfig())
    for _ in range(SETTLED_STEPS - 1):
        guard.check({"loss": 1.0, LATENT_STD: 1.0}, True, 4, [])
    # Running statistics still are those of the start.
    guard.check_validation({"validation_latent_std": 0.04}, 4)
    guard.check({"loss": 1.0, LATENT_STD: 1.0}, True, 4, [])
    guard.check_validation({"validation_latent_std": 0.3}, 4)
    with pytest.raises(UserError, match="latent collapse at sample 8"):
        guard.check_validation({"validation_latent_std": 0.04}, 8)
    lenient = StepGuard(GuardConfig(min_latent_ratio=0))
    for _ in range(SETTLED_STEPS):
        lenient.check({"loss": 1.0, LATENT_STD: 1.0}, True, 4, [])
    lenient.check_validation({"validation_latent_std": 0.0}, 8)


def test_a_dead_encoder_is_found_at_the_first_validation(
    faces: Path, tmp_path: Path, nano: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only channel of the last map is below zero, as it was found to fall in training."""
    import xnemo.training.setup as setup

    build = setup.build_networks

    def dead(*arguments: Any, **options: Any) -> Any:
        networks = build(*arguments, **options)
        torch.nn.init.constant_(networks.motion_encoder.model.conv6.bias, -1e3)
        return networks

    monkeypatch.setattr(setup, "build_networks", dead)
    monkeypatch.setattr("xnemo.training.monitor.guards.SETTLED_STEPS", 1)
    validation = {"validation__every_samples": 4, "validation__filter": "frames > 0"}
    with pytest.raises(UserError, match="latent collapse at sample 4"):
        run_training(nano(samples=16, **validation), str(faces), tmp_path / "run")
    # A healthy encoder varies; so early it is not judged.
    monkeypatch.undo()
    result = run_training(nano(samples=8, **validation), str(faces), tmp_path / "healthy")
    assert result["validation_latent_std"] > 1e-3
