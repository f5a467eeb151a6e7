import io
import json

import cv2
import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from pipelines.inspect.examine import examine, inspect
from preprocessing.errors import UserError
from preprocessing.storage.index import index_digest, parquet_bytes, write_index
from preprocessing.storage.sample import SampleArrays, pack_arrays, pack_meta, sample_key
from preprocessing.storage.shard import write_tar_file
from preprocessing.storage.store import open_store


def arrays(frames):
    return SampleArrays(
        bbox=np.zeros((frames, 4)),
        bbox_crop=np.zeros((frames, 4)),
        landmarks=np.zeros((frames, 5, 2)),
        pose=np.zeros((frames, 3)),
        sharpness=np.zeros(frames),
        flags=np.zeros(frames),
        pts_us=np.zeros(frames),
        src_frame=np.zeros(frames),
        src_to_crop=np.zeros((2, 3)),
        identity=np.zeros(0),
    )


@pytest.fixture
def dataset(tmp_path):
    """Three kept clips of two people in one shard, two dropped ones, one bad source."""
    out = tmp_path / "OUT"
    (out / "shards").mkdir(parents=True)
    members, rows = [], []
    for number, (identity, split, size) in enumerate(
        [("ann", "train", 128), ("ann", "train", 512), ("bob", "val", 128)]
    ):
        key = sample_key(f"source-{number}", 0, 0, 0)
        content = {
            "json": pack_meta({"schema": 1, "source": f"{number}.mp4", "scores": {"yaw": 1.5}}),
            "mp4": bytes(1000 * (number + 1)),
            "npz": pack_arrays(arrays(50)),
        }
        members += [(f"{key}.{name}", data) for name, data in content.items()]
        rows.append(
            {
                "key": key,
                "status": "kept",
                "shard": "00000.tar",
                "frames": 50,
                "fps": 25.0,
                "size": size,
                "duration_s": 2.0,
                "source": f"{number}.mp4",
                "source_sha256": str(number),
                "identity": identity,
                "split": split,
            }
        )
    ranges = {r.name: r for r in write_tar_file(out / "shards" / "00000.tar", members)}
    for row in rows:
        for member in ("json", "mp4", "npz"):
            found = ranges[f"{row['key']}.{member}"]
            row |= {f"{member}_offset": found.offset, f"{member}_length": found.length}
    for number, reason in ((3, "min_face_px"), (4, "min_face_px"), (5, "max_yaw")):
        rows.append(
            {
                "key": sample_key(f"source-{number}", 0, 0, 0),
                "status": "dropped",
                "reason": reason,
                "duration_s": 3.0,
                "frames": 75,
                "source": f"{number}.mp4",
                "source_sha256": str(number),
            }
        )
    store = open_store(out)
    write_index(store, rows)
    bad = [{"source": "bad.mp4", "stage": "decode", "reason": "not_video", "detail": "a text file"}]
    store.write_atomic("quarantine.parquet", parquet_bytes(pa.Table.from_pylist(bad)))
    about = {"schema": 1, "config_sha256": "abc", "index_digest": index_digest(out)}
    store.write_atomic("dataset.json", json.dumps(about).encode())
    return out


def shown(path):
    console = Console(file=io.StringIO(), width=100)
    console.print(inspect(path))
    return console.file.getvalue()


def test_dataset_counts_are_those_of_the_index(dataset):
    found = json.loads(inspect(dataset, as_json=True).plain)
    assert found["kind"] == "data set"
    assert (found["clips_kept"], found["clips_dropped"]) == (3, 3)
    assert (found["seconds_kept"], found["seconds_dropped"]) == (6.0, 9.0)
    assert found["identities"] == 2
    assert found["clips_by_split"] == {"train": 2, "val": 1}
    assert found["image_sizes"] == [
        {"pixels": 128, "clips": 2, "seconds": 4.0},
        {"pixels": 512, "clips": 1, "seconds": 2.0},
    ]
    assert found["why_clips_were_dropped"][0] == {
        "reason": "min_face_px",
        "clips": 2,
        "seconds": 6.0,
    }
    assert found["sources_in_quarantine"] == 1
    assert found["quarantine"][0]["reason"] == "not_video"
    assert found["settings"] == "abc"
    assert "at most 1 workers busy; write more with shard.min_count=8" in found["warning"]
    assert "xnemo train tiny --data" in found["next"][0]


def test_dataset_as_a_person_reads_it(dataset):
    text = shown(dataset)
    for wanted in ("clips kept", "min_face_px", "not_video", "train 2, val 1", "xnemo train"):
        assert wanted in text


