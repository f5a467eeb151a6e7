"""The preprocessing job: raw videos to shards, on this machine or a Ray cluster."""

import logging
import os
import time
from collections.abc import Iterable

from pipelines.preprocess.context import job_context, write_errors
from pipelines.preprocess.finalize import finalize
from pipelines.preprocess.plan import plan_job
from pipelines.preprocess.process import process
from pipelines.preprocess.progress import JobProgress, OnProgress
from pipelines.preprocess.report import log_report, report
from pipelines.preprocess.result import PreprocessResult
from pipelines.tracking import choose_uri
from preprocessing.chunk.records import Row
from preprocessing.config import PreprocessConfig
from preprocessing.storage.index import iter_rows
from preprocessing.storage.lease import hold_lease

log = logging.getLogger(__name__)


def preprocess(
    videos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PreprocessConfig | None = None,
    *,
    address: str | None = None,
    concurrency: int | None = None,
    limit: int | None = None,
    retry_quarantine: bool = False,
    strict: bool = False,
    tracking: str | None = None,
    on_progress: OnProgress | None = None,
) -> PreprocessResult:
    """Turn raw videos into shards and an index; running it again resumes.

    Args:
        videos: a folder, a video, a list file or an fsspec URL.
        out: folder or fsspec URL of the data set.
        config: settings.
        address: Ray cluster; None for this machine.
        concurrency: chunks processed at once; None for one per CPU.
        limit: use only the first sources, this many, sorted by name; None for all. Index and report
            then cover these.
        retry_quarantine: probe unreadable sources again, and process again the chunks that timed
            out, crashed, ran out of memory or could not be reached.
        strict: any row in quarantine makes the result's exit code 1.
        tracking: URI of an MLflow store that receives the report; None for the one in
            MLFLOW_TRACKING_URI, or none. A store that fails does not fail the job.
        on_progress: called as the job advances; None shows progress on standard error.

    Raises:
        UserError: no source is readable, a setting is wrong, another job writes `out`, or it cannot
            be written to.
    """
    began = time.monotonic()
    uri = choose_uri(tracking, otherwise="")
    with job_context(out, config, address, concurrency, on_progress) as job:
        plan = plan_job(videos, job, limit=limit, retry_quarantine=retry_quarantine)
        if plan.current is not None:
            rows: Iterable[Row] = iter_rows(plan.current)
        else:
            with write_errors(job.store), hold_lease(job.store):
                processed = process(plan, job)
                finalized = finalize(processed, job)
                report(finalized, job, began)
            rows = finalized.dataset.rows
        result = PreprocessResult.of(plan, rows, job.store, began, strict=strict)
        job.notify(JobProgress("done", 1, 1, result.kept, result.clips, result.quarantined))
    if uri and result.is_new and (problem := log_report(job.store, job.config, uri)):
        log.warning("the report is not in MLflow: %s", problem)
    return result
