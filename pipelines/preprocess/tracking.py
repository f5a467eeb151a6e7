"""The report of a preprocessing job as a run in MLflow."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.tracking import RunLog, Sender
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.finalize import plain
from preprocessing.report.write import REPORT_NUMBERS, REPORT_PAGE
from preprocessing.storage.store import Store
from xnemo.config import flatten

_EXPERIMENT = "preprocess"
# How long a slow server may keep a job that is done from ending, in seconds.
_PATIENCE_S = 60.0


def log_report(store: Store, config: PreprocessConfig, uri: str) -> str | None:
    """Send settings, numbers and page of the report in `store`; return why not, or None.

    A server that is away never harms the job: its report is on disk already.
    """
    numbers = json.loads(store.read(REPORT_NUMBERS))
    with tempfile.TemporaryDirectory(prefix="xnemo-report-") as folder:
        run_dir = Path(folder)
        log = RunLog(run_dir)
        log.start(name=store.url.rstrip("/").rsplit("/", 1)[-1], experiment=_EXPERIMENT)
        log.params(flatten(plain(config)))
        log.metrics(0, report_metrics(numbers))
        for name in (REPORT_PAGE, REPORT_NUMBERS):
            (run_dir / name).write_bytes(store.read(name))
            log.artifact(run_dir / name)
        log.end("FINISHED")
        sender = Sender(log, uri)
        sent = sender.close(_PATIENCE_S)
        log.close()
        if sent:
            return None
        return sender.problem or f"MLflow at {uri} did not answer within {_PATIENCE_S:g} s"


def report_metrics(numbers: Mapping[str, Any]) -> dict[str, float]:
    """Return the report's numbers under flat names."""
    metrics = {
        "sources/found": numbers["sources"]["found"],
        "sources/readable": numbers["sources"]["readable"],
        "sources/without_a_clip": numbers["sources"]["without_a_clip"],
        "kept/clips": numbers["kept"]["clips"],
        "kept/seconds": numbers["kept"]["seconds"],
        "kept/identities": numbers["kept"]["identities"],
        "kept/bytes_per_frame": numbers["kept"]["bytes_per_frame"],
        "kept/percent": numbers["funnel"][-1]["left_percent"],
        "throughput/speed": numbers["throughput"]["speed"],
        "throughput/frames_per_busy_second": numbers["throughput"]["frames_per_busy_second"],
        "quarantine/rows": sum(numbers["quarantine"].values()),
    }
    for step in numbers["funnel"][1:]:
        metrics[f"dropped_seconds/{step['reason']}"] = step["dropped_seconds"]
    for stage, spent in numbers["stages"].items():
        metrics[f"stage_seconds/{stage}"] = spent
    return {name: float(value) for name, value in metrics.items()}
