import json
import os
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest

from preprocessing.config import PlanConfig, PreprocessConfig
from preprocessing.dataset.chunking import analysis_digest, chunks_of, output_name
from preprocessing.dataset.entries import SourceEntry, read_entries, write_entries
from preprocessing.dataset.plan import make_plan
from preprocessing.dataset.sources import FoundSources, SourceFile, find_sources
from preprocessing.decode import DecodeError
from preprocessing.decode.source import check_path
from preprocessing.errors import UserError
from preprocessing.storage.store import open_store

CONFIG = PreprocessConfig()


def touch(path, text="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_folder_is_searched_and_what_is_ignored_is_counted(tmp_path):
    for name in (
        "b.mp4",
        "sub/a.MKV",
        "sub/deep/c.mov",
        "note.txt",
        "x.jpg",
        "noext",
        ".hidden.mp4",
    ):
        touch(tmp_path / name)
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "gone")
    found = find_sources(tmp_path, licence="CC0")
    assert [f.name for f in found.files] == [
        "b.mp4", "dangling.mp4", "folder.mp4", "pipe.mp4", "sub/a.MKV", "sub/deep/c.mov",
    ]  # fmt: skip
    assert found.ignored == {"(hidden)": 1, "(none)": 1, ".jpg": 1, ".txt": 1}
    assert {f.licence for f in found.files} == {"CC0"}


@pytest.fixture
def unprivileged():
    """Be nobody for a while where the tests run as root, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def guarded():
    """A file, one that may not be read, and folders not to be listed and not to be entered."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for file in ("b.mp4", "closed/a.mp4", "listed/c.mp4", "locked.mp4"):
            touch(root / file)
        (root / "locked.mp4").chmod(0)
        (root / "closed").chmod(0)
        (root / "listed").chmod(0o444)
        yield root
        for folder in ("closed", "listed"):
            (root / folder).chmod(0o755)


def test_what_may_not_be_read_is_told_and_costs_nothing_else(guarded, unprivileged):
    found = find_sources(guarded)
    assert [f.name for f in found.files] == ["b.mp4", "closed", "listed/c.mp4", "locked.mp4"]
    assert check_path(guarded / "b.mp4") == 1
    for file in found.files[1:]:
        with pytest.raises(DecodeError, match="permission: "):
            check_path(Path(file.location))
    with pytest.raises(UserError, match=r"cannot list .*closed"):
        find_sources(guarded / "closed")


def test_names_of_any_kind_come_through(tmp_path):
    names = ["with space.mp4", "new\nline.mp4", "quo\"te's.mp4", "..dots...mp4", "ü—字.mp4"]
    for name in names:
        touch(tmp_path / name)
    with open(os.fsencode(tmp_path) + b"/latin-\xe9.mp4", "w"):
        names.append("latin-\\xe9.mp4")
    assert sorted(f.name for f in find_sources(tmp_path).files) == sorted(names)


