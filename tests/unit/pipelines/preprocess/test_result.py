from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipelines.preprocess import forecast, job, process
from pipelines.preprocess.context import JobContext
from pipelines.preprocess.result import PreprocessResult
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.entries import SourceEntry
from preprocessing.dataset.plan import make_plan
from preprocessing.dataset.sources import FoundSources, SourceFile
from preprocessing.storage.store import open_store


@pytest.fixture
def plan(tmp_path):
    names = ("a.mp4", "again.mp4", "text.mp4", "gone.mp4")
    found = FoundSources(tuple(SourceFile(name, f"/v/{name}", 9, "1") for name in names), {})
    entries = {name: SourceEntry(name, 9, "1", sha256="ab" * 32) for name in names[:2]}
    entries["text.mp4"] = SourceEntry("text.mp4", 9, "1", reason="not_video", detail="x" * 300)
    entries["gone.mp4"] = SourceEntry("gone.mp4", -1, "", reason="missing", detail="no such file")
    return make_plan(found, entries, open_store(tmp_path), PreprocessConfig(), {})


def result(plan, tmp_path, reasons):
    rows = [
        {"status": "dropped" if reason else "kept", "reason": reason, "duration_s": 2.0,
         "shard": "s", "mp4_length": 1, "npz_length": 1, "json_length": 1}
        for reason in reasons
    ]  # fmt: skip
    return PreprocessResult.of(plan, rows, open_store(tmp_path), 0.0, strict=False)


def test_reasons_of_dropped_clips_are_named(plan, tmp_path):
    facts = result(plan, tmp_path, ["", "duplicate", "min_sharpness", "duplicate"]).facts()
    assert facts["clips"].startswith("1 kept of 4")
    assert facts["dropped"] == "2 duplicate, 1 min_sharpness"
    assert "dropped" not in result(plan, tmp_path, [""]).facts()


def test_a_forecast_names_what_cannot_be_read_and_why(plan):
    facts = forecast._extrapolate(plan, [], PreprocessConfig()).facts()
    # A copy can be read.
    assert facts["sources"].startswith("2 readable of 4")
    assert facts["unreadable 1"] == f"text.mp4: not_video, {'x' * 300}"
    assert facts["unreadable 2"] == "gone.mp4: missing, no such file"


def test_what_one_core_has_to_do_alone_is_told_before_and_by_the_forecast(
    plan, tmp_path, caplog, monkeypatch
):
    long = replace(plan.entries["a.mp4"], duration_s=5400.0)
    store = open_store(tmp_path)
    plan = make_plan(plan.found, {**plan.entries, "a.mp4": long}, store, PreprocessConfig(), {})
    facts = forecast._extrapolate(plan, [], PreprocessConfig()).facts()
    assert facts["undivided 1"].startswith("a.mp4 has no key frame for 90 min")
    monkeypatch.setattr(process, "stream_chunks", lambda *_: [])
    workers = SimpleNamespace(used=0, connect=lambda: 1)
    process.process(plan, JobContext(store, PreprocessConfig(), workers, lambda _: None))
    assert "a.mp4 has no key frame" in caplog.text


@pytest.mark.parametrize(("kept", "offered"), [(1, True), (0, False)])
def test_training_is_offered_only_where_there_are_clips(monkeypatch, capsys, kept, offered):
    from pipelines.cli.preprocess import preprocess

    done = SimpleNamespace(title="done", facts=dict, kept=kept, exit_code=0)
    monkeypatch.setattr(job, "preprocess", lambda *args, **kwargs: done)
    preprocess("videos", "out")
    assert ("xnemo train" in " ".join(capsys.readouterr().out.split())) == offered
