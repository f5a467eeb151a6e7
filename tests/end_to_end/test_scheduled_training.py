"""Three nights of scheduled training on a growing data set, by the command of the manifest."""

import json
import shlex

import pytest
import yaml
from command_line import compose
from moving_faces import write_dataset
from tiny_run import nano_config

from pipelines.cli.main import run
from preprocessing.storage.index import read_index
from preprocessing.storage.store import open_store
from xnemo.config import to_dict
from xnemo.training.checkpoint.bundle import load_bundle

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


def nightly_command(folder):
    """Return the words of the scheduled training, with this machine's places in them."""
    (spec,) = [m["spec"] for m in compose("nightly") if m["metadata"]["name"].endswith("train")]
    words = shlex.split(spec["jobTemplate"]["entrypoint"])
    assert words[:2] == ["xnemo", "train"]
    here = {
        "--data": folder / "shards", "--champion": folder / "served", "--runs-dir": folder / "runs",
        "--tracking-uri": f"sqlite:///{folder}/mlflow.db", "--workers": 1,
    }  # fmt: skip
    for option, value in here.items():
        words[words.index(option) + 1] = str(value)
    at = words.index("--address")
    del words[at : at + 2]
    settings = {"engine.device": "auto", "checkpoint.upload": str(folder / "uploads")}
    words = [f"{n}={settings[n]}" if (n := w.partition("=")[0]) in settings else w for w in words]
    words[2] = "tiny"
    # Networks of milliseconds a step, compared by the score that learning improves at once.
    nano = to_dict(nano_config(optimizer__warmup_samples=0, engine__peak_tflops=1.0))
    (folder / "nano.yaml").write_text(yaml.safe_dump(nano))
    return [*words[1:], "--config", str(folder / "nano.yaml"), "--metric", "ssim"]


def test_each_night_continues_the_champion_and_only_a_better_bundle_replaces_it(
    tmp_path, ray_local, capsys
):
    from mlflow import MlflowClient

    command = nightly_command(tmp_path)
    served = open_store(tmp_path / "served")
    clips, champions, started_from = [], [], []
    # Nothing is learned, then something, then a rate so high that everything is forgotten.
    nights = [(8, 1e-9), (160, 2e-3), (8, 0.3)]
    for night, (samples, rate) in enumerate(nights, start=1):
        write_dataset(tmp_path / "shards", clips=3 * night, people=3, frames=4)
        clips.append(len(read_index(tmp_path / "shards")))
        assert run([*command, f"samples={samples}", f"optimizer.lr={rate}"]) == 0
        champions.append(json.loads(served.read("champion.json")))
        config = json.loads((tmp_path / "runs" / f"nightly-000{night}" / "config.json").read_text())
        started_from.append(config["init_from"])
        load_bundle(tmp_path / "served" / champions[-1]["bundle"])
    assert clips == [3, 6, 9]
    assert [champion["run"] for champion in champions] == [
        "nightly-0001", "nightly-0002", "nightly-0002",
    ]  # fmt: skip
    # Each from what was served when it began, the first from nothing.
    assert started_from == [
        None, *(str(tmp_path / "served" / champion["bundle"]) for champion in champions[:2])
    ]  # fmt: skip
    decisions = [
        json.loads((tmp_path / "runs" / f"nightly-000{n}" / "promotion.json").read_text())
        for n in (1, 2, 3)
    ]
    assert [d["promoted"] for d in decisions] == [True, True, False]
    assert decisions[2]["candidate"] < decisions[2]["champion"]
    assert "nightly-0002 as before" in capsys.readouterr().out
    # MLflow tells the same.
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri, uri)
    assert len(client.search_model_versions("name='xnemo-nightly'")) == 3
    version = client.get_model_version_by_alias("xnemo-nightly", "champion")
    assert client.get_run(version.run_id).info.run_name == "nightly-0002"
