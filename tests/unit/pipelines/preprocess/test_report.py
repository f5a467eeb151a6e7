import json

import mlflow
import pytest

from pipelines.preprocess.report import log_report, report_metrics
from preprocessing.chunk.records import ChunkEnd
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.gather import ChunkSummary
from preprocessing.report.numbers import RunFacts, report_numbers
from preprocessing.storage.store import open_store

RUN = RunFacts(4, 3, {}, seconds=10.0, processed_s=250.0, workers=2)


@pytest.fixture
def store(tmp_path):
    chunks = [ChunkSummary("a.mp4", 9.0, ChunkEnd((), 225, 30, (), {"decode": 2.0}))]
    numbers = report_numbers([], [], chunks, PreprocessConfig(), RUN)
    store = open_store(tmp_path / "dataset")
    store.write_atomic("report.json", json.dumps(numbers).encode())
    store.write_atomic("report.html", b"<html>")
    return store


def test_the_report_becomes_a_run(store, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert log_report(store, PreprocessConfig(), uri) is None
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("preprocess")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "dataset"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["throughput/speed"] == 25
    assert run.data.metrics["stage_seconds/decode"] == 2
    assert run.data.params["detect.stride"] == str(PreprocessConfig().detect.stride)
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"report.html", "report.json"} <= names


def test_a_server_that_is_away_is_told_and_harms_nothing(store):
    problem = log_report(store, PreprocessConfig(), "http://127.0.0.1:9")
    assert problem


def test_every_metric_is_a_number(store):
    metrics = report_metrics(json.loads(store.read("report.json")))
    assert all(isinstance(value, float) for value in metrics.values())
    assert "dropped_seconds/blurred" in metrics
