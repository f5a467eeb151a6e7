"""Numbers of a job's report: funnel, scores, time, and the choice of clips to show."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from preprocessing.chunk.filters import FILTERS, THRESHOLDS, TOO_SHORT
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.gather import ChunkSummary
from preprocessing.dataset.identity import BY_SOURCE
from preprocessing.storage.index import SCORES

_BINS = 40
_SHOWN_KEPT = 48
_SHOWN_DROPPED = 16
# Reasons that are not filters: before them, and after.
FIRST_REASONS = ("same_file", TOO_SHORT)
LAST_REASONS = ("duplicate",)


@dataclass(frozen=True)
class RunFacts:
    """What the report says of a run beside its data set."""

    # Sources found, and those that can be read.
    sources: int
    readable: int
    # Files whose names are not those of videos, counted by extension.
    ignored: Mapping[str, int]
    # Wall time, and length of the source processed by this run.
    seconds: float
    processed_s: float
    # Tasks that ran at once.
    workers: int


def report_numbers(
    rows: Sequence[Mapping[str, Any]],
    quarantine: Sequence[Mapping[str, Any]],
    chunks: Sequence[ChunkSummary],
    config: PreprocessConfig,
    run: RunFacts,
) -> dict[str, Any]:
    """Return everything the page shows but its images, as plain JSON.

    Args:
        rows: rows of the index.
        quarantine: rows of the quarantine table.
        chunks: a summary of each chunk.
        config: settings.
        run: facts of the run.
    """
    clips = [row for row in rows if row["frames"]]
    kept = [row for row in clips if row["status"] == "kept"]
    return {
        "sources": {
            "found": run.sources,
            "readable": run.readable,
            "ignored_by_extension": run.ignored,
            "without_a_clip": run.readable - len({row["source"] for row in kept}),
            "why_without": _why_without(rows, chunks, quarantine),
            "seconds": sum(chunk.seconds for chunk in chunks),
        },
        "kept": {
            "clips": len(kept),
            "seconds": _seconds(kept),
            "identities": len({row["identity"] for row in kept}),
            "identities_by_source": any(row["identity"].startswith(BY_SOURCE) for row in kept),
            "splits": dict(sorted(Counter(row["split"] for row in kept).items())),
            "bytes": sum(row["mp4_length"] + row["npz_length"] for row in kept),
            "bytes_per_frame": _ratio(
                sum(row["mp4_length"] for row in kept), sum(row["frames"] for row in kept)
            ),
            "sizes": {
                str(size): count
                for size, count in sorted(Counter(row["size"] for row in kept).items())
            },
        },
        "funnel": funnel(rows),
        "histograms": {name: _histogram(name, clips, config) for name in SCORES},
        "quarantine": dict(sorted(Counter(row["reason"] for row in quarantine).items())),
        "stages": _stages(chunks),
        "throughput": {
            "wall_s": run.seconds,
            "workers": run.workers,
            "processed_s": run.processed_s,
            "speed": _ratio(run.processed_s, run.seconds),
            "frames": sum(chunk.end.frames for chunk in chunks),
            "detector_runs": sum(chunk.end.detector_runs for chunk in chunks),
            "frames_per_busy_second": _ratio(
                sum(chunk.end.frames for chunk in chunks),
                sum(sum(chunk.end.stages.values()) for chunk in chunks),
            ),
        },
    }


def funnel(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one step per reason in filter order: what it dropped and what was left."""
    dropped: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["status"] == "dropped":
            dropped.setdefault(row["reason"], []).append(row)
    left_clips, left_s = len(rows), _seconds(rows)
    total_clips, total_s = left_clips, left_s
    steps = [_step("found", [], left_clips, left_s, total_clips, total_s)]
    for reason in (*FIRST_REASONS, *FILTERS, *LAST_REASONS):
        gone = dropped.pop(reason, [])
        left_clips, left_s = left_clips - len(gone), left_s - _seconds(gone)
        steps.append(_step(reason, gone, left_clips, left_s, total_clips, total_s))
    if dropped:
        raise ValueError(f"reasons without a filter: {', '.join(sorted(dropped))}")
    return steps


