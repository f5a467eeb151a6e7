"""A tracking server that refuses, hangs or dies neither stops nor slows the one who writes."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.tracking import RunLog, Sender, default_uri, sync
from preprocessing.errors import UserError


@contextmanager
def refusing() -> Iterator[str]:
    """Give the address of a port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def black_hole() -> Iterator[str]:
    """Give the address of a server that accepts, reads, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.close()
        for connection in held:
            connection.close()


def write(log: RunLog, steps: int) -> None:
    """Write metrics as training does."""
    for step in range(steps):
        log.metrics(step, {f"loss/{name}": 1.0 for name in range(8)})
        time.sleep(0.002)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("away", [refusing, black_hole])
def test_training_never_waits_and_sync_sends_everything_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, away
) -> None:
    # Longer than this test may last: whoever waits for an answer does not get to its end.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3000")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run_dir = tmp_path / "run"
    with away() as uri:
        log = RunLog(run_dir)
        log.start(name="run", experiment="xnemo")
        sender = Sender(log, uri, interval_s=0.05)
        write(log, 200)
        log.end("FINISHED")
        assert sender.close(timeout_s=1.0) is False
        assert sender.missing == 202
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
        with pytest.raises(UserError, match="0 of 202 records") as refusal:
            sync(run_dir, uri)
        assert "\n" not in str(refusal.value)
    complaints = [r for r in caplog.records if "training continues" in r.getMessage()]
    assert len(complaints) <= 1, "one complaint, not one an attempt"
    result = sync(run_dir, default_uri(tmp_path))
    assert (result.sent, result.refused) == (202, 0)


def test_a_store_that_dies_halfway_and_returns_gets_all_of_it(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = default_uri(tmp_path)
    file, away = tmp_path / "mlflow.db", tmp_path / "away"
    log = RunLog(tmp_path / "run")
    log.start(name="run", experiment="xnemo")
    sender = Sender(log, uri, interval_s=0.05)
    write(log, 10)
    assert sender.wait(60)
    file.rename(away)
    file.mkdir()  # opening the database fails from now on
    sender._delivery._store._connected = None
    write(log, 10)
    deadline = time.monotonic() + 60
    while sender.problem is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sender.problem
    file.rmdir()
    away.rename(file)
    assert sender.close(60)
    points = MlflowClient(uri).get_metric_history(str(sender.run_id), "loss/0")
    assert [point.step for point in points] == [*range(10), *range(10)]
