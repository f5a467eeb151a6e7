"""The preprocessing job: raw videos to shards, on this machine or a Ray cluster.

Everything the job knows lies in the output folder: what was found in each source, the plan, and a
part for every chunk that is done. Running the same command again is the resume.
"""

import logging
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pipelines.preprocess.execute import run_job
from pipelines.preprocess.forecast import forecast as forecast_plan
from pipelines.preprocess.plan import make_plan
from pipelines.preprocess.progress import JobProgress, OnProgress, shown_by
from pipelines.preprocess.result import Forecast, PreprocessResult
from pipelines.preprocess.tracking import log_report
from pipelines.preprocess.workers import Workers
from pipelines.terminal.live_progress import live_progress
from pipelines.tracking import choose_uri
from preprocessing.config import PreprocessConfig
from preprocessing.storage.store import open_store

__all__ = ["Forecast", "JobProgress", "PreprocessResult", "forecast", "preprocess"]

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
        limit: use only the first so many sources, sorted by name; None for all. Index and report
            then cover these.
        retry_quarantine: probe unreadable sources again, and process again the chunks that timed
            out, crashed, ran out of memory or could not be reached.
        strict: any row in quarantine makes the result's exit code 1.
        tracking: URI of an MLflow store that receives the report; None for the one in
            MLFLOW_TRACKING_URI, or none. A store that fails does not fail the job.
        on_progress: called as the job advances; None shows progress on standard error.

    Raises:
        UserError: no source is readable, a setting is wrong, or `out` cannot be written to.
    """
    began = time.monotonic()
    uri = choose_uri(tracking, otherwise="")
    with ExitStack() as stack:
        tell = on_progress or shown_by(stack.enter_context(live_progress()))
        store = open_store(out)
        config = _with_absolute_pack(config or PreprocessConfig())
        pool = stack.enter_context(Workers(address, concurrency))
        plan = make_plan(videos, store, config, pool, tell, limit=limit, retry=retry_quarantine)
        result = run_job(plan, store, config, pool, tell, began=began, strict=strict)
    if uri and result.is_new:
        problem = log_report(store, config, uri)
        if problem:
            log.warning("the report is not in MLflow: %s", problem)
    return result


def forecast(
    videos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PreprocessConfig | None = None,
    *,
    address: str | None = None,
    concurrency: int | None = None,
    limit: int | None = None,
    on_progress: OnProgress | None = None,
) -> Forecast:
    """Process a small sample of the job and extrapolate; nothing is written.

    Arguments and errors are those of `preprocess`.
    """
    with ExitStack() as stack:
        tell = on_progress or shown_by(stack.enter_context(live_progress()))
        config = _with_absolute_pack(config or PreprocessConfig())
        pool = stack.enter_context(Workers(address, concurrency))
        plan = make_plan(videos, open_store(out), config, pool, tell, limit=limit, remember=False)
        return forecast_plan(plan, config, pool, tell)


def _with_absolute_pack(config: PreprocessConfig) -> PreprocessConfig:
    """Workers start elsewhere, where a relative folder would not be found."""
    pack = config.detect.model_dir
    if pack and Path(pack).expanduser().is_dir():
        pack = str(Path(pack).expanduser().absolute())
        return replace(config, detect=replace(config.detect, model_dir=pack))
    return config
