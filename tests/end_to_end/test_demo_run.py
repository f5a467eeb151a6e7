"""The demo at its smallest: every stage is the real one, only sizes are cut down."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time

import av
import pytest
from PIL import Image
from rich.console import Console

from pipelines.demo.run import DemoConfig, run_demo
from pipelines.demo.summary import show_summary
from pipelines.inspect.examine import examine
from preprocessing.storage.index import read_index
from xnemo.training.checkpoint.bundle import load_bundle
from xnemo.training.monitor.run_log import read_log

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]

SMALL = DemoConfig(people=4, clip_seconds=2.2, train_samples=32, compare_every=25)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    reports = []
    out = tmp_path_factory.mktemp("demo")
    result = run_demo(out, SMALL, on_progress=lambda *progress: reports.append(progress))
    return out, result, reports


def test_every_stage_leaves_what_it_promises(demo):
    out, result, reports = demo
    assert result.dataset.kept == 4
    assert len(result.clips) == 7
    held_out = {clip.path.name for clip in result.clips if clip.split == "held_out"}
    assert not held_out & set(read_index(out / "dataset")["source"])
    assert load_bundle(result.training.bundle).meta["samples_seen"] == 32
    with av.open(str(result.animation)) as container:
        assert len(list(container.decode(video=0))) == 55
    assert result.finetuned.stat().st_size > 0
    assert Image.open(result.sheet).width > 1000
    assert Image.open(result.portrait).size == (384, 384)
    stages = {stage.partition(":")[0] for stage, *_ in reports}
    assert (
        stages
        == {"make videos", "animate", "preprocess", "fine-tune", "compare"}
        == set(result.seconds) - {"animate again"}
    )
    assert 0 < result.peak_memory < 8 * 2**30


def test_the_comparison_is_printed_and_kept_as_it_is(demo):
    out, result, _ = demo
    kept = json.loads((out / "demo.json").read_text())
    assert [s["method"] for s in kept["scores"]] == [s.method for s in result.scores]
    still = next(s for s in result.scores if s.method == "portrait repeated")
    assert still.motion_correlation == 0
    console = Console(file=io.StringIO(), width=160)
    show_summary(result, console)
    text = console.file.getvalue()
    for wanted in (
        *(s.method for s in result.scores),
        "diffusion loss",
        "next: ",
        "xnemo inspect",
    ):
        assert wanted in text


def test_the_run_is_tracked_with_its_samples(demo):
    from mlflow import MlflowClient

    _, result, _ = demo
    assert result.unsent is None
    client = MlflowClient(result.training.tracking_uri)
    run = client.get_run(result.training.mlflow_run_id)
    assert run.data.params["samples"] == "32"
    assert "held_out/trained/l1" in run.data.metrics
    files = {f.path for f in client.list_artifacts(run.info.run_id, "samples")}
    assert files == {"samples/compared.png", "samples/finetuned.mp4"}
    assert client.list_artifacts(run.info.run_id, "bundle")


def test_inspect_knows_all_of_it(demo):
    out, result, _ = demo
    assert examine(str(out / "dataset")).facts["clips kept"] == 4
    assert examine(str(result.training.run_dir)).facts["samples seen"] == 32
    assert examine(str(result.portrait)).facts["faces"] == 1
    assert examine(str(result.animation)).facts["codec"] == "h264"


def test_the_same_call_again_resumes(demo):
    out, result, _ = demo
    again = run_demo(out, SMALL)
    assert again.dataset.processed == 0
    assert again.training.samples_seen == 32
    assert again.scores == result.scores


def test_a_demo_interrupted_in_training_shows_no_half_trained_model(demo, tmp_path):
    for folder in ("videos", "dataset"):
        shutil.copytree(demo[0] / folder, tmp_path / folder)
    sizes = ["people=4", "clip_seconds=2.2", "train_samples=3200"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli.main", "demo", "--output-dir", tmp_path, *sizes],
        stderr=subprocess.PIPE,
        text=True,
    )
    run = tmp_path / "runs" / "demo"
    deadline = time.monotonic() + 300
    while not ((run / "log.jsonl").exists() and any("loss" in r for r in read_log(run))):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted; run the same command again to resume" in printed
    assert read_log(run)[-1]["event"] == "stopped"
    assert not list(tmp_path.glob("finetuned.*"))
    assert not (tmp_path / "demo.json").exists()
