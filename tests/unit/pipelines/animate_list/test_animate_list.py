"""Lists of pairs: what is read, what is resumed, and a bad pair among good ones."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import skimage.data
from PIL import Image
from untrained_model import write_bundle, write_video

from pipelines.animate.job import AnimateOptions
from pipelines.animate_list.job import animate_list
from pipelines.animate_list.plan import finished, read_pairs
from pipelines.animate_list.worker import PairAnimator
from pipelines.cli.main import run
from preprocessing.errors import UserError

FAST = AnimateOptions(steps=1, guidance=1.0, weights="raw", device="cpu", max_frames=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    write_bundle(root / "bundle")
    Image.fromarray(skimage.data.astronaut()).save(root / "anna.png")
    Image.new("RGB", (64, 64)).save(root / "blank.png")
    write_video(root / "wave.mp4", frames=3, codec=None)
    (root / "broken.mp4").write_text("no video")
    return root


def write_list(folder, text, name="pairs.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("portrait,driving\nanna.png,wave.mp4\n", "utf-8"),
        ("sep=;\r\nDriving;id;Portrait\r\nwave.mp4;7;anna.png\r\n", "utf-8-sig"),
        ("portrait\tdriving\n\nanna.png\twave.mp4\nanna.png\twave.mp4\n", "utf-16"),
    ],
)
def test_lists_are_read_as_spreadsheets_save_them(folder, text, encoding):
    (pair,) = read_pairs(write_list(folder, text, encoding=encoding), "builtin", FAST)
    assert (pair.portrait, pair.driving) == (str(folder / "anna.png"), str(folder / "wave.mp4"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("portrait,video\na,b\n", "no column 'driving'"),
        ("portrait,driving\na,\n", "line 2 of the list .* has no driving"),
        ("portrait,driving\n", "has no pairs"),
        ("portrait,driving\na,b,c\n", "has 3 cells and its header 2"),
    ],
)
def test_lists_that_are_not_understood_are_refused(folder, text, message):
    with pytest.raises(UserError, match=message):
        read_pairs(write_list(folder, text), "builtin", FAST)


def test_a_pair_is_done_again_when_something_changed(folder, tmp_path):
    file = write_list(folder, "portrait,driving\nanna.png,wave.mp4\nblank.png,wave.mp4\n")
    model = str(folder / "bundle")
    good, bad = read_pairs(file, model, FAST)
    worker = PairAnimator(model, FAST, str(tmp_path))
    assert worker.animate(good).frames == 2
    failed = worker.animate(bad)
    assert (failed.status, "shows no face" in failed.reason) == ("failed", True)
    assert finished(good, tmp_path).output == f"{good.name}.mp4"
    assert finished(bad, tmp_path) is None
    for changed in (replace(FAST, seed=1), FAST):
        other = read_pairs(file, model, changed)[0]
        assert (finished(other, tmp_path) is None) == (changed != FAST)
    (tmp_path / f"{good.name}.mp4").unlink()
    assert finished(good, tmp_path) is None


@pytest.mark.ray
def test_a_list_is_animated_once_and_bad_pairs_are_rows(folder, tmp_path, capsys):
    rows = ["anna.png,wave.mp4", "blank.png,wave.mp4", "anna.png,broken.mp4", "none.png,wave.mp4"]
    file = write_list(folder, "\n".join(["portrait,driving", *rows]))
    out = tmp_path / "out"
    result = animate_list(folder / "bundle", file, out, FAST, concurrency=1)
    assert [record.status for record in result.records] == ["done", *["failed"] * 3]
    table = pq.read_table(out / "results.parquet").to_pylist()
    for row, reason in zip(table[1:], ("no face", "cannot be read", "no portrait"), strict=True):
        assert reason in row["reason"]
    # The failed ones are mended and only they are tried again.
    first = (out / table[0]["output"]).stat().st_mtime_ns
    for name in ("blank.png", "none.png"):
        Image.fromarray(skimage.data.astronaut()).save(folder / name)
    config = tmp_path / "fast.yaml"
    config.write_text(json.dumps({"steps": 1, "guidance": 1.0, "weights": "raw", "device": "cpu"}))
    words = ["animate", "--list", str(file), "-o", str(out), "--model", str(folder / "bundle")]
    status = run([*words, "--config", str(config), "--max-frames", "2", "--concurrency", "1"])
    assert status == 1
    printed = capsys.readouterr().out
    assert "3 of 4 pairs animated" in printed
    assert "broken.mp4" in printed
    assert (out / table[0]["output"]).stat().st_mtime_ns == first


def test_a_model_that_is_none_is_refused_once(folder, tmp_path):
    file = write_list(folder, "portrait,driving\nanna.png,wave.mp4\n")
    (pair,) = read_pairs(file, "x", FAST)
    record = PairAnimator(str(folder / "none"), FAST, str(tmp_path)).animate(pair)
    assert record.status == "refused"
    assert "there is no bundle at" in record.reason
