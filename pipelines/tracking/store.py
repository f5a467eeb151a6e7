"""Where runs are tracked, and how entries of a journal become MLflow's calls."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.tracking import journal
from preprocessing.errors import UserError

# Tags that let an entry be sent twice without being there twice.
_KEY_TAG = "xnemo.key"
_PARENT_TAG = "xnemo.parent"

# MLflow refuses larger batches and longer values.
_MAX_METRICS, _MAX_PARAMS, _MAX_VALUE = 1000, 100, 6000


def default_uri(out: Path) -> str:
    """Return the SQLite store beside the runs of ``out``, which needs no server."""
    return f"sqlite:///{out.resolve() / 'mlflow.db'}"


def choose_uri(asked: str | None, otherwise: str) -> str:
    """Return the store a job is tracked in: the one asked for, MLFLOW_TRACKING_URI, or another.

    Nothing is contacted: a server that is away is no reason not to begin.

    Raises:
        UserError: it is nothing that MLflow's clients can talk to, so that nothing would ever
            arrive.
    """
    uri = asked or os.environ.get("MLFLOW_TRACKING_URI") or otherwise
    if uri:
        _check_uri(uri)
    return uri


def set_limits() -> None:
    """Bound how long MLflow may wait for a server; what the person has set wins.

    Its own defaults hold a call for four minutes when the server is gone.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Refused(Exception):  # noqa: N818 - a verdict about one entry, not a failure of the sender
    """The server answered, and will never take this entry."""


@dataclass
class _Run:
    """The MLflow run behind a journal."""

    run_id: str
    experiment_id: str


