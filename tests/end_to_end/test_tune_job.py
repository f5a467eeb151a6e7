"""A search with real trials: bad draws are stopped early, MLflow holds parent and children."""

import csv
import json
import time
from pathlib import Path

import pytest
import ray
from moving_faces import write_dataset
from tiny_run import nano_config

from pipelines.terminal.live_progress import live_progress
from pipelines.tune.job import tune

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
    assert json.loads((result.folder / "best.json").read_text()) == best.settings

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
