"""Cuts a source into chunks, and names the output of each chunk by what decides its content."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from preprocessing.chunk.records import Chunk
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.entries import SourceEntry, one_piece_s
from preprocessing.dataset.sources import SourceFile

#: Raised whenever the same source and settings give other clips or another file than before.
ANALYSIS_VERSION = 7

#: Folder of the chunk outputs.
OUTPUTS = "_work/chunks"
# Fields of a chunk that do not decide its content.
_NO_CONTENT = ("location", "source", "licence", "seconds", "size", "stamp")
# Seconds decoded before a chunk's own stretch, so that a track that crosses its start is known.
_LEAD_S = 1.0


def chunks_of(file: SourceFile, entry: SourceEntry, config: PreprocessConfig) -> list[Chunk]:
    """Cut one readable source at key frames into chunks of about the configured length."""
    common: dict[str, Any] = {
        "location": file.location,
        "source": file.name,
        "sha256": entry.sha256,
        "licence": file.licence,
        "origin_us": entry.start_us,
        "size": file.size,
        "stamp": file.stamp,
    }
    cuts = _cuts(entry, config)
    if not cuts:
        return [Chunk(**common, number=0, seconds=entry.duration_s)]
    # Chunks overlap by this much: enough to know how a track continues beyond the edge.
    reach_s = config.tube.min_s + _LEAD_S
    end_s = entry.start_us / 1e6 + entry.duration_s
    edges: list[float | None] = [None, *(key / 1e6 for key in cuts), None]
    chunks = []
    for number, (start, end) in enumerate(pairwise(edges)):
        position = _key_before(entry, start - reach_s) if start is not None else None
        chunks.append(
            Chunk(
                **common,
                number=number,
                start_s=start,
                end_s=end,
                decode_from_s=None if position is None else entry.key_us[position] / 1e6,
                decode_from_index=None if position is None else entry.key_index[position],
                decode_to_s=None if end is None else end + reach_s,
                seconds=(end if end is not None else end_s)
                - (start if start is not None else entry.start_us / 1e6),
            )
        )
    return chunks


def output_name(chunk: Chunk, analysis: str) -> str:
    """Return the name of the chunk's output: a digest of all that decides its content."""
    facts = {name: value for name, value in vars(chunk).items() if name not in _NO_CONTENT}
    text = json.dumps([facts, analysis], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:40]
    return f"{OUTPUTS}/{digest[:2]}/{digest}.tar"


def analysis_digest(config: PreprocessConfig, models: Mapping[str, str]) -> str:
    """Return the digest of the settings and weights that decide the clips of a chunk.

    Thresholds and shard layout are left out: they apply to clips already cut.
    """
    settings = asdict(config)
    for section in ("plan", "filters", "shard", "decode"):
        del settings[section]
    settings["decoder"] = config.decode.backend
    del settings["detect"]["model_dir"]
    text = json.dumps([ANALYSIS_VERSION, settings, dict(models)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _cuts(entry: SourceEntry, config: PreprocessConfig) -> list[int]:
    """Return the key frames (microseconds) at which chunks begin, without the first."""
    if entry.duration_s <= one_piece_s(config):
        return []
    step_us = config.plan.chunk_s * 1e6
    end_us = entry.start_us + entry.duration_s * 1e6
    cuts: list[int] = []
    last: float = entry.start_us
    for key in entry.key_us:
        if key - last >= step_us and end_us - key >= step_us / 2:
            cuts.append(key)
            last = key
    return cuts


def _key_before(entry: SourceEntry, time_s: float) -> int:
    """Return the position of the last key frame at or before a time, the first if there is none."""
    earlier = [i for i, key in enumerate(entry.key_us) if key <= time_s * 1e6]
    return earlier[-1] if earlier else 0