class TrackingStore:
    """The MLflow run of one journal. Any method may block or fail; training never calls one."""

    def __init__(self, uri: str, run_dir: Path) -> None:
        """Take the store at ``uri``; nothing is contacted before the first entry.

        Args:
            uri: any MLflow tracking URI, as sqlite:///file.db or http://host:port.
            run_dir: folder of the run; artifacts are read from it.
        """
        self.uri = uri
        self.run_dir = run_dir
        self._connected: Any = None
        self._run: _Run | None = None

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, once it is known."""
        return self._run.run_id if self._run else None

    def send(self, entries: list[journal.Entry]) -> None:
        """Send consecutive entries of one kind.

        Raises:
            Refused: the server answered that it will not take them.
            Exception: anything else; sending them again later is safe.
        """
        from mlflow.exceptions import MlflowException

        try:
            getattr(self, f"_send_{entries[0]['kind']}", self._skip)(entries)
        except MlflowException as error:
            if error.error_code in _FINAL and not _is_connection_error(error):
                raise Refused(str(error)) from error
            raise

    def _skip(self, entries: list[journal.Entry]) -> None:
        """Pass over a kind of entry that this version does not know."""

    def _send_start(self, entries: list[journal.Entry]) -> None:
        entry = entries[-1]
        client = self._client
        experiment_id = self._experiment(entry["experiment"])
        run_id = self._find(experiment_id, entry["key"])
        if run_id is None:
            tags = {"mlflow.runName": entry["name"], _KEY_TAG: entry["key"]}
            if entry.get("parent"):
                tags[_PARENT_TAG] = entry["parent"]
                parent = self._find(experiment_id, entry["parent"])
                if parent is not None:
                    tags["mlflow.parentRunId"] = parent
            run = client.create_run(
                experiment_id, start_time=entry["time_ms"], tags=tags, run_name=entry["name"]
            )
            run_id = run.info.run_id
        else:
            client.update_run(run_id, status="RUNNING")
        self._run = _Run(run_id, experiment_id)

    def _send_params(self, entries: list[journal.Entry]) -> None:
        """Log settings once; MLflow never changes one, so a later value becomes a tag."""
        from mlflow.entities import Param, RunTag

        run_id = self._ready()
        known = dict(self._client.get_run(run_id).data.params)
        fresh, changed = {}, {}
        for name, value in _merged(entries).items():
            text = str(value)[:_MAX_VALUE]
            if name not in known:
                fresh[name] = text
            elif known[name] != text:
                changed[f"changed.{name}"] = text
        for some in _chunks(list(fresh.items()), _MAX_PARAMS):
            self._client.log_batch(run_id, params=[Param(*pair) for pair in some])
        for some in _chunks(list(changed.items()), _MAX_PARAMS):
            self._client.log_batch(run_id, tags=[RunTag(*pair) for pair in some])

    def _send_tags(self, entries: list[journal.Entry]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, str(value)) for name, value in _merged(entries).items()]
        for some in _chunks(tags, _MAX_PARAMS):
            self._client.log_batch(self._ready(), tags=some)

    def _send_metrics(self, entries: list[journal.Entry]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(name, float(value), entry["time_ms"], entry["step"])
            for entry in entries
            for name, value in entry["values"].items()
        ]
        for some in _chunks(points, _MAX_METRICS):
            self._client.log_batch(self._ready(), metrics=some)

    def _send_artifact(self, entries: list[journal.Entry]) -> None:
        for entry in entries:
            path = self.run_dir / entry["file"]
            if path.is_dir():
                self._client.log_artifacts(self._ready(), str(path), entry["folder"] or path.name)
            elif path.is_file():
                self._client.log_artifact(self._ready(), str(path), entry["folder"] or None)
            else:
                raise Refused(f"{path} is gone")

    def _send_dataset(self, entries: list[journal.Entry]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        for entry in entries:
            dataset = Dataset(
                name=entry["name"],
                digest=entry["digest"][:36],
                source_type="local",
                source=json.dumps({"uri": entry["source"]}),
                profile=json.dumps({"clips": entry["clips"], "filter": entry["filter"]}),
            )
            context = [InputTag("mlflow.data.context", "training")]
            self._client.log_inputs(self._ready(), datasets=[DatasetInput(dataset, context)])

    def _send_model(self, entries: list[journal.Entry]) -> None:
        from mlflow.exceptions import MlflowException

        client, run_id = self._client, self._ready()
        for entry in entries:
            folder = self.run_dir / entry["file"]
            if not folder.is_dir():
                raise Refused(f"{folder} is gone")
            client.log_artifacts(run_id, str(folder), folder.name)
            try:
                client.create_registered_model(entry["name"])
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"{client.get_run(run_id).info.artifact_uri}/{folder.name}"
            mark = {"xnemo.entry": f"{entry['seq']}"}
            versions = client.search_model_versions(f"name='{entry['name']}' and run_id='{run_id}'")
            if not any(
                version.tags.get("xnemo.entry") == f"{entry['seq']}" for version in versions
            ):
                client.create_model_version(entry["name"], source, run_id=run_id, tags=mark)

    def _send_end(self, entries: list[journal.Entry]) -> None:
        entry = entries[-1]
        self._client.set_terminated(self._ready(), entry["status"], end_time=entry["time_ms"])

    @property
    def _client(self) -> Any:
        if self._connected is None:
            set_limits()
            from mlflow import MlflowClient

            _check_uri(self.uri)
            self._connected = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        return self._connected

    def _ready(self) -> str:
        """Return the run's id, finding or creating the run where this process has not yet."""
        if self._run is None:
            starts = [e for e in journal.read(self.run_dir) if e["kind"] == journal.START]
            if not starts:
                raise Refused("the journal has no start")
            self._send_start(starts)
        assert self._run is not None
        return self._run.run_id

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = None
        # MLflow would put them under the working directory; a server has a place of its own.
        if self.uri.startswith("sqlite:///"):
            location = (Path(self.uri.removeprefix("sqlite:///")).parent / "artifacts").as_uri()
        return str(self._client.create_experiment(name, artifact_location=location))

    def _find(self, experiment_id: str, key: str) -> str | None:
        runs = self._client.search_runs(
            [experiment_id], f"tags.`{_KEY_TAG}` = '{key}'", max_results=1
        )
        return str(runs[0].info.run_id) if runs else None


# Answers that sending again cannot change.
_FINAL = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_DOES_NOT_EXIST",
    "INVALID_STATE",
    "FEATURE_DISABLED",
    "PERMISSION_DENIED",
    "ENDPOINT_NOT_FOUND",
}


def _is_connection_error(error: Exception) -> bool:
    import requests

    return isinstance(error.__cause__ or error.__context__, requests.exceptions.RequestException)


def _check_uri(uri: str) -> None:
    """Refuse, in one line, a store that MLflow would refuse with a page.

    Raises:
        UserError: the URI is a plain folder or has an unknown scheme.
    """
    scheme = uri.partition("://")[0] if "://" in uri else ""
    known = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
    if scheme.partition("+")[0] not in known and uri != "databricks":
        raise UserError(f"{uri!r} is no MLflow store", "use sqlite:///FILE.db or http://HOST:PORT")


def _merged(entries: list[journal.Entry]) -> dict[str, Any]:
    return {name: value for entry in entries for name, value in entry["values"].items()}


def _chunks(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
