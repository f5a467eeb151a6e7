import pytest

from preprocessing.chunk.output import pack_part
from preprocessing.chunk.task import Chunk, ChunkEnd
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.finalize import gather
from preprocessing.storage.store import open_store


def test_times_of_damage_count_from_the_first_frame_as_those_of_clips_do(tmp_path):
    store = open_store(tmp_path)
    chunk = Chunk("/v/x.mp4", "x.mp4", "ab" * 32, "", 0, origin_us=7_300_000, seconds=10.0)
    row = {"stage": "decode", "reason": "corrupt", "detail": "bad bytes"}
    damage = [{**row, "start_s": 8.3, "end_s": 9.3}, {**row, "start_s": 0.0, "end_s": 0.0}]
    store.write_atomic("p.tar", pack_part([], ChunkEnd((), 200, 25, ()), damage))
    rows = gather(store, [chunk], ["p.tar"], PreprocessConfig()).damage
    assert [r["start_s"] for r in rows] == pytest.approx([1.0, 0.0])
    assert [r["end_s"] for r in rows] == pytest.approx([2.0, 0.0])
    assert {(r["source"], r["sha256"]) for r in rows} == {("x.mp4", "ab" * 32)}
