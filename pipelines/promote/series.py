"""Scheduled training: each run of a series continues the champion and may replace it."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.promote import Metric
from pipelines.promote.champion import champion_store, fetch_champion, read_champion
from pipelines.promote.job import DECISION, Decision, decide
from pipelines.train.job import TrainResult, train
from preprocessing.errors import UserError
from xnemo.data.clip_table import open_clips
from xnemo.training.config import TrainConfig


def train_series(
    config: TrainConfig,
    data: Sequence[str],
    series: str,
    champion: str,
    *,
    runs_dir: str | Path = "runs",
    metric: Metric = "motion_correlation",
    address: str | None = None,
    tracking_uri: str | None = None,
    **options: Any,
) -> tuple[TrainResult, Decision | None]:
    """Train the next run of a series from the champion, and promote it if it is better.

    A run that has not ended yet, of whatever day, is resumed first. All runs are versions of
    MLflow's model ``xnemo-SERIES``; the alias ``champion`` is the served one's.

    Args:
        config: the resolved recipe; its own `init_from` is for the time before the first champion.
        data: data sets, as they are today.
        series: runs are named SERIES-0001 and so on.
        champion: folder or fsspec URL of the champion.
        runs_dir: as for `train`.
        metric: as for `promote`.
        address: as for `train`.
        tracking_uri: as for `train`.
        **options: of `train`.

    Returns:
        What training did, and what was decided; None if training was stopped before its end.

    Raises:
        UserError: as for `train` and `promote`.
    """
    if config.stage == "motion":
        raise UserError(
            "bundles of the motion stage cannot animate, so none is better than another",
            "leave out --champion",
        )
    # Without these nothing could be decided after the training.
    open_clips(data, config.validation.filter)
    with champion_store(champion) as store:
        served = read_champion(store)
        if served is not None:
            bundle = fetch_champion(store, served, Path(runs_dir).absolute() / ".champion")
            config = replace(config, init_from=str(bundle))
        run = _next_run(Path(runs_dir), series, served.run if served else "")
        result = train(
            config,
            data,
            run,
            runs_dir=runs_dir,
            address=address,
            tracking_uri=tracking_uri,
            model=f"xnemo-{series}",
            **options,
        )
        if result.stopped:
            return result, None
        decision = decide(result.run_dir, data, store, metric, address, result.tracking_uri)
    return result, decision


def _next_run(runs_dir: Path, series: str, served: str) -> str:
    """Return the run of the series that nothing was decided about yet, or else the next name."""
    pattern = re.compile(rf"{re.escape(series)}-(\d+)")
    folders = [p.name for p in runs_dir.iterdir()] if runs_dir.is_dir() else []
    # Where the runs are lost, the champion still tells how far the series came.
    found = [int(m[1]) for name in (*folders, served) if (m := pattern.fullmatch(name))]
    last = max(found, default=0)
    newest = f"{series}-{last:04d}"
    undecided = newest in folders and not (runs_dir / newest / DECISION).exists()
    return newest if undecided else f"{series}-{last + 1:04d}"
