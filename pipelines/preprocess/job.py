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
from typing import Literal, overload

from pipelines.preprocess.execute import run_job
from pipelines.preprocess.forecast import forecast
from pipelines.preprocess.plan import make_plan
from pipelines.preprocess.progress import JobProgress, OnProgress, shown_by
from pipelines.preprocess.result import Forecast, PreprocessResult, Verification
from pipelines.preprocess.tracking import log_report
from pipelines.preprocess.workers import Workers
from pipelines.terminal.live_progress import live_progress
from pipelines.tracking import choose_uri
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.verify import verify as verify_store
from preprocessing.storage.store import open_store

__all__ = ["Forecast", "JobProgress", "PreprocessResult", "Verification", "preprocess"]

log = logging.getLogger(__name__)


@overload
def preprocess(
    videos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PreprocessConfig | None = None,
    *,
    address: str | None = None,
    workers: int | None = None,
    dry_run: Literal[False] = False,
    verify: Literal[False] = False,
    retry_quarantine: bool = False,
    strict: bool = False,
    tracking: str | None = None,
    on_progress: OnProgress | None = None,
) -> PreprocessResult: ...


@overload
def preprocess(
    videos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PreprocessConfig | None = None,
    *,
    address: str | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    verify: bool = False,
    retry_quarantine: bool = False,
    strict: bool = False,
    tracking: str | None = None,
    on_progress: OnProgress | None = None,
) -> PreprocessResult | Forecast | Verification: ...


def preprocess(
    videos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PreprocessConfig | None = None,
    *,
    address: str | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    verify: bool = False,
    retry_quarantine: bool = False,
    strict: bool = False,
    tracking: str | None = None,
    on_progress: OnProgress | None = None,
) -> PreprocessResult | Forecast | Verification:
    """Turn raw videos into shards and an index.

    Args:
        videos: a folder, a video, a list file or an fsspec URL.
        out: folder or fsspec URL of the data set.
        config: settings.
        address: Ray cluster; None for this machine.
        workers: processes that work at once; None for one a CPU.
        dry_run: write nothing; process a small sample and return a Forecast.
        verify: do nothing but compare the finished data set with its checksums.
        retry_quarantine: look again into sources that were bad, and process those again that timed
            out, crashed, ran out of memory or could not be reached.
        strict: anything in quarantine makes the result's exit code 1.
        tracking: URI of an MLflow store that is to have the report; None for the one in
            MLFLOW_TRACKING_URI, or none. The job does not fail with it.
        on_progress: called as the job moves on; None shows progress on standard error.

    Raises:
        UserError: there is nothing readable, a setting is wrong, or the place to write to refuses.
    """
    began = time.monotonic()
    uri = choose_uri(tracking, otherwise="")
    with ExitStack() as stack:
        tell = on_progress or shown_by(stack.enter_context(live_progress()))
        store = open_store(out)
        if verify:
            members, faults = verify_store(store, lambda n, of: tell(JobProgress("seal", n, of)))
            return Verification(store.url, members, tuple(faults))
        config = _with_absolute_pack(config or PreprocessConfig())
        pool = stack.enter_context(Workers(address, workers))
        plan = make_plan(
            videos, store, config, pool, tell, retry=retry_quarantine, remember=not dry_run
        )
        if dry_run:
            return forecast(plan, config, pool, tell)
        result = run_job(plan, store, config, pool, tell, began=began, strict=strict)
    if uri and result.is_new:
        problem = log_report(store, config, uri)
        if problem:
            log.warning("the report is not in MLflow: %s", problem)
    return result


def _with_absolute_pack(config: PreprocessConfig) -> PreprocessConfig:
    """Workers start elsewhere, where a relative folder would not be found."""
    pack = config.detect.faces_pack
    if pack and Path(pack).expanduser().is_dir():
        pack = str(Path(pack).expanduser().absolute())
        return replace(config, detect=replace(config.detect, faces_pack=pack))
    return config
