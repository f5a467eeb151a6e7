"""Every example runs, at small size."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import skimage.data
from moving_faces import write_dataset
from PIL import Image
from untrained_model import write_bundle, write_video

from pipelines.demo.videos import plan_demo_videos, write_demo_videos
from preprocessing.storage.index import read_index
from xnemo.training.checkpoint.bundle import load_bundle

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# Settings of the smallest training run.
SMALL_RUN = ["samples=8", "global_batch=4", "micro_batch=4", "engine.kind=torch", "data.threads=1"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("faces"), shards=4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "bundle", averaged=True)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function that runs an example as a program and returns what it prints."""

    def run_example(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run_example


def portrait(folder: Path) -> Path:
    path = folder / "portrait.png"
    Image.fromarray(skimage.data.astronaut()).save(path)
    return path


def test_every_example_is_tested():
    text = Path(__file__).read_text()
    for example in EXAMPLES.iterdir():
        assert example.name == "__pycache__" or f'"{example.name}"' in text, example.name


@pytest.mark.slow
def test_animate(run, bundle: Path, tmp_path: Path):
    driving = write_video(tmp_path / "driving.mp4", frames=4, codec=None)
    printed = run("animate.py", bundle, portrait(tmp_path), driving, tmp_path / "out.mp4")
    assert printed.startswith("4 frames at 30 fps")
    assert (tmp_path / "out.mp4").stat().st_size > 0


def keys_in(printed: str) -> list[str]:
    return [line.split()[0] for line in printed.splitlines() if "_0000_" in line]


@pytest.mark.parametrize(
    "way",
    ["webdataset", "datasets", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.ray])],
)
def test_readers_of_whole_shards_see_every_clip_of_the_split_once(run, faces: Path, way: str):
    index = read_index(faces)
    printed = run("read_shards.py", faces, way)
    assert sorted(keys_in(printed)) == sorted(index[index.split == "train"].key)


def test_two_machines_of_two_workers_share_the_shards(run, faces: Path, monkeypatch):
    index = read_index(faces)
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        seen.append(keys_in(run("read_shards.py", faces, "webdataset")))
    assert all(seen)
    assert sorted(seen[0] + seen[1]) == sorted(index[index.split == "train"].key)


@pytest.mark.parametrize(("way", "lines"), [("torch", 4), ("duckdb", 3), ("pandas", 5)])
def test_the_index_serves_readers_of_single_clips(run, faces: Path, way: str, lines: int):
    assert len(run("read_shards.py", faces, way).splitlines()) == lines


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_preprocess_on_a_cluster(run, tmp_path: Path, ray_local: None):
    write_demo_videos(plan_demo_videos(tmp_path / "videos", people=1, seconds=2.2))
    small = ["--concurrency", 1, "tube.size=128", "filters.min_face_px=40"]
    printed = run("preprocess_on_a_cluster.py", tmp_path / "videos", tmp_path / "out", *small)
    assert printed.startswith("preprocessing done")
    assert (tmp_path / "out" / "index.parquet").exists()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_train_one_gpu_and_finetune_one_person(run, faces: Path, tmp_path: Path, ray_local: None):
    words = ["--runs-dir", tmp_path, "--recipe", "tiny", *SMALL_RUN]
    assert "8 samples, loss" in run("train_one_gpu.py", faces, *words)
    start = tmp_path / "one-gpu" / "bundle"
    run("finetune_one_person.py", start, faces, "--identity", "person0", *words)
    tuned = load_bundle(tmp_path / "one-person" / "bundle")
    assert tuned.meta["samples_seen"] == 8
    assert "person0" in tuned.config.data.filter


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_tune_search(run, faces: Path, tmp_path: Path, ray_local: None):
    space = ["--space", EXAMPLES / "space.yaml", "--runs-dir", tmp_path]
    few = ["--trials", 2, "--concurrent", 1, *SMALL_RUN]
    lines = run("tune_search.py", faces, *space, *few).splitlines()
    assert sum("optimizer.lr" in line for line in lines) == 2


def notebook_cells() -> list[str]:
    """Return the code of the notebook's cells."""
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    for cell in notebook["cells"]:
        required = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            required |= {"execution_count", "outputs"}
            assert cell["outputs"] == []
        assert cell.keys() == required
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]


def test_the_notebook_is_valid():
    for number, code in enumerate(notebook_cells()):
        compile(code, f"cell {number}", "exec")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_the_notebook_runs(tmp_path: Path, ray_local: None):
    videos = tmp_path / "videos"
    write_demo_videos(plan_demo_videos(videos, people=1, seconds=2.2))
    names: dict[str, object] = {}
    settings, *others = notebook_cells()
    exec(settings, names)
    small = {
        "VIDEOS": videos,
        "PORTRAIT": portrait(tmp_path),
        "DRIVING": write_video(tmp_path / "driving.mp4", frames=4, codec=None),
        "WORK": tmp_path / "work",
        "SAMPLES": 16,
        "STEPS": 2,
    }
    assert small.keys() <= names.keys()
    names |= small
    for code in others:
        exec(code, names)
    assert (tmp_path / "work" / "animated.mp4").exists()
