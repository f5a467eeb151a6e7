import math

import numpy as np
import pytest

from pipelines.demo.contact_sheet import contact_sheet
from pipelines.demo.record import held_out_metrics, record_results
from pipelines.demo.stages import Stages, family_memory
from pipelines.demo.trials import held_out_trials
from pipelines.demo.videos import plan_demo_videos, write_demo_videos
from pipelines.tracking import RunLog, default_uri
from pipelines.train.job import TrainResult
from xnemo.evaluation.reenactment import STILL, TRAINED, ReenactmentScores


def test_truth_shows_the_portrait_in_the_driving_motion(tmp_path):
    clips = plan_demo_videos(tmp_path, people=1, seconds=0.2, size=128)
    write_demo_videos([clip for clip in clips if clip.split == "held_out"])
    cross, *own = held_out_trials(clips, every=2)
    assert cross.name == "person-1 driven by person-0"
    assert [trial.name for trial in own] == [
        "person-1 driven by their own clip",
        "person-2 driven by their own clip",
    ]
    for trial in (cross, *own):
        assert len(trial.driving) == len(trial.truth) == 3
        assert trial.portrait.shape == (128, 128, 3)
    # The held-out person's own clip shows the truth but for the codec's loss.
    assert abs(own[0].truth.astype(int) - own[0].driving).mean() < 4
    assert abs(cross.truth.astype(int) - cross.driving).mean() > 8


def test_contact_sheet_shows_rows_over_each_other():
    clip = [np.full((20, 20, 3), shade, np.uint8) for shade in (10, 100, 200)]
    sheet = contact_sheet(clip[0], [("one", clip), ("two", clip[::-1])], columns=3, side=40)
    shades = {tuple(colour) for colour in np.asarray(sheet).reshape(-1, 3).tolist()}
    assert {(10, 10, 10), (100, 100, 100), (200, 200, 200)} <= shades


def test_stages_are_timed_and_weighed_even_where_they_fail():
    stages = Stages()
    with pytest.raises(SimpleError), stages.measure("one"):
        raise SimpleError
    with stages.measure("two"):
        pass
    assert list(stages.seconds) == ["one", "two"]
    assert stages.peak_memory >= 0.5 * family_memory() > 10 * 2**20


class SimpleError(Exception):
    pass


def test_scores_have_names_that_mlflow_takes():
    scores = [
        ReenactmentScores(STILL, l1=0.1, psnr=20, ssim=0.9, lpips=math.nan, motion_correlation=0.5)
    ]
    metrics = held_out_metrics(scores)
    assert metrics["held_out/trained_driving_video_held_still/l1"] == 0.1
    # The perceptual distance needs weights that the demo has not.
    assert len(metrics) == 4
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.slow
def test_results_go_to_mlflow_once(tmp_path):
    from mlflow import MlflowClient

    run_dir = tmp_path / "runs" / "demo"
    uri = default_uri(tmp_path / "runs")
    log = RunLog(run_dir)
    log.start(name="demo", experiment="xnemo")
    log.end("FINISHED")
    log.close()
    picture = tmp_path / "sheet.png"
    picture.write_bytes(b"png")
    scores = [
        ReenactmentScores(
            TRAINED, l1=0.1, psnr=20, ssim=0.9, lpips=math.nan, motion_correlation=0.5
        )
    ]
    training = TrainResult(
        run_dir=run_dir,
        bundle=run_dir / "bundle",
        metrics={},
        samples_seen=64,
        stopped=False,
        tracking_uri=uri,
        mlflow_run_id=None,
        unsent=0,
        seconds=1.0,
    )
    for _ in range(2):
        assert record_results(training, [picture], scores) is None
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("xnemo").experiment_id])
    assert run.data.metrics["held_out/trained/motion_correlation"] == 0.5
    assert run.info.status == "FINISHED"
    assert [f.path for f in client.list_artifacts(run.info.run_id, "samples")] == [
        "samples/sheet.png"
    ]
    history = client.get_metric_history(run.info.run_id, "held_out/trained/l1")
    assert [(m.step, m.value) for m in history] == [(64, 0.1)]
