"""The preprocessing job: raw videos to shards, on this machine or a Ray cluster."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipelines.cluster import connect
from preprocessing.chunk_run import run_chunk
from preprocessing.chunk_task import Chunk
from preprocessing.config import PreprocessConfig
from preprocessing.detect import make_detector
from preprocessing.errors import UserError
from preprocessing.plan import (
    SourceEntry,
    analysis_digest,
    chunks_of,
    is_unchanged,
    look_into,
    part_name,
    read_entries,
    write_entries,
    write_plan,
)
from preprocessing.seal import finish, gather, plain
from preprocessing.sources import SourceFile, find_sources
from preprocessing.storage import open_store


@dataclass(frozen=True)
class Progress:
    """How far a job has come."""

    # "plan", "process", "seal" or "done".
    stage: str
    # Units done and in all: sources, seconds of source, shards.
    done: float
    total: float
    # Clips kept and found so far, and sources or stretches in quarantine.
    kept: int = 0
    clips: int = 0
    quarantined: int = 0


@dataclass(frozen=True)
class PreprocessResult:
    """What a job did."""

    # Where the data set is.
    out: str
    # Sources found, and how many of them gave nothing.
    sources: int
    bad_sources: int
    # Chunks in all, and those that had to be processed now.
    chunks: int
    processed: int
    # Clips found and kept, and the length of the kept ones in seconds.
    clips: int
    kept: int
    kept_s: float
    # Rows in the quarantine table.
    quarantined: int
    # Wall time in seconds.
    seconds: float


OnProgress = Callable[[Progress], None]


def preprocess(
    videos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PreprocessConfig | None = None,
    *,
    address: str | None = None,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> PreprocessResult:
    """Turn raw videos into shards and an index.

    Args:
        videos: a folder, a video, a list file or an fsspec URL.
        out: folder or fsspec URL of the data set.
        config: settings.
        address: Ray cluster; None for this machine.
        workers: processes that work at once; None for one a CPU.
        on_progress: called now and then, and at each stage's end.

    Raises:
        UserError: there is nothing readable, or the place to write to refuses.
    """
    began = time.monotonic()
    config = _with_absolute_pack(config or PreprocessConfig())
    tell = on_progress or (lambda progress: None)
    found = find_sources(videos, config.plan.licence)
    store = open_store(out)
    models = dict(_models(config))
    with connect(address, workers) as cluster:
        count = workers or max(1, int(cluster.cpus))
        entries = _look_into_all(found.files, config, store.url, count, tell)
        readable = [f for f in found.files if not entries[f.name].reason]
        if not readable:
            first = entries[found.files[0].name]
            raise UserError(
                f"none of {len(found.files)} sources in {videos} can be read "
                f"({first.name}: {first.reason}, {first.detail})",
                "name videos that play",
            )
        chunks = [c for f in readable for c in chunks_of(f, entries[f.name], config)]
        analysis = analysis_digest(config, models)
        parts = [part_name(c, analysis) for c in chunks]
        write_plan(store, chunks, parts)
        present = store.list("_work/parts")
        todo = [(c, p) for c, p in zip(chunks, parts, strict=True) if p not in present]
        _process(todo, config, store.url, count, tell, sum(c.seconds for c in chunks))
        gathered = gather(store, chunks, parts, config)
        quarantine = [*_bad_sources(entries, found.files), *gathered.damage]
        facts = _facts(config, models, parts, entries)
        table = finish(store, gathered, quarantine, config, facts)
    kept = [row for row in table if row["status"] == "kept"]
    tell(Progress("done", 1, 1, len(kept), len(table), len(quarantine)))
    return PreprocessResult(
        out=store.url,
        sources=len(found.files),
        bad_sources=len(found.files) - len(readable),
        chunks=len(chunks),
        processed=len(todo),
        clips=len(table),
        kept=len(kept),
        kept_s=float(sum(row["duration_s"] for row in kept)),
        quarantined=len(quarantine),
        seconds=time.monotonic() - began,
    )


class ChunkActor:
    """A Ray Data worker: processes chunks one after the other, in a child it can kill."""

    def __init__(self, config: PreprocessConfig, store_url: str) -> None:
        self._config = config
        self._store = open_store(store_url)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Process the one chunk of a batch; never raises for what is in it."""
        job = json.loads(batch["job"][0])
        try:
            record = run_chunk(Chunk(**job["chunk"]), job["part"], self._store, self._config)
        except OSError as error:
            record = {"status": "failed", "detail": str(error), "part": job["part"]}
        return {"record": [json.dumps(record)]}