def test_lists(tmp_path):
    touch(tmp_path / "clips" / "a.mp4")
    touch(tmp_path / "list.txt", "# ours\nclips/a.mp4\n\nclips/missing.mp4\n")
    found = find_sources(tmp_path / "list.txt")
    assert [(f.name, f.size) for f in found.files] == [
        ("clips/a.mp4", 1),
        ("clips/missing.mp4", -1),
    ]
    assert found.files[0].location == str(tmp_path / "clips" / "a.mp4")
    touch(tmp_path / "list.csv", "source,licence\nclips/a.mp4,CC-BY\n")
    assert find_sources(tmp_path / "list.csv", "other").files[0].licence == "CC-BY"
    touch(tmp_path / "list.jsonl", json.dumps({"source": "clips/a.mp4"}) + "\n")
    assert find_sources(tmp_path / "list.jsonl", "other").files[0].licence == "other"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nothing", "no videos at"),
        (lambda p: p, "holds no videos"),
        (lambda p: (touch(p / "l.txt", "\n"), p / "l.txt")[1], "names no videos"),
        (lambda p: (touch(p / "l.csv", "path\nx\n"), p / "l.csv")[1], "no column 'source'"),
        (lambda p: (touch(p / "l.jsonl", "{"), p / "l.jsonl")[1], "is not JSON"),
        (lambda p: "nothing://bucket", "cannot open"),
        (lambda p: "memory://nowhere", "holds no videos"),
    ],
)
def test_nothing_to_work_on_is_told(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        find_sources(make(tmp_path))


FILE = SourceFile("a.mp4", "/x/a.mp4", 1000, "1")


def entry(duration_s, key_every_s=2.0, start_us=0):
    keys = [
        start_us + round(k * key_every_s * 1e6) for k in range(int(duration_s / key_every_s) + 1)
    ]
    index = [round(k * key_every_s * 25) for k in range(len(keys))]
    return SourceEntry(
        "a.mp4", 1000, "1", sha256="ab", duration_s=duration_s, start_us=start_us,
        key_us=tuple(keys), key_index=tuple(index),
    )  # fmt: skip


def test_a_short_source_is_one_chunk():
    (chunk,) = chunks_of(FILE, entry(200), CONFIG)
    assert (chunk.start_s, chunk.end_s, chunk.decode_from_s) == (None, None, None)
    assert chunk.seconds == 200


def test_a_long_source_is_cut_at_key_frames_and_chunks_overlap():
    chunks = chunks_of(FILE, entry(3600, start_us=500_000), CONFIG)
    assert 18 <= len(chunks) <= 20
    assert sum(c.seconds for c in chunks) == pytest.approx(3600)
    assert [c.number for c in chunks] == list(range(len(chunks)))
    for before, after in pairwise(chunks):
        assert before.end_s == after.start_s
        # Each sees enough of the other to know how a track goes on.
        assert before.decode_to_s >= before.end_s + CONFIG.tube.min_s
        assert after.decode_from_s <= after.start_s - CONFIG.tube.min_s
        # The number of the frame decoding starts from is known.
        assert after.decode_from_index == round((after.decode_from_s - 0.5) * 25)
    assert chunks[0].start_s is None
    assert chunks[-1].end_s is None


def test_without_key_frames_to_cut_at_a_source_stays_whole():
    assert len(chunks_of(FILE, entry(3600, key_every_s=4000), CONFIG)) == 1


@pytest.mark.parametrize(("key_every_s", "told"), [(2.0, 0), (10.0, 0), (400.0, 9), (4000.0, 1)])
def test_a_source_that_cannot_be_divided_is_told(tmp_path, key_every_s, told):
    entries = {"a.mp4": entry(3600, key_every_s)}
    plan = make_plan(FoundSources((FILE,), {}), entries, open_store(tmp_path), CONFIG, {})
    lines = plan.undivided(CONFIG.plan.chunk_s)
    assert len(lines) == told
    assert all("a.mp4 has no key frame for" in line for line in lines)


def test_outputs_are_named_after_what_decides_their_content():
    (chunk,) = chunks_of(FILE, entry(100), CONFIG)
    models = {"detection": "1"}

    def name(config=CONFIG, models=models, **changes):
        from dataclasses import replace

        return output_name(replace(chunk, **changes), analysis_digest(config, models))

    assert name() == name(location="/elsewhere/b.mp4", source="b.mp4", licence="other")
    assert name() != name(sha256="cd")
    assert name() != name(models={"detection": "2"})
    from xnemo.config import override

    assert name() != name(override(CONFIG, ["detect.stride=4"]))
    assert name() != name(override(CONFIG, ["encode.crf=20"]))
    # Thresholds apply to clips that are already cut; shard sizes to those already kept.
    assert name() == name(override(CONFIG, ["filters.min_face_px=200", "shard.size_mb=1"]))


def test_entries_are_remembered_until_a_file_changes(tmp_path):
    store = open_store(tmp_path)
    assert read_entries(store) == {}
    write_entries(store, [entry(10)])
    (known,) = read_entries(store).values()
    assert known == entry(10)
    assert known.is_of(FILE)
    assert not known.is_of(SourceFile("a.mp4", "/x/a.mp4", 1001, "1"))
    assert not known.is_of(SourceFile("a.mp4", "/x/a.mp4", 1000, "2"))
    (tmp_path / "_work/sources.parquet").write_bytes(b"damaged")
    assert read_entries(store) == {}


def test_chunk_length_is_a_setting():
    short = PreprocessConfig(plan=PlanConfig(chunk_s=30))
    assert len(chunks_of(FILE, entry(200), short)) == 7
