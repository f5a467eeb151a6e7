import hashlib
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessing.errors import UserError
from preprocessing.storage.index import index_digest, read_index, write_index
from preprocessing.storage.sample import (
    SampleArrays,
    pack_arrays,
    pack_meta,
    read_member,
    read_sample,
    sample_key,
    unpack_arrays,
)
from preprocessing.storage.shard import member_bytes, write_tar, write_tar_file
from preprocessing.storage.store import open_store


def arrays(frames=5, seed=0):
    rng = np.random.default_rng(seed)
    return SampleArrays(
        bbox=rng.random((frames, 4)),
        bbox_crop=rng.random((frames, 4)),
        landmarks=rng.random((frames, 5, 2)),
        pose=rng.random((frames, 3)),
        sharpness=rng.random(frames),
        flags=np.ones(frames),
        pts_us=np.arange(frames) * 40_000,
        src_frame=np.arange(frames),
        src_to_crop=rng.random((2, 3)),
        identity=np.zeros(0),
    )


def test_key_is_stable_and_has_no_dots():
    key = sample_key("abc", 3, 1, 12345)
    assert key == f"{hashlib.sha1(b'abc').hexdigest()[:12]}_0003_01_000012345"


def test_arrays_round_trip_with_the_contract_s_types():
    back = unpack_arrays(pack_arrays(arrays()))
    assert back.bbox.dtype == np.float32
    assert back.flags.dtype == np.uint8
    assert back.pts_us.dtype == np.int64
    assert back.src_frame.dtype == np.int32
    assert back.landmarks.shape == (5, 5, 2)
    np.testing.assert_array_equal(back.bbox, arrays().bbox.astype(np.float32))


def test_arrays_bytes_depend_on_values_alone():
    assert pack_arrays(arrays()) == pack_arrays(arrays())
    assert pack_arrays(arrays()) != pack_arrays(arrays(seed=1))


def test_meta_refuses_what_json_cannot_hold():
    assert pack_meta({"b": 1, "a": 0.5}) == b'{"a":0.5,"b":1}'
    with pytest.raises(ValueError, match="JSON"):
        pack_meta({"a": float("nan")})


def test_tar_is_plain_deterministic_and_its_ranges_are_right(tmp_path):
    members = [("k_0.json", b"{}"), ("k_0.mp4", b"m" * 513), ("k_0.npz", b"")]
    ranges = write_tar_file(tmp_path / "a.tar", members)
    data = (tmp_path / "a.tar").read_bytes()
    again = io.BytesIO()
    list(write_tar(again, members))
    assert again.getvalue() == data
    for (name, content), place in zip(members, ranges, strict=True):
        assert place.name == name
        assert data[place.offset : place.offset + place.length] == content
    assert len(data) == sum(member_bytes(len(content)) for _, content in members) + 1024
    with tarfile.open(tmp_path / "a.tar") as archive:
        infos = archive.getmembers()
    assert [(i.name, i.mtime, i.uid, i.gid, i.mode) for i in infos] == [
        (name, 0, 0, 0, 0o644) for name, _ in members
    ]


@pytest.fixture
def dataset(tmp_path):
    key = sample_key("s", 0, 0, 0)
    content = {"json": pack_meta({"key": key}), "mp4": b"video", "npz": pack_arrays(arrays())}
    (tmp_path / "shards").mkdir()
    ranges = write_tar_file(
        tmp_path / "shards" / "a.tar", [(f"{key}.{n}", content[n]) for n in sorted(content)]
    )
    row = {"key": key, "status": "kept", "shard": "a.tar", "frames": 5}
    for place in ranges:
        name = place.name.rsplit(".")[-1]
        row |= {f"{name}_offset": place.offset, f"{name}_length": place.length}
        row[f"{name}_sha256"] = hashlib.sha256(content[name]).hexdigest()
    dropped = {"key": "a_dropped", "status": "dropped", "reason": "blurred"}
    write_index(open_store(tmp_path), [row, dropped])
    return tmp_path, content, row


def test_members_are_read_by_their_range(dataset):
    root, content, row = dataset
    index = read_index(root)
    found = index[index["key"] == row["key"]].iloc[0]
    for name, data in content.items():
        assert read_member(root, found, name) == data
    sample = read_sample(str(root), found)
    assert sample.mp4 == b"video"
    assert sample.meta == json.loads(content["json"])
    with pytest.raises(KeyError, match="no member"):
        read_member(root, found, "wav")


def test_another_shard_under_the_same_name_is_noticed(dataset):
    root, content, row = dataset
    shard = root / "shards" / "a.tar"
    other = row["key"].replace("0000", "0001", 1)
    shard.write_bytes(shard.read_bytes().replace(row["key"].encode(), other.encode()))
    for name in content:
        with pytest.raises(UserError, match=f"another member is in shard a.tar .*{name}"):
            read_member(root, row, name)


def test_a_shard_cut_short_is_noticed_at_every_length(dataset):
    root, content, row = dataset
    shard = root / "shards" / "a.tar"
    whole = shard.read_bytes()
    for length in range(0, row["mp4_offset"] + row["mp4_length"], 64):
        shard.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"nothing is|is truncated|another member"):
            read_member(root, row, "mp4")
    shard.write_bytes(whole[: row["mp4_offset"] + row["mp4_length"]])
    assert read_member(root, row, "mp4") == content["mp4"]


def test_a_place_that_cannot_be_is_told(dataset):
    root, _, row = dataset
    with pytest.raises(UserError, match="has no position of"):
        read_member(root, row | {"mp4_offset": 0}, "mp4")


@pytest.mark.parametrize("column", ["status", "frames", "mp4_offset", "npz_sha256", "identity"])
def test_an_index_of_another_version_is_told(dataset, column):
    root, _, _ = dataset
    table = pq.read_table(root / "index.parquet")
    pq.write_table(table.drop_columns([column]), root / "index.parquet")
    with pytest.raises(UserError, match=f"no column '{column}'"):
        read_index(root)
    place = table.schema.names.index(column)
    wrong = pa.array([1.5] * 2) if pa.types.is_string(table.schema[place].type) else ["x"] * 2
    pq.write_table(table.set_column(place, column, [wrong]), root / "index.parquet")
    with pytest.raises(UserError, match=f"in column '{column}'"):
        read_index(root)
    more = table.append_column("a_new_score", [[0.5, 0.5]])
    pq.write_table(more, root / "index.parquet")
    assert "a_new_score" in read_index(root)


def test_an_index_that_is_a_folder_is_told(tmp_path):
    (tmp_path / "index.parquet").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_index(tmp_path)


def test_index_bytes_and_digest(dataset):
    root, _, row = dataset
    before, digest = (root / "index.parquet").read_bytes(), index_digest(root)
    other = {"key": "another", "status": "dropped", "reason": "still"}
    dropped = {"key": "a_dropped", "status": "dropped", "reason": "blurred"}
    write_index(open_store(root), [dropped, row])
    assert (root / "index.parquet").read_bytes() == before
    write_index(open_store(root), [dropped, row, other])
    assert index_digest(root) == digest
    write_index(open_store(root), [{**row, "mp4_sha256": "0"}])
    assert index_digest(root) != digest


def test_a_missing_or_damaged_index_is_told(tmp_path):
    with pytest.raises(UserError, match="not a finished data set"):
        read_index(tmp_path)
    (tmp_path / "index.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="damaged"):
        read_index(tmp_path)