def _process(
    todo: Sequence[tuple[Chunk, str]],
    config: PreprocessConfig,
    store_url: str,
    workers: int,
    tell: OnProgress,
    total_s: float,
) -> None:
    done_s = total_s - sum(chunk.seconds for chunk, _ in todo)
    kept = clips = bad = 0
    tell(Progress("process", done_s, total_s))
    for record in _stream(todo, config, store_url, workers):
        if record["status"] != "done":
            raise UserError(
                f"cannot write {record['part']}: {record['detail']}", "mend it and run again"
            )
        done_s += record["seconds"]
        kept, clips = kept + record["kept"], clips + record["clips"]
        bad += record["damage"]
        tell(Progress("process", done_s, total_s, kept, clips, bad))


def _stream(
    todo: Sequence[tuple[Chunk, str]], config: PreprocessConfig, store_url: str, workers: int
) -> Iterator[dict[str, Any]]:
    """Yield a record a chunk, as they are done, longest chunks first."""
    if not todo:
        return
    import ray

    ordered = sorted(todo, key=lambda item: (-item[0].seconds, item[1]))
    items = [{"job": json.dumps({"chunk": asdict(c), "part": p})} for c, p in ordered]
    workers = min(workers, len(items))
    results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        ChunkActor,
        fn_constructor_args=(config, store_url),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
        num_cpus=1,
    )
    for row in results.iter_rows():
        yield json.loads(row["record"])


def _look_into_all(
    files: Sequence[SourceFile],
    config: PreprocessConfig,
    store_url: str,
    workers: int,
    tell: OnProgress,
) -> dict[str, SourceEntry]:
    """Return an entry for every source, from memory where it is unchanged."""
    store = open_store(store_url)
    known = read_entries(store)
    fresh = {f.name: known[f.name] for f in files if is_unchanged(f, known.get(f.name))}
    new = [file for file in files if file.name not in fresh]
    tell(Progress("plan", len(fresh), len(files)))
    if new:
        import ray

        items = [{"file": json.dumps(asdict(file))} for file in new]
        blocks = min(len(items), max(workers * 8, len(items) // 64))
        entries = ray.data.from_items(items, override_num_blocks=blocks).map(
            _look, fn_kwargs={"config": config}, num_cpus=1
        )
        for row in entries.iter_rows():
            content = json.loads(row["entry"])
            for name in ("key_us", "key_index"):
                content[name] = tuple(content[name])
            fresh[content["name"]] = SourceEntry(**content)
            tell(Progress("plan", len(fresh), len(files)))
        write_entries(store, fresh.values())
    return fresh


def _look(row: dict[str, Any], config: PreprocessConfig) -> dict[str, Any]:
    return {"entry": json.dumps(asdict(look_into(SourceFile(**json.loads(row["file"])), config)))}


def _bad_sources(
    entries: dict[str, SourceEntry], files: Sequence[SourceFile]
) -> list[dict[str, Any]]:
    bad = [entries[file.name] for file in files if entries[file.name].reason]
    return [
        {
            "source": entry.name,
            "sha256": entry.sha256,
            "stage": "plan",
            "reason": entry.reason,
            "detail": entry.detail,
            "start_s": None,
            "end_s": None,
        }
        for entry in bad
    ]


def _models(config: PreprocessConfig) -> dict[str, str]:
    detect = config.detect
    return dict(make_detector(detect.detector, detect.faces_pack).model_sha256)


def _with_absolute_pack(config: PreprocessConfig) -> PreprocessConfig:
    """Workers start elsewhere, so a relative folder would not be found."""
    pack = config.detect.faces_pack
    if pack and os.path.isdir(pack):
        pack = os.path.abspath(pack)
        return replace(config, detect=replace(config.detect, faces_pack=pack))
    return config


def _facts(
    config: PreprocessConfig,
    models: dict[str, str],
    parts: Sequence[str],
    entries: dict[str, SourceEntry],
) -> dict[str, Any]:
    settings = plain(config)
    # Where weights lie says nothing about what they are; their checksums do.
    settings["detect"]["faces_pack"] = None
    text = json.dumps(settings, sort_keys=True)
    joined = "\n".join(sorted(parts)).encode()
    return {
        "models": models,
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "sealed_from": hashlib.sha256(joined).hexdigest(),
        "videos": {
            entry.name: {
                "fps": entry.fps,
                "variable_rate": entry.variable_rate,
                "width": entry.width,
                "height": entry.height,
                "codec": entry.codec,
                "rotation": entry.rotation,
            }
            for entry in entries.values()
        },
    }
