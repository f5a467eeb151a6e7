"""A search with real trials: bad draws are stopped early, MLflow holds parent and children."""

import csv
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
import yaml
from moving_faces import write_dataset
from tiny_run import nano_config

from pipelines.terminal.live_progress import live_progress
from pipelines.tune.job import tune
from pipelines.tune.trials import read_trial, write_trial
from xnemo.training.checkpoint.bundle import read_meta, read_moments, read_weights
from xnemo.training.monitor.run_log import read_records

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.timeout(1500)
def test_a_search_finds_the_rate_that_learns(tmp_path: Path, ray_local: None) -> None:
    from mlflow import MlflowClient

    faces = write_dataset(tmp_path / "faces")
    space = tmp_path / "space.yaml"
    space.write_text("optimizer.lr: {grid: [1.0e-3, 1.0e-12]}\n")
    config = nano_config(samples=48, optimizer__warmup_samples=0, checkpoint__every_samples=24)
    lines: list[str] = []
    with live_progress() as tell:

        def on_progress(line: str, done: int, total: int) -> None:
            lines.append(line)
            # As the command does: a terminal is nothing that Ray could copy.
            tell(line, done, total, "")

        result = tune(
            config,
            space,
            str(faces),
            "search",
            runs_dir=tmp_path,
            trials=1,
            grace_samples=8,
            workers=1,
            concurrent=1,
            on_progress=on_progress,
        )
    assert result.metric == "diffusion"
    # The trial that was stopped holds nothing from the next one.
    patience = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 2.0 and time.monotonic() < patience:
        time.sleep(0.2)
    assert ray.available_resources()["CPU"] == 2.0
    best, worst = result.trials
    assert best.settings == {"optimizer.lr": 1e-3}
    assert result.best.optimizer.lr == 1e-3
    assert best.value is not None
    assert worst.value is not None
    assert best.value < worst.value
    assert best.state == "finished"
    assert worst.state == "stopped"
    assert worst.samples_seen < best.samples_seen
    assert any("ended" in line for line in lines)
    with result.table.open() as file:
        assert [row["trial"] for row in csv.DictReader(file)] == [best.name, worst.name]
    assert yaml.safe_load(result.settings.read_text())["optimizer"]["lr"] == 1e-3
    assert result.states == "1 finished, 1 stopped"

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("xnemo").experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    parent = by_name["search"]
    assert parent.info.status == "FINISHED"
    assert parent.data.params["best.optimizer.lr"] == "0.001"
    for trial in result.trials:
        child = by_name[trial.name]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.info.status in ("FINISHED", "KILLED")


@pytest.mark.timeout(1500)
def test_a_population_copies_weights_and_optimizers(tmp_path: Path, ray_local: None) -> None:
    """The trial that learns nothing goes on from the other one's checkpoint, to the bit."""
    faces = write_dataset(tmp_path / "faces")
    space = tmp_path / "space.yaml"
    space.write_text("optimizer.lr: {grid: [1.0e-3, 1.0e-12]}\n")
    config = nano_config(
        samples=32,
        optimizer__warmup_samples=0,
        checkpoint__every_samples=1000,
        validation__every_samples=16,
        validation__samples=4,
        validation__filter="split == 'train'",
    )
    again = {"runs_dir": tmp_path, "trials": 1, "scheduler": "pbt", "exchange_samples": 16}
    result = tune(config, space, str(faces), "search", concurrent=1, **again)
    good, bad = (result.folder / f"trial-0000{n}" for n in (0, 1))
    assert [trial.state for trial in result.trials] == ["finished", "finished"]
    assert (taken := [r for r in read_records(bad) if r.get("event") == "took over"])
    assert [(r["from"], r["samples_seen"]) for r in taken] == [(good.name, 16)]
    assert not any(r.get("event") == "took over" for r in read_records(good))
    # The settings changed with it, and the log of the run goes on.
    settings = read_trial(result.folder, bad.name).settings
    assert settings == taken[0]["settings"]
    assert settings["optimizer.lr"] in (1e-3, 1e-12)
    events = [r["event"] for r in read_records(bad) if r["kind"] == "event"]
    assert events[-4:] == ["took over", "resumed", "checkpoint", "finished"]
    for part in ("weights", "moments"):
        source, copy = (
            tensors(run / "checkpoints" / f"{16:012d}" / "bundle", part) for run in (good, bad)
        )
        assert source.keys() == copy.keys()
        assert all(torch.equal(source[name], copy[name]) for name in source)
    # What it trained afterwards began there: a step moves a weight by about the learning rate.
    start = tensors(good / "checkpoints" / f"{16:012d}" / "bundle", "weights")
    end = tensors(bad / "bundle", "weights")
    far = max(float((end[name] - start[name]).abs().max()) for name in start if "denoiser" in name)
    assert far < 20 * settings["optimizer.lr"] + 1e-9

    # A finished search starts nothing again.
    before = [(run / "log.jsonl").read_bytes() for run in (good, bad)]
    assert tune(config, space, str(faces), "search", **again).trials == result.trials
    assert [(run / "log.jsonl").read_bytes() for run in (good, bad)] == before


def tensors(bundle: Path, part: str) -> dict[str, torch.Tensor]:
    """Return a bundle's raw weights, or its optimiser state, by name."""
    if part == "weights":
        return read_weights(bundle, "raw")
    return {
        f"{engine}/{moment}/{name}": tensor
        for engine, state in read_moments(bundle, read_meta(bundle)).items()
        for moment in ("first", "second")
        for name, tensor in getattr(state, moment).items()
    }


@pytest.mark.timeout(1500)
def test_an_optuna_search_that_was_killed_repeats_nothing(tmp_path: Path, ray_local: None) -> None:
    faces = write_dataset(tmp_path / "faces")
    space = tmp_path / "space.yaml"
    space.write_text("optimizer.lr: {loguniform: [1.0e-5, 1.0e-2]}\n")
    config = nano_config(samples=8, optimizer__warmup_samples=0)
    start = {"runs_dir": tmp_path, "scheduler": "none", "searcher": "optuna", "concurrent": 1}

    def killed(message: str, done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(config, space, str(faces), "search", trials=3, on_progress=killed, **start)
    folder = tmp_path / "search"
    first = read_trial(folder, "trial-00000")
    assert first.state == "finished"
    log = (folder / "trial-00000" / "log.jsonl").read_bytes()
    # A trial that diverged is not the best, and not repeated either.
    write_trial(folder, replace(first, name="trial-00001", value=None, state="diverged"))
    lines = []
    result = tune(
        config, space, str(faces), "search", trials=3,
        on_progress=lambda *line: lines.append(line), **start,
    )  # fmt: skip
    assert (folder / "trial-00000" / "log.jsonl").read_bytes() == log
    assert lines[0][1:] == (2, 3)
    assert result.states == "2 finished, 1 diverged"
    assert result.trials[-1].name == "trial-00001"
    assert len({trial.settings["optimizer.lr"] for trial in result.trials}) == 2
