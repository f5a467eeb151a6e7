import pytest

from preprocessing.chunk.output import pack_output
from preprocessing.chunk.records import Chunk, ChunkEnd
from preprocessing.config import FilterConfig, PreprocessConfig
from preprocessing.dataset.entries import SourceEntry
from preprocessing.dataset.finalize import finalize
from preprocessing.dataset.gather import gather
from preprocessing.dataset.plan import make_plan
from preprocessing.dataset.sources import FoundSources, SourceFile
from preprocessing.storage.store import open_store


def test_times_of_damage_count_from_the_first_frame_as_those_of_clips_do(tmp_path):
    store = open_store(tmp_path)
    chunk = Chunk("/v/x.mp4", "x.mp4", "ab" * 32, "", 0, origin_us=7_300_000, seconds=10.0)
    row = {"stage": "decode", "reason": "corrupt", "detail": "bad bytes"}
    damage = [{**row, "start_s": 8.3, "end_s": 9.3}, {**row, "start_s": 0.0, "end_s": 0.0}]
    store.write_atomic("p.tar", pack_output([], ChunkEnd((), 200, 25, ()), damage))
    rows = gather(store, [chunk], ["p.tar"], PreprocessConfig()).damage
    assert [r["start_s"] for r in rows] == pytest.approx([1.0, 0.0])
    assert [r["end_s"] for r in rows] == pytest.approx([2.0, 0.0])
    assert {(r["source"], r["sha256"]) for r in rows} == {("x.mp4", "ab" * 32)}


def test_a_finished_data_set_is_current_until_the_settings_change(tmp_path):
    store = open_store(tmp_path)
    found = FoundSources((SourceFile("x.mp4", "/v/x.mp4", 9, "1"),), {})
    entries = {"x.mp4": SourceEntry("x.mp4", 9, "1", sha256="ab" * 32, duration_s=10.0)}

    def plan(**sections):
        return make_plan(found, entries, store, PreprocessConfig(**sections), {"detection": "1"})

    first = plan()
    assert (first.todo, first.current) == ([0], None)
    store.write_atomic(first.outputs[0], pack_output([], ChunkEnd((), 200, 25, ()), []))
    assert plan().todo == []
    assert finalize(plan(), store, PreprocessConfig()).rows == []
    assert plan().current.num_rows == 0
    stricter = plan(filters=FilterConfig(min_face_px=1000))
    assert (stricter.todo, stricter.current) == ([], None)
