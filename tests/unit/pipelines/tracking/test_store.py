"""What MLflow holds after a run log was sent, once or many times."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.tracking import RunLog, default_uri, sync
from pipelines.tracking.delivery import Delivery
from pipelines.tracking.uri import limit_waiting, patient_uploads
from preprocessing.errors import UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One SQLite store for the module: making one takes MLflow seconds."""
    return default_uri(tmp_path_factory.mktemp("store"))


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str = "first", parent: str | None = None) -> Path:
        run_dir = tmp_path / name
        bundle = run_dir / "bundle"
        bundle.mkdir(parents=True)
        (bundle / "raw.safetensors").write_bytes(b"weights")
        (run_dir / "sample.png").write_bytes(b"png")
        log = RunLog(run_dir)
        log.start(name=name, experiment="xnemo", parent=parent)
        log.params({"optimizer.lr": 1e-4, "samples": 64})
        log.tags({"git": "abc"})
        log.dataset(name="d", digest="e" * 64, source="/data", filter="yaw < 9", clips=3)
        for step in range(5):
            log.metrics(step, {"loss": 1 / (1 + step), "bad": float("nan")})
        log.artifact(run_dir / "sample.png", "samples")
        log.model(bundle, f"model-{name}")
        log.end("FINISHED")
        log.close()
        return run_dir

    return write


def test_everything_arrives_and_sending_again_changes_nothing(
    store: str, write_run: Callable[..., Path]
) -> None:
    from mlflow import MlflowClient

    run_dir = write_run()
    first = sync(run_dir, store)
    assert (first.sent, first.refused) == (12, 0)
    client = MlflowClient(store, store)

    def state() -> tuple:
        run = client.get_run(first.run_id)
        points = client.get_metric_history(first.run_id, "loss")
        versions = client.search_model_versions("name='model-first'")
        folders = [a.path for a in client.list_artifacts(first.run_id)]
        return (
            run.data.params,
            run.data.tags["git"],
            run.info.status,
            [(p.step, p.value) for p in points],
            [(d.dataset.digest, d.dataset.profile) for d in run.inputs.dataset_inputs],
            sorted(folders),
            [v.version for v in versions],
            len(client.search_runs([run.info.experiment_id], "tags.`xnemo.key` != ''")),
        )

    before = state()
    assert before[0] == {"optimizer.lr": "0.0001", "samples": "64"}
    assert before[2] == "FINISHED"
    assert before[3] == [(step, 1 / (1 + step)) for step in range(5)]
    assert before[5] == ["bundle", "samples"]
    assert before[6] == [1]
    assert sync(run_dir, store).sent == 0
    (run_dir / "tracking.json").unlink()  # as if it had crashed before it could remember
    again = sync(run_dir, store)
    assert (again.sent, again.run_id) == (12, first.run_id)
    assert state() == before


def test_a_changed_setting_of_a_resumed_run_becomes_a_tag(
    store: str, write_run: Callable[..., Path]
) -> None:
    from mlflow import MlflowClient

    run_dir = write_run("resumed")
    run_id = sync(run_dir, store).run_id
    log = RunLog(run_dir)
    log.start(name="resumed", experiment="xnemo")
    log.params({"samples": 128})
    result = sync(run_dir, store)
    assert (result.run_id, result.refused) == (run_id, 0)
    data = MlflowClient(store).get_run(run_id).data
    assert (data.params["samples"], data.tags["changed.samples"]) == ("64", "128")


def test_a_trial_is_a_child_run_of_its_search(store: str, write_run: Callable[..., Path]) -> None:
    from mlflow import MlflowClient

    from xnemo.training.monitor.run_log import run_key

    parent = write_run("search")
    parent_id = sync(parent, store).run_id
    child_id = sync(write_run("trial", parent=run_key(parent)), store).run_id
    assert MlflowClient(store).get_run(child_id).data.tags["mlflow.parentRunId"] == parent_id


def test_one_refused_entry_costs_no_other(store: str, write_run: Callable[..., Path]) -> None:
    from mlflow import MlflowClient

    run_dir = write_run("refused")
    log = RunLog(run_dir)
    log.metrics(9, {"not/allowed?*": 1.0})
    log.metrics(9, {"after": 2.0})
    log.artifact(run_dir / "gone.png")
    result = sync(run_dir, store)
    assert result.refused == 2
    assert "gone.png" in (result.refusal or "")
    assert MlflowClient(store).get_run(result.run_id).data.metrics["after"] == 2.0
    assert Delivery(run_dir, store).position.next_seq == 15


def test_a_run_without_tracking_is_sent_once_a_tracked_job_resumes_it(
    store: str, tmp_path: Path
) -> None:
    log = RunLog(tmp_path / "alone")
    log.metrics(4, {"loss": 1.0})
    with pytest.raises(UserError, match="was trained without tracking"):
        sync(tmp_path / "alone", store)
    log.start(name="alone", experiment="xnemo")
    result = sync(tmp_path / "alone", store)
    assert (result.sent, result.refused) == (2, 0)


def test_a_store_of_no_known_kind_is_refused_in_one_line(write_run: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="is not an MLflow store") as refusal:
        sync(write_run("nowhere"), "./mlruns")
    assert "\n" not in str(refusal.value)


def test_an_alias_moves_to_the_run_that_took_it_last(
    store: str, write_run: Callable[..., Path]
) -> None:
    from mlflow import MlflowClient

    client, ids = MlflowClient(store, store), {}
    for name in ("night-1", "night-2", "night-3"):
        run_dir = write_run(name)
        log = RunLog(run_dir)
        log.model(run_dir / "bundle", "nightly")
        log.alias("champion")
        log.close()
        if name != "night-2":
            ids[sync(run_dir, store).run_id] = name
            version = client.get_model_version_by_alias("nightly", "champion")
            assert ids[version.run_id] == name
    # The second night's record comes late: its model is newer in MLflow, its promotion is not.
    late = sync(run_dir.with_name("night-2"), store)
    assert late.refused == 0
    assert len(client.search_model_versions("name='nightly'")) == 3
    assert ids[client.get_model_version_by_alias("nightly", "champion").run_id] == "night-3"


def test_a_deleted_experiment_is_told_and_nothing_is_lost(
    tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    from mlflow import MlflowClient

    uri = default_uri(tmp_path)
    sync(write_run("before"), uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("xnemo")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    after = write_run("after")
    with pytest.raises(UserError, match=r"was deleted.*experiments restore") as refusal:
        sync(after, uri)
    assert "\n" not in str(refusal.value)
    assert Delivery(after, uri).position.next_seq == 0
    client.restore_experiment(experiment.experiment_id)
    result = sync(after, uri)
    assert (result.sent, result.refused) == (12, 0)


def test_uploads_may_take_longer_than_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT

    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    limit_waiting()
    assert MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 10
    with patient_uploads():
        assert MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 900
    assert MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 10
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    limit_waiting()
    with patient_uploads():
        assert MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 3
