"""The doctor: checks of the machine, broken libraries, and recipes."""

import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

import pipelines.doctor as doctor
from pipelines.doctor import recipe
from pipelines.doctor.check import Check
from pipelines.doctor.faces import check_faces
from pipelines.doctor.gpus import find_gpu
from pipelines.doctor.machine import check_machine
from pipelines.doctor.recipe import check_recipe
from pipelines.doctor.services import check_services
from pipelines.doctor.video import check_decoders
from preprocessing.errors import UserError
from xnemo.config import override
from xnemo.model.cost import TrainingCost
from xnemo.recipes import get_recipe


def by_name(checks: Iterator[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_what_the_project_needs_is_found_here() -> None:
    checks = by_name(check_machine()) | by_name(check_faces()) | by_name(check_services())
    assert {checks[n].state for n in ("Python", "torch", "detector centerface")} == {"ok"}
    assert {checks[n].state for n in ("ray", "DeepSpeed", "MLflow")} == {"ok"}
    for check in checks.values():
        assert check.state == "ok" or check.remedy, f"{check.name} has no remedy"
        assert "\n" not in check.found + check.remedy


def test_decoders_are_tried_on_a_real_clip() -> None:
    checks = by_name(check_decoders())
    assert (checks["decoder pyav"].state, checks["decoder decord"].state) == ("ok", "ok")


def test_a_decoder_that_crashes_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.doctor import video

    monkeypatch.setitem(video._PROBES, "decord", "import os; os.kill(os.getpid(), 11)")
    check = by_name(check_decoders())["decoder decord"]
    assert check.state == "warn"
    assert "crashes (signal 11)" in check.found


def test_a_broken_check_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Check]:
        yield Check("before", "ok", "")
        raise OSError("libfoo.so: cannot open shared object file\nmore")

    monkeypatch.setattr(doctor, "check_decoders", broken)
    checks = {check.name: check for check in doctor.run_doctor()}
    assert checks["before"].state == "ok"
    assert checks["decoders"].state == "missing"
    assert "libfoo" in checks["decoders"].found
    assert "more" not in checks["decoders"].found
    assert "MLflow" in checks


def test_missing_desktop_libraries_suggest_headless_opencv(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # None in its place makes the import fail.
    monkeypatch.setitem(sys.modules, "cv2", None)
    (check,) = [*check_decoders(), *check_faces()]
    assert (check.name, check.state) == ("OpenCV", "missing")
    assert "opencv-python-headless" in check.remedy


def test_unreachable_services_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    checks = by_name(check_services())
    assert (checks["ray cluster"].state, checks["tracking"].state) == ("missing", "warn")


def test_an_invalid_tracking_uri_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    check = by_name(check_services())["tracking"]
    assert check.state == "missing"
    assert "'./mlruns' is not an MLflow store" in check.found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("h100", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("rtx4090", "RTX 4090"),
        ("A100", "A100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA L40S", "L40S"),
    ],
)
def test_gpus_are_found_however_they_are_written(name: str, found: str) -> None:
    assert find_gpu(name).name == found


def test_an_unknown_gpu_gets_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'H100'"):
        find_gpu("H10")
    for other in ("H1000", "NVIDIA L40", "Tesla T40"):
        with pytest.raises(UserError, match="is listed"):
            find_gpu(other)


def test_this_machine_s_own_gpu_may_be_one_that_nobody_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    about = SimpleNamespace(name="NVIDIA Unheard Of", total_memory=10**10)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    checks = by_name(check_recipe(get_recipe("tiny")))
    assert "10 GB on NVIDIA Unheard Of" in checks["recipe, memory"].found
    assert "samples/s" not in checks["recipe, arithmetic"].found


def test_a_recipe_that_does_not_fit_is_given_a_batch_that_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cost(network: object, batch: int, **_: object) -> TrainingCost:
        state = 1e9
        return TrainingCost(
            {"denoiser": 7}, 7, 1e9, 0.0, state, state, state, state, state, 0.3e9 * batch
        )

    monkeypatch.setattr(recipe, "training_cost", cost)
    config = override(get_recipe("tiny"), ["micro_batch=100000"])
    check = by_name(check_recipe(config, "T4"))["recipe, memory"]
    assert check.state == "warn"
    proposed = int(re.fullmatch(r"set micro_batch=(\d+)", check.remedy).group(1))  # type: ignore[union-attr]
    smaller = override(config, [f"micro_batch={proposed}"])
    assert by_name(check_recipe(smaller, "T4"))["recipe, memory"].state == "ok"


def test_weights_that_are_not_here_are_named() -> None:
    config = override(get_recipe("tiny"), ["init_from=/nowhere/bundle"])
    checks = by_name(recipe._weights(config))
    assert checks["recipe, init_from"].state == "warn"
    assert "/nowhere/bundle" in checks["recipe, init_from"].found


def test_the_doctor_starts_neither_ray_nor_a_tracking_store() -> None:
    # Another test of this process may have started Ray: the doctor must change nothing.
    def ray_runs() -> bool:
        return "ray" in sys.modules and sys.modules["ray"].is_initialized()

    before = ray_runs()
    list(check_services())
    assert ray_runs() == before
