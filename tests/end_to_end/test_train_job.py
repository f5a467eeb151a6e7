"""A training job through Ray Train, ZeRO-2 and MLflow: what it leaves, and what a second does."""

import json
from pathlib import Path

import pytest
import torch
from moving_faces import write_dataset
from safetensors.torch import load_file
from tiny_run import nano_config

from pipelines.train.job import TrainResult, train
from pipelines.train.previews import PreviewJob, make_preview
from pipelines.train.progress import TrainProgress
from preprocessing.errors import UserError
from xnemo.training.checkpoint.bundle import load_bundle
from xnemo.training.monitor.run_log import read_log, read_records

pytestmark = pytest.mark.ray

ZERO2 = {"engine__kind": "deepspeed", "engine__zero_stage": 2}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_dataset(tmp_path_factory.mktemp("faces")))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def finished(runs: Path, faces: str, ray_local: None) -> tuple[TrainResult, list[TrainProgress]]:
    reports: list[TrainProgress] = []
    config = nano_config(samples=16, checkpoint__every_samples=8, **ZERO2)
    result = train(
        config, faces, "first", runs_dir=runs, workers=2, previews=False, on_progress=reports.append
    )
    return result, reports


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    raw = load_file(run_dir / "bundle" / "raw.safetensors")
    return raw | {
        f"ema.{k}": v for k, v in load_file(run_dir / "bundle" / "ema.safetensors").items()
    }


def test_a_run_leaves_a_bundle_and_reports_progress(finished) -> None:
    result, reports = finished
    assert (result.samples_seen, result.stopped, result.unsent) == (16, False, 0)
    bundle = load_bundle(result.bundle)
    assert (bundle.meta["samples_seen"], bundle.meta["workers"]) == (16, 2)
    assert [p.samples_seen for p in reports if p.metrics.get("loss")][-1] == 16
    assert reports[0].phase == "starting"
    assert reports[-1].phase == "done"
    assert any(p.message and "checkpoint" in p.message for p in reports)
    assert any(p.eta_s is not None for p in reports)
    assert not list(result.run_dir.glob(".visible-*"))


def test_mlflow_has_everything_about_the_run(finished) -> None:
    from mlflow import MlflowClient

    result, _ = finished
    client = MlflowClient(result.tracking_uri, result.tracking_uri)
    run = client.get_run(result.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["engine.zero_stage"] == "2"
    assert run.data.params["network.unet.layers"] == "1"
    history = client.get_metric_history(result.mlflow_run_id, "loss")
    assert [point.step for point in history] == [4, 8, 12, 16]
    assert {"samples_per_s", "system/cpu_utilization_percentage"} <= run.data.metrics.keys()
    (dataset,) = run.inputs.dataset_inputs
    meta = json.loads((result.bundle / "bundle.json").read_text())
    assert meta["index_digest"].startswith(dataset.dataset.digest)
    assert "split == 'train'" in dataset.dataset.profile
    assert run.data.tags["mlflow.source.git.commit"] == meta["git"]
    names = {a.path for a in client.list_artifacts(result.mlflow_run_id, "bundle")}
    assert "bundle/raw.safetensors" in names
    (version,) = client.search_model_versions("name='xnemo-first'")
    assert version.run_id == result.mlflow_run_id


def test_a_preview_shows_portrait_driving_video_and_result(
    finished, faces: str, tmp_path: Path
) -> None:
    from PIL import Image

    job = PreviewJob(str(finished[0].bundle), [faces], str(tmp_path), "shown")
    preview = make_preview(job)
    png, mp4 = preview.files
    with Image.open(png) as picture:
        assert picture.height % 16 == 0
        assert picture.width % (3 * 16) == 0
    assert Path(mp4).read_bytes()[4:8] == b"ftyp"
    assert preview.metrics.keys() == {
        "preview/l1", "preview/psnr", "preview/ssim", "preview/motion_correlation"
    }  # fmt: skip
    assert 0 < preview.metrics["preview/l1"] < 1
    assert abs(preview.metrics["preview/motion_correlation"]) <= 1


def test_the_same_command_again_has_nothing_to_do(finished, runs: Path, faces: str) -> None:
    result, _ = finished
    config = nano_config(samples=16, checkpoint__every_samples=8, **ZERO2)
    before = weights(result.run_dir)
    again = train(config, faces, "first", runs_dir=runs, workers=2)
    assert again.samples_seen == 16
    assert again.mlflow_run_id == result.mlflow_run_id
    assert again.metrics["loss"] == pytest.approx(result.metrics["loss"])
    assert all(torch.equal(before[k], v) for k, v in weights(result.run_dir).items())


def test_a_run_killed_before_its_last_record_is_concluded(finished, runs: Path, faces: str) -> None:
    result, _ = finished
    path = result.run_dir / "log.jsonl"
    *lines, last = path.read_text().splitlines(keepends=True)
    assert json.loads(last)["kind"] == "end"
    path.write_text("".join(lines))
    config = nano_config(samples=16, checkpoint__every_samples=8, **ZERO2)
    assert not train(config, faces, "first", runs_dir=runs, workers=2).stopped
    assert [e["kind"] for e in read_records(result.run_dir)][-2:] == ["model", "end"]


def test_another_run_of_that_name_is_refused(finished, runs: Path, faces: str) -> None:
    other = nano_config(samples=16, seed=1, **ZERO2)
    with pytest.raises(UserError, match="seed=0 and cannot resume with 1"):
        train(other, faces, "first", runs_dir=runs)
    with pytest.raises(UserError, match="already holds a run, at sample 16"):
        train(nano_config(samples=16), faces, "first", runs_dir=runs, resume="never")


@pytest.mark.slow
def test_a_run_that_is_made_longer_resumes_to_the_same_bits(
    finished, runs: Path, faces: str
) -> None:
    whole = nano_config(samples=24, checkpoint__every_samples=8, **ZERO2)
    first = nano_config(samples=12, checkpoint__every_samples=8, **ZERO2)
    train(whole, faces, "whole", runs_dir=runs, workers=2)
    train(first, faces, "halves", runs_dir=runs, workers=2, previews=False)
    reports: list[TrainProgress] = []
    result = train(whole, faces, "halves", runs_dir=runs, workers=2, on_progress=reports.append)
    assert any(p.message == "resumed at sample 12" for p in reports)
    assert result.samples_seen == 24
    straight, resumed = weights(runs / "whole"), weights(runs / "halves")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    shown = sorted(path.name for path in (runs / "whole" / "previews").iterdir())
    assert {"000000000024.mp4", "000000000024.png"} <= set(shown)
    steps = [r["samples_seen"] for r in read_log(runs / "whole") if "preview/l1" in r]
    assert steps[-1] == 24


@pytest.mark.slow
def test_unusable_settings_fail_in_the_worker_with_one_line(
    runs: Path, faces: str, ray_local: None
) -> None:
    config = nano_config(samples=16, engine__device="cuda")
    with pytest.raises(UserError, match=r"engine.device is cuda and there is no GPU") as refusal:
        train(config, faces, "refused", runs_dir=runs, workers=1, use_gpu=False)
    assert "\n" not in str(refusal.value)