def test_shard_is_listed_and_its_first_sample_shown(dataset):
    shard = dataset / "shards" / "00000.tar"
    findings = examine(str(shard))
    assert findings.facts["samples"] == 3
    assert findings.facts["members of a sample"] == {"json+mp4+npz": 3}
    assert findings.facts["bytes by member"]["mp4"] == 6000
    rows = {row["field"]: row["value"] for row in findings.tables["the first sample"]}
    assert rows["source"] == "0.mp4"


@pytest.mark.parametrize("keep", [100, 700, 1536, 4000, -1024, -512])
def test_truncated_shard_is_told_in_one_line(dataset, keep):
    shard = dataset / "shards" / "00000.tar"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"00000\.tar is not a complete tar") as told:
        inspect(shard)
    assert "\n" not in str(told.value)
    if keep > 0:
        with pytest.raises(UserError, match="truncated"):
            inspect(dataset)


def test_what_is_missing_or_damaged_is_told_in_one_line(dataset, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG")
    for path, words in [
        (tmp_path / "nowhere", "nothing is at"),
        (tmp_path / "nowhere.tar", "nothing is at"),
        (empty, "neither a data set"),
        (text, "cannot be read as a video"),
        (broken, "cannot be read as an image"),
    ]:
        with pytest.raises(UserError, match=words) as told:
            inspect(path)
        assert "\n" not in str(told.value)
    (dataset / "shards" / "00000.tar").unlink()
    with pytest.raises(UserError, match="is missing"):
        inspect(dataset)
    (dataset / "index.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="damaged"):
        inspect(dataset)
    (dataset / "index.parquet").unlink()
    (dataset / "_work").mkdir()
    (dataset / "_work" / "part").write_text("")
    with pytest.raises(UserError, match="unfinished"):
        inspect(dataset)


def test_an_index_of_another_data_set_is_told(dataset):
    about = dataset / "dataset.json"
    about.write_text(about.read_text().replace("index_digest", "other"))
    with pytest.raises(UserError, match="other samples"):
        inspect(dataset)


def test_portrait_and_video_of_a_face(tmp_path):
    from pipelines.demo.portraits import load_portrait
    from pipelines.demo.videos import plan_demo_videos, write_demo_videos

    portrait = load_portrait("collins")
    picture = tmp_path / "collins.png"
    cv2.imwrite(str(picture), portrait[..., ::-1])
    findings = examine(str(picture))
    assert findings.facts == {"width": 384, "height": 384, "faces": 1}
    assert "xnemo animate " in findings.next[0]

    clip = plan_demo_videos(tmp_path, seconds=0.2)[0]
    write_demo_videos([clip])
    facts = examine(str(clip.path)).facts
    assert (facts["width"], facts["height"], facts["codec"]) == (256, 256, "h264")
    assert facts["frames per second"] == 25


@pytest.fixture
def bundle(tmp_path):
    import torch

    from xnemo.model.config import tiny
    from xnemo.training.checkpoint.bundle import save_bundle
    from xnemo.training.config import TrainConfig

    folder = tmp_path / "run" / "bundle"
    folder.parent.mkdir()
    weights = {
        "denoiser.a": torch.ones(3, 4),
        "denoiser.b": torch.ones(5),
        "discriminator.a": torch.ones(2),
    }
    meta = {"samples_seen": 640, "index_digest": "0123", "metrics": {"loss": 0.25}, "git": "abc"}
    save_bundle(folder, TrainConfig(network=tiny()), meta, raw=weights)
    return folder


def test_bundle_tells_its_training_and_the_size_of_each_network(bundle):
    found = json.loads(inspect(bundle, as_json=True).plain)
    assert found["kind"] == "bundle"
    assert found["samples_seen"] == 640
    assert found["metrics"] == {"loss": 0.25}
    assert found["trained_on_index"] == "0123"
    assert found["networks"] == [
        {"network": "denoiser", "tensors": 2, "parameters": 17},
        {"network": "discriminator", "tensors": 1, "parameters": 2},
    ]
    assert [f["file"] for f in found["files"]] == ["raw.safetensors"]
    # The folder of the run leads to the same bundle.
    assert examine(str(bundle.parent)).facts == examine(str(bundle)).facts


@pytest.mark.parametrize("keep", [0, 20, -1])
def test_truncated_bundle_is_told_in_one_line(bundle, keep):
    weights = bundle / "raw.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(UserError, match="damaged") as told:
        inspect(bundle)
    assert "\n" not in str(told.value)


def test_bundle_without_readable_description(bundle):
    (bundle / "bundle.json").write_text('{"format": 1')
    with pytest.raises(UserError, match=r"no readable bundle\.json"):
        inspect(bundle)