def clips_to_show(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return a sample of the kept clips and of those of each reason, by reason (`kept` first).

    The choice follows a hash of the keys: the same clips every time, and from all sources.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {"kept": []}
    for row in rows:
        if row.get("jpg_length"):
            name = "kept" if row["status"] == "kept" else row["reason"]
            groups.setdefault(name, []).append(row)
    order = ["kept", *FIRST_REASONS, *FILTERS, *LAST_REASONS]
    return {
        name: sorted(groups[name], key=_key_hash)[
            : _SHOWN_KEPT if name == "kept" else _SHOWN_DROPPED
        ]
        for name in order
        if groups.get(name)
    }


def _key_hash(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(str(row["key"]).encode()).hexdigest()


def _step(
    reason: str,
    gone: Sequence[Mapping[str, Any]],
    left_clips: int,
    left_s: float,
    total_clips: int,
    total_s: float,
) -> dict[str, Any]:
    return {
        "reason": reason,
        "dropped_clips": len(gone),
        "dropped_seconds": round(_seconds(gone), 3),
        "dropped_percent": round(100 * _ratio(_seconds(gone), total_s), 2),
        "left_clips": left_clips,
        "left_seconds": round(left_s, 3),
        "left_percent": round(100 * _ratio(left_s, total_s), 2),
        "left_clips_percent": round(100 * _ratio(left_clips, total_clips), 2),
    }


def _histogram(
    name: str, clips: Sequence[Mapping[str, Any]], config: PreprocessConfig
) -> dict[str, Any]:
    """Count a score's kept and dropped values between its 0.5th and 99.5th percentiles."""
    kept = np.array([r[name] for r in clips if r["status"] == "kept" and r[name] is not None])
    rest = np.array([r[name] for r in clips if r["status"] != "kept" and r[name] is not None])
    values = np.concatenate([kept, rest]).astype(float)
    limits = {key: getattr(config.filters, key) for key in THRESHOLDS.get(name, ())}
    if not len(values):
        return {"edges": [], "kept": [], "dropped": [], "thresholds": limits}
    low, high = (float(v) for v in np.percentile(values, [0.5, 99.5]))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    return {
        "edges": [round(float(edge), 6) for edge in edges],
        "kept": np.histogram(np.clip(kept, low, high), edges)[0].tolist(),
        "dropped": np.histogram(np.clip(rest, low, high), edges)[0].tolist(),
        "thresholds": limits,
        "median": round(float(np.median(values)), 6),
    }


def _why_without(
    rows: Sequence[Mapping[str, Any]],
    chunks: Sequence[ChunkSummary],
    quarantine: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, int]]:
    """Return, for each source of which no clip was kept, how many clips each reason dropped.

    A source without clips has one entry of count 0: `damaged` where it is in quarantine,
    `no_motion` where no two frames are close enough in time to be a video, else `no_face`.
    """
    found = {row["source"] for row in rows if row["status"] == "kept"}
    why: dict[str, Counter[str]] = {
        source: Counter() for source in sorted({chunk.source for chunk in chunks} - found)
    }
    for row in rows:
        if row["source"] not in found:
            why.setdefault(row["source"], Counter())[row["reason"]] += 1
    moving = {chunk.source for chunk in chunks if chunk.end.frames}
    damaged = {row["source"] for row in quarantine}
    for source, reasons in why.items():
        if not reasons:
            still = "no_face" if source in moving else "no_motion"
            reasons["damaged" if source in damaged else still] = 0
    return {source: dict(reasons.most_common()) for source, reasons in sorted(why.items())}


def _stages(chunks: Sequence[ChunkSummary]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for chunk in chunks:
        total.update(chunk.end.stages)
    return {name: round(spent, 3) for name, spent in sorted(total.items(), key=lambda s: -s[1])}


def _seconds(rows: Sequence[Mapping[str, Any]]) -> float:
    return float(sum(row["duration_s"] or 0.0 for row in rows))


def _ratio(a: float, b: float) -> float:
    return a / b if b else 0.0
