"""Stage 4, report: what the job kept, dropped and spent, as a page and as a run in MLflow."""

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.preprocess.context import JobContext
from pipelines.preprocess.finalize import Finalized
from pipelines.tracking import RunLog, Sender
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.plan import plain
from preprocessing.report.numbers import RunFacts
from preprocessing.report.write import REPORT_NUMBERS, REPORT_PAGE, write_report
from preprocessing.storage.store import Store
from xnemo.config import flatten

_EXPERIMENT = "preprocess"
# Seconds that a slow tracking server may delay the end of a finished job.
_SEND_LIMIT_S = 60.0


def report(finalized: Finalized, job: JobContext, began: float) -> None:
    """Write report.html and report.json.

    Args:
        finalized: the published data set.
        job: store, settings, Ray and progress.
        began: when the job began, by `time.monotonic`.
    """
    plan = finalized.processed.plan
    run = RunFacts(
        sources=len(plan.found.files),
        readable=len(plan.readable) + len(plan.same),
        ignored=plan.found.ignored,
        seconds=time.monotonic() - began,
        processed_s=plan.todo_seconds,
        workers=finalized.processed.workers,
    )
    write_report(job.store, finalized.dataset, job.config, run)
    # A worker that outlived a killed driver may have begun to write since this job began.
    job.store.sweep()


def log_report(store: Store, config: PreprocessConfig, uri: str) -> str | None:
    """Send settings, numbers and page of the report in `store` to MLflow.

    Returns:
        The reason where this failed, else None. A failure does not affect the job: its report is
        on disk already.
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
        sent = sender.close(_SEND_LIMIT_S)
        log.close()
        if sent:
            return None
        return sender.problem or f"MLflow at {uri} did not answer within {_SEND_LIMIT_S:g} s"


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
