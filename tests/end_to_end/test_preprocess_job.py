"""The whole job on a handful of drawn videos: what it writes, and what it does when run again."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from footage import astronaut_footage
from writing import encode

from pipelines.preprocess.forecast import forecast
from pipelines.preprocess.job import preprocess
from pipelines.preprocess.result import Forecast, PreprocessResult, Verification
from pipelines.preprocess.verify import verify
from preprocessing.config import PreprocessConfig
from preprocessing.decode import decode_clip
from preprocessing.errors import UserError
from preprocessing.geometry import union_box
from preprocessing.storage.index import index_digest, read_index
from preprocessing.storage.sample import read_sample
from xnemo.config import override

pytestmark = pytest.mark.ray

SETTINGS = ["tube.size=256", "detect.size=320", "shard.validation=0", "shard.test=0"]


def config(*more):
    return override(PreprocessConfig(), [*SETTINGS, *more])


def run(videos, out, *more, **options):
    result = preprocess(videos, out, config(*more), on_progress=lambda _: None, **options)
    assert isinstance(result, PreprocessResult)
    return result


def published(out: Path) -> dict[str, bytes]:
    """All bytes that a reader sees, but for the report, which contains times."""
    files = [*sorted(out.glob("shards/*")), out / "index.parquet", out / "quarantine.parquet"]
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    encode(folder / "a.mp4", astronaut_footage(1, 60, 256, 256))
    encode(folder / "b.mp4", astronaut_footage(2, 70, 320, 240))
    (folder / "again").mkdir()
    (folder / "again" / "a copy.mp4").write_bytes((folder / "a.mp4").read_bytes())
    wall = [np.roll(p[:, :60], k, axis=1) for k, p in enumerate(astronaut_footage(3, 20, 320, 240))]
    encode(folder / "nobody.mp4", [np.tile(p, (1, 4, 1)) for p in wall])
    (folder / "text.mp4").write_text("no video")
    (folder / "readme.txt").write_text("no video")
    return folder


@pytest.fixture(scope="session")
def progress():
    """What the first run reported of its progress."""
    return []


@pytest.fixture(scope="session")
def finished(videos, tmp_path_factory, ray_local, progress):
    out = tmp_path_factory.mktemp("out") / "dataset"
    result = preprocess(videos, out, config(), on_progress=progress.append)
    assert isinstance(result, PreprocessResult)
    return out, result


def test_the_job_says_what_it_did(finished):
    out, result = finished
    assert (result.sources, result.bad_sources, result.kept, result.exit_code) == (5, 1, 2, 0)
    assert "report.html" in result.facts()["report"]
    quarantine = pd.read_parquet(out / "quarantine.parquet")
    assert quarantine[["source", "stage", "reason"]].values.tolist() == [
        ["text.mp4", "plan", "not_video"]
    ]
    index = pd.read_parquet(out / "index.parquet")
    same = index[index["reason"] == "same_file"]
    assert len(same) == 1
    assert {same.iloc[0]["source"], same.iloc[0]["duplicate_of"]} == {"a.mp4", "again/a copy.mp4"}


def test_samples_are_what_the_contract_says(finished):
    out, _ = finished
    index = read_index(out)
    kept = index[index["status"] == "kept"]
    assert len(kept) == 2
    for _, row in kept.iterrows():
        sample = read_sample(out, row)
        frames, size = row["frames"], row["size"]
        arrays = sample.arrays
        pictures = decode_clip(sample.mp4, range(frames))
        assert pictures.shape == (frames, size, size, 3)
        assert size % 16 == 0
        assert 16 <= frames <= 250
        for name in ("bbox", "bbox_crop", "landmarks", "pose", "sharpness", "flags", "pts_us"):
            assert len(getattr(arrays, name)) == frames
        # The tube is twice the larger side of the union box, or as large as the picture, and leads
        # to crop pixels as it says.
        union = union_box(arrays.bbox)
        room = 240 if row["source"] == "b.mp4" else 256
        side = size / arrays.src_to_crop[0, 0]
        assert side == pytest.approx(min(2 * (union[2:] - union[:2]).max(), room), abs=3)
        assert row["pad_fraction"] == 0
        corners = arrays.bbox.reshape(-1, 2, 2)
        moved = corners @ arrays.src_to_crop[:, :2].T + arrays.src_to_crop[:, 2]
        np.testing.assert_allclose(moved.reshape(-1, 4), arrays.bbox_crop, atol=0.01)
        # A face is where the box says: skin is warm, the drawn wall need not be.
        points = arrays.landmarks[frames // 2]
        box = arrays.bbox_crop[frames // 2]
        assert (points >= box[:2] - 5).all()
        assert (points <= box[2:] + 5).all()
        assert np.diff(arrays.pts_us).max() <= 80_000
        assert sample.meta["key"] == row["key"]
        assert sample.meta["source"]["sha256"] == row["source_sha256"]
        assert sample.meta["scores"]["face_px"] == pytest.approx(row["face_px"])
        assert sample.meta["split"] == row["split"] == "train"


def test_webdataset_and_ray_read_the_tars_as_they_are(finished):
    import ray.data
    import webdataset

    out, _ = finished
    shards = [str(path) for path in sorted((out / "shards").glob("*.tar"))]
    read = list(webdataset.WebDataset(shards, shardshuffle=False).decode())
    assert {item["__key__"] for item in read} == set(
        read_index(out).query("status == 'kept'")["key"]
    )
    assert set(read[0]) >= {"mp4", "npz", "json"}
    assert read[0]["json"]["fps"] == 25
    rows = ray.data.read_webdataset(shards).take_all()
    assert sorted(row["__key__"] for row in rows) == sorted(item["__key__"] for item in read)
    with tarfile.open(shards[0]) as archive:
        names = archive.getnames()
    assert names == sorted(names)


def test_the_report_is_one_page_with_the_funnel(finished):
    out, _ = finished
    numbers = json.loads((out / "report.json").read_text())
    assert numbers["funnel"][0]["left_clips"] == len(read_index(out))
    assert numbers["funnel"][-1]["left_clips"] == numbers["kept"]["clips"] == 2
    assert numbers["quarantine"] == {"not_video": 1}
    assert numbers["sources"]["ignored_by_extension"] == {".txt": 1}
    assert {"decode", "detect", "encode"} <= set(numbers["stages"])
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg;base64") >= 2
    assert "http" not in page
    assert 'src="data:' in page


def test_running_again_does_nothing_and_starts_no_ray(finished, videos, monkeypatch):
    out, _ = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    monkeypatch.setattr("pipelines.preprocess.context.connect", None)
    result = run(videos, out)
    assert (result.processed, result.kept) == (0, 2)
    assert result.title == "preprocessing: nothing new to do"
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before


def test_bytes_do_not_depend_on_workers_place_or_order(finished, videos, tmp_path, monkeypatch):
    """One worker, from a list in another order, at another time, in waves of a chunk."""
    monkeypatch.setattr("pipelines.preprocess.process._CHUNKS_AT_ONCE", 1)
    out, _ = finished
    names = [str(p.relative_to(videos)) for p in videos.rglob("*.mp4")]
    listed = videos / "shuffled.txt"
    listed.write_text("\n".join(sorted(names, reverse=True)))
    try:
        run(listed, tmp_path / "one", concurrency=1)
    finally:
        listed.unlink()
    assert published(tmp_path / "one") == published(out)


def test_what_changes_is_redone_and_nothing_else(videos, tmp_path, ray_local):
    folder, out = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    (folder / "a.mp4").write_bytes((videos / "a.mp4").read_bytes())
    assert run(folder, out).processed == 1
    (folder / "b.mp4").write_bytes((videos / "b.mp4").read_bytes())
    assert run(folder, out).processed == 1
    digest = index_digest(out)
    # A stricter threshold judges clips by their scores; nothing is decoded again.
    strict = run(folder, out, "filters.min_face_px=1000")
    assert (strict.processed, strict.kept) == (0, 0)
    assert strict.title == "preprocessing done"
    assert not list((out / "shards").glob("*"))
    assert run(folder, out).processed == 0
    assert index_digest(out) == digest
    # A changed source replaces its old clips.
    (folder / "a.mp4").write_bytes((videos / "b.mp4").read_bytes())
    changed = run(folder, out)
    assert (changed.processed, changed.kept) == (0, 1)
    # Loosening a threshold encodes what was not encoded under the stricter one.
    other = tmp_path / "other"
    assert run(folder, other, "filters.min_face_px=1000").kept == 0
    loose = run(folder, other)
    assert (loose.processed, loose.kept) == (1, 1)
    assert published(other) == published(out)


def test_verification_finds_a_flipped_bit_and_a_lost_shard(finished, videos, tmp_path):
    import shutil

    out = tmp_path / "copy"
    shutil.copytree(finished[0], out)
    whole = verify(out, on_progress=lambda _: None)
    assert isinstance(whole, Verification)
    assert (whole.exit_code, whole.members) == (0, 6)
    shard = next((out / "shards").glob("*.tar"))
    data = bytearray(shard.read_bytes())
    row = read_index(out).query("status == 'kept'").iloc[0]
    data[int(row["mp4_offset"]) + 100] ^= 1
    shard.write_bytes(data)
    damaged = verify(out, on_progress=lambda _: None)
    assert damaged.exit_code == 1
    assert "is damaged" in damaged.facts()["fault 1"]
    # The remedy it names works.
    shard.unlink()
    assert verify(out, on_progress=lambda _: None).exit_code == 1
    run(videos, out)
    assert verify(out, on_progress=lambda _: None).exit_code == 0


@pytest.mark.parametrize("name", ["shards/*.tar", "index.parquet"])
def test_what_was_cut_short_or_lost_is_written_anew(finished, videos, tmp_path, name):
    """A copy that broke off, or a file deleted by mistake: the chunk outputs still have it all."""
    import shutil

    out = tmp_path / "copy"
    shutil.copytree(finished[0], out)
    file = next(out.glob(name))
    whole = file.read_bytes()
    if name == "index.parquet":
        file.unlink()
    else:
        file.write_bytes(whole[:-2000])
    assert run(videos, out).processed == 0
    assert file.read_bytes() == whole


def test_a_dry_run_forecasts_and_writes_nothing(finished, videos, tmp_path):
    out = tmp_path / "nothing"
    expected = forecast(videos, out, config(), on_progress=lambda _: None)
    assert isinstance(expected, Forecast)
    assert not out.exists()
    _, result = finished
    assert expected.clips == pytest.approx(result.kept, rel=0.5)
    assert expected.kept_s == pytest.approx(result.kept_s, rel=0.3)
    assert expected.bytes == pytest.approx(result.bytes, rel=0.5)
    assert expected.core_hours > 0


def test_nothing_readable_is_one_line_and_leaves_nothing(tmp_path, ray_local):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "bad.mp4").write_text("no")
    with pytest.raises(UserError, match="none of the 1 sources"):
        run(tmp_path / "videos", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_strict_makes_quarantine_a_failure(finished, videos):
    out, _ = finished
    result = run(videos, out, strict=True)
    assert result.exit_code == 1


def test_progress_reaches_every_stage(finished, progress):
    assert list(dict.fromkeys(p.stage for p in progress)) == ["plan", "process", "finalize", "done"]
    assert progress[-1].kept == 2
    assert all(0 <= p.done <= p.total + 1e-6 for p in progress)


def test_a_chunk_is_reported_before_the_next_one_is_done(tmp_path, ray_local):
    out, outputs = tmp_path / "out", []
    (tmp_path / "videos").mkdir()
    for seed in (1, 2):
        encode(tmp_path / "videos" / f"{seed}.mp4", astronaut_footage(seed, 150, 256, 256))

    def note(progress):
        if progress.stage == "process" and progress.done:
            outputs.append(len(list(out.glob("_work/chunks/**/*.tar"))))

    preprocess(tmp_path / "videos", out, config(), concurrency=1, on_progress=note)
    assert outputs == [1, 2]


def test_strips_in_chunk_outputs_are_images(finished):
    from PIL import Image

    from preprocessing.chunk.output import read_output, read_output_member
    from preprocessing.storage.store import open_store

    store = open_store(finished[0])
    for output in store.list("_work/chunks"):
        for row in read_output(store, output).rows:
            strip = Image.open(io.BytesIO(read_output_member(store, row, "jpg")))
            assert strip.size == (288, 96)


def test_a_limit_covers_the_first_sources_and_forgets_nothing(finished, videos, tmp_path):
    """A trial on a few sources is the beginning of the whole job."""
    out = tmp_path / "out"
    with pytest.raises(UserError, match="limit is 0"):
        run(videos, out, limit=0)
    # Sorted by name: "a.mp4" and its copy come first.
    first = run(videos, out, limit=2)
    assert (first.sources, first.processed, first.kept) == (2, 1, 1)
    assert set(read_index(out)["source"]) == {"a.mp4", "again/a copy.mp4"}
    whole = run(videos, out)
    assert (whole.sources, whole.processed) == (5, 2)
    assert published(out) == published(finished[0])
    assert run(videos, out, limit=2).processed == 0
    entries = pd.read_parquet(out / "_work" / "sources.parquet")
    assert len(entries) == 5
