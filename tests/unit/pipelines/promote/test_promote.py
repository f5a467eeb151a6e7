"""Which bundle is served, and what is left when a job ends in the middle."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from moving_faces import write_dataset
from tiny_run import nano_config

from pipelines.cli.main import run as run_command
from pipelines.promote import job
from pipelines.promote.champion import POINTER, champion_store, fetch_champion, read_champion
from pipelines.promote.job import DECISION, promote
from pipelines.promote.series import _next_run, train_series
from pipelines.train.run_folder import open_folder
from preprocessing.errors import UserError
from preprocessing.storage.store import open_store
from xnemo.model.networks import build_networks
from xnemo.training.checkpoint.bundle import load_bundle, save_bundle


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return str(write_dataset(tmp_path_factory.mktemp("faces")))


@pytest.fixture(scope="module")
def weights():
    networks = build_networks(nano_config().network, training=False)
    return {
        f"{part}.{key}": value
        for part in ("denoiser", "reference_net", "motion_encoder")
        for key, value in getattr(networks, part).state_dict().items()
    }


@pytest.fixture
def make_run(tmp_path, weights):
    """A function that writes the folder of a run that has ended, with weights of its own."""

    def make(name, seed=0):
        config = nano_config()
        raw = {
            key: value + seed * 1e-3 if value.is_floating_point() else value
            for key, value in weights.items()
        }
        save_bundle(tmp_path / "runs" / name / "bundle", config, {"samples_seen": 8}, raw=raw,
                    ema={})  # fmt: skip
        return tmp_path / "runs" / name

    return make


@pytest.fixture
def scores(monkeypatch):
    """Scores by name of the run, in place of measured ones."""
    table = {}

    def measure(bundle, data, held_out):
        name = next(name for name in table if name in bundle)
        return dict.fromkeys(("motion_correlation", "l1", "psnr", "ssim"), table[name])

    monkeypatch.setattr(job, "measure", measure)
    return table


def test_only_a_better_bundle_is_served(make_run, scores, tmp_path, faces):
    served = tmp_path / "served"
    scores |= {"first": 0.5, "worse": 0.4, "equal": 0.5, "broken": math.nan, "better": 0.6}
    for seed, (name, expected) in enumerate(
        [("first", True), ("worse", False), ("equal", False), ("broken", False), ("better", True)]
    ):
        run_dir = make_run(name, seed)
        decision = promote(run_dir, [faces], str(served))
        assert decision.promoted is expected, name
        assert json.loads((run_dir / DECISION).read_text())["promoted"] is expected
        champion = read_champion(open_store(served))
        assert champion.run == (name if expected else "first")
        # What is served is whole at any time.
        load_bundle(served / champion.bundle)
    # Bundles of before stay for a way back.
    assert len(list((served / "bundles").iterdir())) == 2


def test_a_lower_error_is_better(make_run, scores, tmp_path, faces):
    scores |= {"one": 0.2, "two": 0.3, "three": 0.1}
    results = [
        promote(make_run(name, seed), [faces], str(tmp_path / "served"), metric="l1").promoted
        for seed, name in enumerate(scores)
    ]
    assert results == [True, False, True]


def test_a_broken_champion_is_replaced(make_run, scores, tmp_path, faces):
    scores |= {"one": 0.2, "two": 0.1}
    promote(make_run("one", 0), [faces], str(tmp_path / "served"))
    scores["one"] = math.nan
    assert promote(make_run("two", 1), [faces], str(tmp_path / "served")).promoted


def test_promotion_that_was_cut_off_is_completed(make_run, scores, tmp_path, faces, monkeypatch):
    served, run_dir = str(tmp_path / "served"), make_run("one")
    scores["one"] = 0.2
    with monkeypatch.context() as cut:
        cut.setattr(job, "_tell", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            promote(run_dir, [faces], served)
    assert not (run_dir / DECISION).exists()
    assert promote(run_dir, [faces], served).promoted
    assert (run_dir / DECISION).exists()


def test_an_object_store_serves_whole_bundles(make_run, scores, tmp_path, faces):
    url = "memory://promotion/served"
    scores |= {"one": 0.2, "two": 0.3}
    for seed, name in enumerate(scores):
        assert promote(make_run(name, seed), [faces], url).promoted
    store = open_store(url)
    champion = read_champion(store)
    folder = fetch_champion(store, champion, tmp_path / "cache")
    there = load_bundle(folder).networks.denoiser.state_dict()
    own = load_bundle(tmp_path / "runs" / "two" / "bundle").networks.denoiser.state_dict()
    assert all(torch.equal(there[name], value) for name, value in own.items())
    # The champion of before was downloaded to be measured; only one copy is kept.
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["bundles"]


def test_unusable_input_is_one_line(make_run, scores, tmp_path, faces):
    served = tmp_path / "served"
    run_dir = make_run("one")
    scores["one"] = 0.2
    with pytest.raises(UserError, match="no bundle at"):
        promote(tmp_path / "nowhere", [faces], str(served))
    with open_folder(run_dir), pytest.raises(UserError, match="run one is being trained"):
        promote(run_dir, [faces], str(served))
    with champion_store(str(served)), pytest.raises(UserError, match="another job writes"):
        promote(run_dir, [faces], str(served))
    with champion_store(str(served)), pytest.raises(UserError, match="another job writes"):
        train_series(nano_config(), [faces], "nightly", str(served), runs_dir=tmp_path)
    promote(run_dir, [faces], str(served))
    (served / POINTER).write_text('{"run": "x", "bundle": "../elsewhere", "scores": {}}')
    with pytest.raises(UserError, match=r"champion\.json is damaged"):
        promote(run_dir, [faces], str(served))
    with pytest.raises(UserError, match="0 after the filter"):
        train_series(
            nano_config(validation__filter="yaw > 999"),
            [faces],
            "a",
            str(served),
            runs_dir=tmp_path,
        )
    with pytest.raises(UserError, match="motion stage"):
        train_series(
            nano_config(stage="motion", loss__motion=1.0, augment__mirror=0.0),
            [faces], "a", str(served), runs_dir=tmp_path,
        )  # fmt: skip


def test_a_champion_that_is_gone_is_one_line(make_run, scores, tmp_path, faces):
    url = "memory://gone/served"
    scores |= {"one": 0.2, "two": 0.3}
    promote(make_run("one", 0), [faces], url)
    store = open_store(url)
    store.delete(f"{read_champion(store).bundle}/raw.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        promote(make_run("two", 1), [faces], url)


def test_the_next_run_is_the_one_without_a_decision(tmp_path):
    assert _next_run(tmp_path, "nightly", "") == "nightly-0001"
    (tmp_path / "nightly-0001").mkdir()
    (tmp_path / "other-0009").mkdir()
    (tmp_path / "nightly-x").mkdir()
    assert _next_run(tmp_path, "nightly", "") == "nightly-0001"
    (tmp_path / "nightly-0001" / DECISION).touch()
    assert _next_run(tmp_path, "nightly", "nightly-0001") == "nightly-0002"
    (tmp_path / "nightly-10000").mkdir()
    assert _next_run(tmp_path, "nightly", "nightly-0001") == "nightly-10000"
    shutil.rmtree(tmp_path)
    assert _next_run(tmp_path, "nightly", "nightly-0007") == "nightly-0008"


def test_the_command_tells_a_worse_bundle_by_its_status(make_run, scores, tmp_path, faces, capsys):
    scores |= {"one": 0.5, "two": 0.25}
    command = ["promote", "", str(tmp_path / "served"), "--data", faces]
    for seed, (name, status) in enumerate([("one", 0), ("two", 3)]):
        command[1] = str(make_run(name, seed))
        assert run_command(command) == status
    shown = capsys.readouterr().out
    assert "one as before" in shown
    assert "0.25 of two, 0.5 of one" in shown


def test_measured_scores_are_those_of_the_metrics(make_run, faces):
    run_dir: Path = make_run("real")
    measured = job.measure(str(run_dir / "bundle"), [faces], "split == 'val'")
    assert measured.keys() == {"motion_correlation", "l1", "psnr", "ssim"}
    assert all(math.isfinite(value) for value in measured.values())
    assert 0 < measured["l1"] < 1
