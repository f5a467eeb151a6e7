"""Measurements of training and preprocessing reach Ray's metrics under the documented names."""

from pathlib import Path

import pytest

from pipelines.cluster import metrics
from pipelines.preprocess import process
from pipelines.train.worker import PrometheusCallback
from preprocessing.chunk.records import ChunkRecord


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, float, dict[str, str]]]:
    """Every call of a metric of Ray: name, method, value, labels."""
    calls = []

    class Metric:
        def __init__(self, kind, name, labels):
            self.kind, self.name, self.labels = kind, name, labels

        def call(self, method, value, labels):
            # As Ray's own classes do.
            assert method == {"Counter": "inc", "Gauge": "set"}[self.kind]
            assert set(labels) == set(self.labels)
            assert all(isinstance(label, str) for label in labels.values())
            assert isinstance(value, int | float)
            assert self.kind == "Gauge" or value > 0
            calls.append((self.name, method, value, labels))

        def inc(self, value, labels):
            self.call("inc", value, labels)

        def set(self, value, labels):
            self.call("set", value, labels)

    monkeypatch.setattr("ray.util.metrics.Counter", lambda n, _, tags: Metric("Counter", n, tags))
    monkeypatch.setattr("ray.util.metrics.Gauge", lambda n, _, tags: Metric("Gauge", n, tags))
    metrics._metric.cache_clear()
    yield calls
    metrics._metric.cache_clear()


def test_training_exports_speed_loss_latent_memory_and_the_last_checkpoint(exported) -> None:
    callback = PrometheusCallback(Path("/data/search/trial-00001"))
    callback.on_start(None, {})
    callback.on_log({"event": "started", "samples_seen": 0})
    line = {"samples_per_s": 2.0, "data_wait_pct": 5.0, "loss": 0.5, "latent_std": 0.1}
    callback.on_log({"samples_seen": 8, **line, "peak_memory_gb": 3.0, "l1": 1.0})
    callback.on_checkpoint(Path("c"), {})
    callback.on_end({})
    assert {labels["run"] for *_, labels in exported} == {"search/trial-00001"}
    values = {}
    for name, _, value, _ in exported:
        values.setdefault(name, []).append(value)
    assert values.pop("xnemo_checkpoint_timestamp_seconds")[0] > 1e9
    assert values == {
        "xnemo_training": [1, 0],
        "xnemo_samples_seen": [0, 8],
        "xnemo_samples_per_second": [2.0],
        "xnemo_data_wait_percent": [5.0],
        "xnemo_loss": [0.5],
        "xnemo_latent_std": [0.1],
        "xnemo_peak_memory_bytes": [3e9],
    }


def test_preprocessing_exports_frames_clips_and_drops_by_reason(exported) -> None:
    dropped = {"small face": 2, "blurred": 1}
    process._export(ChunkRecord("a", clips=5, kept=2, dropped=dropped, frames=100), 60.0)
    process._export(ChunkRecord("b", damage=1), 0.0)
    assert [(name, value, *labels.values()) for name, _, value, labels in exported] == [
        ("xnemo_frames_total", 100),
        ("xnemo_clips_total", 2, "kept"),
        ("xnemo_clips_total", 2, "small face"),
        ("xnemo_clips_total", 1, "blurred"),
        ("xnemo_pending_seconds", 60.0),
        ("xnemo_quarantined_total", 1),
        ("xnemo_pending_seconds", 0.0),
    ]


def test_ray_accepts_every_name_and_label() -> None:
    for name, (kind, _, labels) in metrics.METRICS.items():
        metrics.record(name, 1.0, **dict.fromkeys(labels, "x"))
        # The suffix is what both of Ray's exporters leave as it is.
        assert name.endswith("_total") == (kind == "Counter")
