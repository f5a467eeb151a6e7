"""The part of a synthesis job that runs on Ray: one task for each clip."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from pipelines.synthesize.plan import clip_files
from preprocessing.storage.store import StoreFullError, open_store
from preprocessing.synthetic.clip import ClipSpec, make_clip

# Clips of one wave; Ray keeps some kilobytes for each.
_CLIPS_AT_ONCE = 10_000


@dataclass(frozen=True)
class ClipRecord:
    """Result of one clip: status "done", "full" or "failed"."""

    name: str
    status: str = "done"
    detail: str = ""
    frames: int = 0
    bytes: int = 0
    # Time the task took, in seconds.
    busy_s: float = 0.0


def stream_clips(todo: Sequence[ClipSpec], store_url: str, workers: int) -> Iterator[ClipRecord]:
    """Make clips with so many tasks at once; yield the record of each when it is written."""
    import ray.data

    for begin in range(0, len(todo), _CLIPS_AT_ONCE):
        items = [{"clip": json.dumps(asdict(c))} for c in todo[begin : begin + _CLIPS_AT_ONCE]]
        results = ray.data.from_items(items, override_num_blocks=len(items)).map(
            partial(_make_item, store_url=store_url),
            compute=ray.data.TaskPoolStrategy(size=min(workers, len(items))),
            num_cpus=1,
        )
        # Prefetching would hold every record back until the next one is there.
        tables: Iterable[Any] = results.iter_batches(
            batch_size=None, prefetch_batches=0, batch_format="pyarrow"
        )
        for table in tables:
            for record in table["record"].to_pylist():
                yield ClipRecord(**json.loads(record))


def write_clip(spec: ClipSpec, store_url: str) -> ClipRecord:
    """Make one clip and write its files, the video last; failures to write are in the record."""
    began = time.monotonic()
    store = open_store(store_url)
    clip = make_clip(spec)
    video, truth = clip_files(spec)
    try:
        store.write_atomic(truth, clip.truth)
        store.write_atomic(video, clip.video)
    except OSError as error:
        status = "full" if isinstance(error, StoreFullError) else "failed"
        return ClipRecord(spec.name, status, error.strerror or str(error))
    size = len(clip.video) + len(clip.truth)
    return ClipRecord(spec.name, frames=spec.frames, bytes=size, busy_s=time.monotonic() - began)


def _make_item(row: dict[str, Any], store_url: str) -> dict[str, str]:
    record = write_clip(ClipSpec(**json.loads(row["clip"])), store_url)
    return {"record": json.dumps(asdict(record))}
