"""A small trained bundle is measured on held-out clips and on a list."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from moving_faces import write_dataset
from PIL import Image
from tiny_run import nano_config

from pipelines.evaluate import dataset
from pipelines.evaluate.job import evaluate
from pipelines.evaluate.pairs import read_pairs
from pipelines.evaluate.settings import EvaluateOptions
from preprocessing.dataset.identity import BY_SOURCE
from preprocessing.encode.clip_encoder import encode_clip
from preprocessing.errors import UserError
from xnemo.training.loop import run_training

FEW = EvaluateOptions(steps=2, guidance=1.0, limit=3, frames=3, probe_clips=6)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def bundle(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    run_training(nano_config(samples=4), str(faces), run)
    return run / "bundle"


def test_held_out_clips_are_measured_in_every_way(
    bundle: Path, faces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.json"
    options = replace(FEW, filter="frames > 0")
    result = evaluate(bundle, faces, output=out, options=options)
    followed = {row["method"]: row for row in result.tables["self-reenactment"]}
    assert set(followed) == {
        "trained", "trained, position withheld", "trained, driving video held still",
        "portrait repeated", "untrained",
    }  # fmt: skip
    # Nothing moves in a repeated portrait, and it shows the right person.
    assert followed["portrait repeated"]["motion_correlation"] == 0
    assert followed["portrait repeated"]["l1"] < followed["untrained"]["l1"]
    assert followed["trained"]["lpips"] is None
    cross = result.tables["cross-reenactment"]
    assert cross[-1]["portrait"] == "mean"
    assert len(cross) == 4
    probes = {row["probe"]: row for row in result.tables["probes of the motion latent"]}
    assert set(probes) == {"yaw, R²", "pitch, R²", "roll, R²", "identity"}
    assert probes["identity"]["chance"] == pytest.approx(1 / 3)
    assert any("lpips not measured" in note for note in result.facts["notes"])
    content = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["tables"]["self-reenactment"] == list(result.tables["self-reenactment"])


def test_a_list_of_portraits_and_driving_videos_is_measured(bundle: Path, tmp_path: Path) -> None:
    face = skimage.data.astronaut()[:256, 100:356]
    Image.fromarray(face).save(tmp_path / "a.png")
    moved = [np.roll(face, 2 * number, axis=1) for number in range(6)]
    (tmp_path / "b.mp4").write_bytes(encode_clip(moved))
    (tmp_path / "list.csv").write_text("# portrait, driving\n\na.png, b.mp4\na.png, b.mp4\n")
    result = evaluate(bundle, tmp_path / "list.csv", options=replace(FEW, limit=1))
    row, mean = result.tables["cross-reenactment"]
    assert row["portrait"].endswith("a.png")
    assert 0 <= mean["found"] <= 1
    assert row["identity"] is None


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "lists nothing"), ("only.png", "line 1"), ("a.png,b.mp4", "is missing")],
)
def test_a_bad_list_is_told_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "list.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=told) as refusal:
        read_pairs(file)
    assert "\n" not in str(refusal.value)


def test_what_is_no_bundle_is_told(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no bundle"):
        evaluate(tmp_path / "nowhere", faces)


def test_people_who_are_only_sources_are_called_so(
    bundle: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a recogniser a person in two videos may be on both sides of the split."""
    read = dataset.read_held_out

    def by_source(*arguments: Any, **options: Any) -> Any:
        clips = read(*arguments, **options)
        return [replace(clip, identity=f"{BY_SOURCE}{clip.key}") for clip in clips]

    options = replace(FEW, filter="frames > 0", cross=False, probe_clips=0, untrained=False)
    few = replace(options, limit=1)
    named = evaluate(bundle, faces, options=few).facts["notes"]
    monkeypatch.setattr(dataset, "read_held_out", by_source)
    unnamed = evaluate(bundle, faces, options=few).facts["notes"]
    assert not any("each source counts as one person" in note for note in named)
    assert any("each source counts as one person" in note for note in unnamed)


def test_without_a_source_strangers_are_rendered(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "strangers.json"
    few = EvaluateOptions(steps=1, guidance=1.0, people=2, motions=4, reader_people=3)
    result = evaluate(bundle, output=out, options=few)
    motion, identity, scores = result.tables.values()
    assert "yaw" in {row["motion"] for row in motion}
    assert {row["measure"] for row in identity} >= {"share of the latent's variance"}
    by_method = {row["method"]: row for row in scores}
    assert by_method["portrait repeated"]["follow"] == 0
    assert by_method["driving frames copied"]["l1"] > by_method["portrait repeated"]["l1"]
    # Two people, three rows of portrait and four frames each.
    assert Image.open(out.with_suffix(".png")).size == (5 * 112, 2 * (3 * 112 + 4))
    assert any("model's own encoder" in note for note in result.facts["notes"])
