"""The synthesis job: videos of people who never lived, each with its truth file."""

import io
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.preprocess.context import Workers
from pipelines.synthesize.plan import (
    PEOPLE_NAME,
    Plan,
    SynthesisConfig,
    clip_files,
    plan_job,
    write_settings,
)
from pipelines.synthesize.result import SynthesisForecast, SynthesisResult
from pipelines.synthesize.worker import ClipRecord, stream_clips
from pipelines.terminal.live_progress import live_progress
from preprocessing.errors import UserError
from preprocessing.storage.store import Store, StoreFullError, open_store
from preprocessing.synthetic.clip import make_clip
from preprocessing.synthetic.person import sample_person
from preprocessing.synthetic.truth import read_truth

# A forecast makes so many clips of at most this length in seconds.
_SAMPLE_CLIPS, _SAMPLE_S = 2, 0.6


@dataclass(frozen=True)
class SynthesisProgress:
    """State of a job: clips done and in total."""

    done: int
    total: int


OnProgress = Callable[[SynthesisProgress], None]


def synthesize(
    out: str | os.PathLike[str],
    config: SynthesisConfig,
    *,
    address: str | None = None,
    concurrency: int | None = None,
    on_progress: OnProgress | None = None,
) -> SynthesisResult:
    """Write a video and a truth file for each person, and `people.parquet`; resumes.

    The same settings give the same bytes, whatever the number of tasks and interruptions.

    Args:
        out: folder or fsspec URL of the videos.
        config: what is made.
        address: Ray cluster; None for this machine.
        concurrency: clips made at once; None for one per CPU.
        on_progress: called as clips are done; None shows progress on standard error.

    Raises:
        UserError: `out` holds clips of other settings, is full or does not accept writes.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        notify = on_progress or _shown(stack)
        store = open_store(out)
        plan = plan_job(config, store)
        records: list[ClipRecord] = []
        if not plan.is_complete:
            try:
                store.sweep()
                write_settings(config, store)
                records = _make_clips(plan, store, Workers(address, concurrency, stack), notify)
                store.write_atomic(PEOPLE_NAME, _people_table(plan, store))
            except StoreFullError as error:
                raise _cannot_write(store, "full", str(error)) from error
            except PermissionError as error:
                raise _cannot_write(store, "failed", error.strerror or str(error)) from error
    return SynthesisResult(
        out=store.url,
        clips=len(plan.clips),
        made=len(records),
        motions=len({clip.motion for clip in plan.clips}),
        video_s=sum(clip.frames / clip.fps for clip in plan.clips),
        frames=sum(record.frames for record in records),
        bytes=sum(record.bytes for record in records),
        seconds=time.monotonic() - began,
    )


def forecast(out: str | os.PathLike[str], config: SynthesisConfig) -> SynthesisForecast:
    """Make the beginning of a few clips in this process and extrapolate; nothing is written.

    Raises:
        UserError: `out` holds clips of other settings.
    """
    plan = plan_job(config, open_store(out))
    # Compiles the kernels and builds the mesh, which happens once a process.
    make_clip(replace(plan.clips[0], seconds=1 / config.fps))
    frames = size = 0
    people_s = video_s = 0.0
    for clip in plan.clips[-_SAMPLE_CLIPS:]:
        short = replace(clip, seconds=min(clip.seconds, _SAMPLE_S))
        sample_person.cache_clear()
        began = time.process_time()
        sample_person(short.person)
        people_s += time.process_time() - began
        began = time.process_time()
        size += len(make_clip(short).video)
        video_s += time.process_time() - began
        frames += short.frames
    sampled = min(len(plan.clips), _SAMPLE_CLIPS)
    pending = sum(clip.frames for clip in plan.todo)
    seconds = len(plan.todo) * people_s / sampled + pending * video_s / frames
    return SynthesisForecast(
        clips=len(plan.clips),
        todo=len(plan.todo),
        video_s=sum(clip.frames / clip.fps for clip in plan.clips),
        bytes=pending * size / frames,
        core_hours=seconds / 3600,
        frames_per_s=frames / video_s,
    )


def _make_clips(plan: Plan, store: Store, workers: Workers, notify: OnProgress) -> list[ClipRecord]:
    done = len(plan.clips) - len(plan.todo)
    notify(SynthesisProgress(done, len(plan.clips)))
    records: list[ClipRecord] = []
    if plan.todo:
        for record in stream_clips(plan.todo, store.url, workers.connect()):
            if record.status != "done":
                raise _cannot_write(store, record.status, record.detail)
            records.append(record)
            notify(SynthesisProgress(done + len(records), len(plan.clips)))
    return records


def _people_table(plan: Plan, store: Store) -> bytes:
    """What was drawn for each person, from the truth files: a row for each clip."""
    rows = []
    for clip in plan.clips:
        video, truth = clip_files(clip)
        facts = read_truth(store.read(truth), truth).facts
        described = {"video": video, "person": clip.person, "motion": clip.motion}
        rows.append({**described, "group": clip.group, **facts["traits"]})
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def _cannot_write(store: Store, status: str, detail: str) -> UserError:
    if status == "full":
        return UserError(
            f"no space is left in {store.url}; finished clips are kept",
            "free some space and run the same command: it resumes",
        )
    return UserError(
        f"cannot write to {store.url}: {detail}; finished clips are kept",
        "fix that and run the same command: it resumes",
    )


def _shown(stack: ExitStack) -> OnProgress:
    show = stack.enter_context(live_progress())
    return lambda progress: show("clips made", progress.done, progress.total, "")
