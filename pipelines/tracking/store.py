"""MLflow run of a run log: records become calls of the MLflow client."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.tracking.uri import check_uri, limit_waiting, patient_uploads
from preprocessing.errors import UserError
from xnemo.training.monitor.run_log import START, Record, measurements, read_records

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Tags by which a record that was sent before is recognised.
_KEY_TAG = "xnemo.key"
_PARENT_TAG = "xnemo.parent"
# When a version took an alias.
_ALIAS_TAG = "xnemo.alias_since"

# MLflow refuses larger batches and longer values.
_MAX_METRICS, _MAX_PARAMS, _MAX_VALUE = 1000, 100, 6000


class Refused(Exception):  # noqa: N818 - an answer about one record, not a failure of the sender
    """The server answered that it does not accept a record."""


@dataclass
class _Run:
    run_id: str
    experiment_id: str


class TrackingStore:
    """The MLflow run of one run log. Every method may block or fail; jobs call it in a thread."""

    def __init__(self, uri: str, run_dir: Path) -> None:
        """Remember the store; it is not contacted before the first record.

        Args:
            uri: MLflow tracking URI, such as sqlite:///file.db or http://host:port.
            run_dir: folder of the run; artifacts are read from it.
        """
        self.uri = uri
        self.run_dir = run_dir
        self._connected: MlflowClient | None = None
        self._run: _Run | None = None

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, once it is known."""
        return self._run.run_id if self._run else None

    def send(self, records: list[Record]) -> None:
        """Send consecutive records of one kind; sending them twice is safe.

        Raises:
            Refused: the server answered that it does not accept them.
            UserError: the URI or the run log is unusable.
            Exception: anything else, such as a server that does not answer.
        """
        from mlflow.exceptions import MlflowException

        try:
            getattr(self, f"_send_{records[0]['kind']}", self._skip)(records)
        except MlflowException as error:
            # Without a run no record has a place to go: none of them is refused for itself.
            final = error.error_code in _FINAL and self._run is not None
            if final and not _is_connection_error(error):
                raise Refused(str(error)) from error
            raise

    def _skip(self, records: list[Record]) -> None:
        """Ignore events, and kinds of records that this version does not know."""

    def _send_start(self, records: list[Record]) -> None:
        record = records[-1]
        client = self._client
        experiment_id = self._experiment(record["experiment"])
        run_id = self._find(experiment_id, record["key"])
        if run_id is None:
            tags = {"mlflow.runName": record["name"], _KEY_TAG: record["key"]}
            if record.get("parent"):
                tags[_PARENT_TAG] = record["parent"]
                parent = self._find(experiment_id, record["parent"])
                if parent is not None:
                    tags["mlflow.parentRunId"] = parent
            run = client.create_run(
                experiment_id, start_time=_milliseconds(record), tags=tags, run_name=record["name"]
            )
            run_id = run.info.run_id
        else:
            client.update_run(run_id, status="RUNNING")
        self._run = _Run(run_id, experiment_id)

    def _send_params(self, records: list[Record]) -> None:
        """Log settings once; MLflow cannot change one, so a later value becomes a tag."""
        from mlflow.entities import Param, RunTag

        run_id = self._ready()
        known = dict(self._client.get_run(run_id).data.params)
        fresh, changed = {}, {}
        for name, value in _merged(records).items():
            text = str(value)[:_MAX_VALUE]
            if name not in known:
                fresh[name] = text
            elif known[name] != text:
                changed[f"changed.{name}"] = text
        for some in _chunks(list(fresh.items()), _MAX_PARAMS):
            self._client.log_batch(run_id, params=[Param(*pair) for pair in some])
        for some in _chunks(list(changed.items()), _MAX_PARAMS):
            self._client.log_batch(run_id, tags=[RunTag(*pair) for pair in some])

    def _send_tags(self, records: list[Record]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, str(value)) for name, value in _merged(records).items()]
        for some in _chunks(tags, _MAX_PARAMS):
            self._client.log_batch(self._ready(), tags=some)

    def _send_metrics(self, records: list[Record]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(name, value, _milliseconds(record), record["samples_seen"])
            for record in records
            for name, value in measurements(record).items()
        ]
        for some in _chunks(points, _MAX_METRICS):
            self._client.log_batch(self._ready(), metrics=some)

    def _send_artifact(self, records: list[Record]) -> None:
        client, run_id = self._client, self._ready()
        for record in records:
            path = self.run_dir / record["file"]
            with patient_uploads():
                if path.is_dir():
                    client.log_artifacts(run_id, str(path), record["folder"] or path.name)
                elif path.is_file():
                    client.log_artifact(run_id, str(path), record["folder"] or None)
                else:
                    raise Refused(f"{path} does not exist any more")

    def _send_dataset(self, records: list[Record]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        for record in records:
            dataset = Dataset(
                name=record["name"],
                digest=record["digest"][:36],
                source_type="local",
                source=json.dumps({"uri": record["source"]}),
                profile=json.dumps({"clips": record["clips"], "filter": record["filter"]}),
            )
            context = [InputTag("mlflow.data.context", "training")]
            self._client.log_inputs(self._ready(), datasets=[DatasetInput(dataset, context)])

    def _send_model(self, records: list[Record]) -> None:
        from mlflow.exceptions import MlflowException

        client, run_id = self._client, self._ready()
        for record in records:
            folder = self.run_dir / record["file"]
            if not folder.is_dir():
                raise Refused(f"{folder} does not exist any more")
            with patient_uploads():
                client.log_artifacts(run_id, str(folder), folder.name)
            try:
                client.create_registered_model(record["name"])
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"{client.get_run(run_id).info.artifact_uri}/{folder.name}"
            mark = {"xnemo.record": f"{record['seq']}"}
            query = f"name='{record['name']}' and run_id='{run_id}'"
            if not any(mark.items() <= v.tags.items() for v in client.search_model_versions(query)):
                client.create_model_version(record["name"], source, run_id=run_id, tags=mark)

    def _send_alias(self, records: list[Record]) -> None:
        client, run_id = self._client, self._ready()
        for record in records:
            own = max(
                client.search_model_versions(f"run_id='{run_id}'"),
                key=lambda version: int(version.version),
                default=None,
            )
            if own is None:
                raise Refused("no version of a model was registered for this run")
            holder = client.get_registered_model(own.name).aliases.get(record["name"])
            tags = client.get_model_version(own.name, holder).tags if holder else {}
            # A record that was sent late must not take the name from a later holder.
            if float(tags.get(_ALIAS_TAG, 0)) <= record["time"]:
                client.set_model_version_tag(own.name, own.version, _ALIAS_TAG, f"{record['time']}")
                client.set_registered_model_alias(own.name, record["name"], own.version)

    def _send_end(self, records: list[Record]) -> None:
        record = records[-1]
        self._client.set_terminated(self._ready(), record["status"], end_time=_milliseconds(record))

    @property
    def _client(self) -> "MlflowClient":
        if self._connected is None:
            limit_waiting()
            from mlflow import MlflowClient

            check_uri(self.uri)
            self._connected = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        return self._connected

    def _ready(self) -> str:
        """Return the run's id, finding or creating the run where this process has not yet."""
        if self._run is None:
            starts = [r for r in read_records(self.run_dir) if r["kind"] == START]
            if not starts:
                # Not refused: these records are sent once a tracked job resumes the run.
                raise UserError(
                    f"{self.run_dir} was trained without tracking", "resume it with xnemo train"
                )
            self._send_start(starts)
        assert self._run is not None
        return self._run.run_id

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            number = found.experiment_id
            raise UserError(
                f"the MLflow experiment {name!r} at {self.uri} was deleted",
                f"restore it by `mlflow experiments restore --experiment-id {number}` and run "
                "`xnemo sync RUN`",
            )
        if found is not None:
            return str(found.experiment_id)
        location = None
        # The default of SQLite is the working directory; a server has its own location.
        if self.uri.startswith("sqlite:///"):
            location = (Path(self.uri.removeprefix("sqlite:///")).parent / "artifacts").as_uri()
        return str(self._client.create_experiment(name, artifact_location=location))

    def _find(self, experiment_id: str, key: str) -> str | None:
        runs = self._client.search_runs(
            [experiment_id], f"tags.`{_KEY_TAG}` = '{key}'", max_results=1
        )
        return str(runs[0].info.run_id) if runs else None


# Error codes that sending again does not change.
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


def _merged(records: list[Record]) -> dict[str, Any]:
    return {name: value for record in records for name, value in record["values"].items()}


def _chunks(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _milliseconds(record: Record) -> int:
    seconds: float = record["time"]
    return round(1000 * seconds)
