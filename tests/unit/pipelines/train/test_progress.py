"""Messages of workers become run log records and progress reports, in order."""

import logging
from pathlib import Path

import pytest

from pipelines.tracking import RunLog
from pipelines.train.control_actor import ControlActor
from pipelines.train.progress import RunRecord, TrainProgress
from preprocessing.errors import Diverged
from xnemo.training.monitor.run_log import measurements, read_records

FACTS = {
    "git": "abc", "workers": 2, "device": "cpu", "parameters": 3_000_000, "data": ["/d/faces"],
    "index_digest": "f" * 32, "filter": "split == 'train'", "clips": 4,
}  # fmt: skip


@pytest.fixture
def reports() -> list[TrainProgress]:
    return []


@pytest.fixture
def record(tmp_path: Path, reports: list[TrainProgress]) -> RunRecord:
    return RunRecord(RunLog(tmp_path), 100, reports.append)


def test_a_run_is_logged_and_reported_from_start_to_end(
    record: RunRecord, reports: list[TrainProgress], tmp_path: Path
) -> None:
    record.take(
        [
            ("start", FACTS),
            ("log", {"event": "started", "samples_seen": 0}),
            ("log", {"samples_seen": 20, "loss": 2.0, "samples_per_s": 10.0}),
            ("validation", {"samples_seen": 20, "validation_loss": 1.0}),
            ("checkpoint", {"folder": "/runs/a/checkpoints/000000000020", "loss": 2.0}),
            ("end", {"samples_seen": 100, "loss": 1.5, "stopped": False}),
        ]
    )
    entries = list(read_records(tmp_path))
    assert [e["kind"] for e in entries] == ["tags", "dataset", "event", "metrics", "metrics"]
    assert entries[1]["digest"] == "f" * 32
    assert measurements(entries[3]) == {"loss": 2.0, "samples_per_s": 10.0}
    assert reports[0].message == "2 workers on cpu, 4 clips, 3.00 M parameters"
    assert next(p.eta_s for p in reports if p.metrics.get("loss") == 2.0) == pytest.approx(8.0)
    assert record.checkpoint == Path("/runs/a/checkpoints/000000000020")
    assert (record.samples_seen, record.metrics["loss"]) == (100, 1.5)


def test_the_first_refusal_counts_and_stops_the_next_start(record: RunRecord) -> None:
    bodies = [("a", True), ("c", False)]
    record.take([("refused", {"what": w, "remedy": "b", "diverged": d}) for w, d in bodies])
    assert isinstance(record.refusal, Diverged)
    assert str(record.refusal) == "a; b"
    control_actor = ControlActor()
    assert not control_actor.refused()
    control_actor.post("refused", {"what": "a", "remedy": "b"})
    assert control_actor.refused()
    assert control_actor.fetch() == [("refused", {"what": "a", "remedy": "b"})]
    assert control_actor.fetch() == []
    assert control_actor.refused(), "it stays refused after the driver has read it"


def test_a_control_actor_measures_the_time_since_the_last_poll() -> None:
    control_actor = ControlActor()
    assert control_actor.seconds_since_poll() == float("inf")
    control_actor.request_stop()
    assert control_actor.seconds_since_poll() == float("inf"), "the driver is nobody"
    assert control_actor.stop_requested()
    assert 0 <= control_actor.seconds_since_poll() < 60


def test_a_failed_worker_is_reported_and_kept(
    record: RunRecord, reports: list[TrainProgress]
) -> None:
    failure = {"rank": 1, "node": "10.0.0.2", "error": "ValueError: x", "traceback": "..."}
    record.take([("failed", failure), ("a kind of tomorrow", {})])
    assert record.failures == [failure]
    assert reports[-1].phase == "restarting"
    assert reports[-1].message == "worker 1 failed: ValueError: x"


def test_warnings_are_reported_once(
    record: RunRecord,
    reports: list[TrainProgress],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    warning = ("warning", {"rank": 0, "level": logging.WARNING, "text": "loss spike"})
    record.take([warning])
    assert reports[-1].message == "worker 0: loss spike"
    assert not caplog.records
    RunRecord(RunLog(tmp_path / "silent"), 1).take([warning])
    assert [r.getMessage() for r in caplog.records] == ["worker 0: loss spike"]
