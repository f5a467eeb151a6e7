"""Windows, scheduler, crops, boxes and smoothing against numbers of the authors' own code."""

import json

import numpy as np
import pytest

from preprocessing import geometry
from xnemo.diffusion.sampler import make_windows
from xnemo.diffusion.schedule import DiffusionConfig, NoiseSchedule
from xnemo.diffusion.scheduler import make_scheduler


@pytest.fixture(scope="module")
def misc(official_dir):
    return json.loads((official_dir / "misc.json").read_text())


def test_windows(misc):
    assert misc["context_windows"]
    for case in misc["context_windows"]:
        assert (
            make_windows(case["num_frames"], case["context"], case["overlap"], case["offset"])
            == case["windows"]
        )


def test_timesteps_and_signal_left(misc):
    golden = misc["scheduler"]
    scheduler = make_scheduler(DiffusionConfig())
    for steps, expected in golden["timesteps"].items():
        scheduler.set_timesteps(int(steps))
        assert scheduler.timesteps.tolist() == expected
    ours = NoiseSchedule(DiffusionConfig()).alphas_cumprod
    for step, expected in golden["alphas_cumprod"].items():
        assert float(scheduler.alphas_cumprod[int(step)]) == expected
        assert float(ours[int(step)]) == expected
    assert float(scheduler.final_alpha_cumprod) == golden["final_alpha_cumprod"]
    assert float(scheduler.init_noise_sigma) == golden["init_noise_sigma"]
    for name, expected in golden["config"].items():
        assert scheduler.config[name] == expected, name


def test_reference_and_tight_crops(misc):
    for case in misc["bbox"]:
        outside, *expected = case["get_bbox"]
        box = geometry.reference_crop_box(case["bbox"], case["frame"])
        assert box.tolist() == expected
        assert (geometry.overshoot(box, case["frame"]).max() > 0) == outside == case["crop_has_pad"]
        assert geometry.tight_box(case["bbox"], case["frame"]).tolist() == case["scale_bb_1p1"]
        image = np.random.default_rng(0).integers(0, 255, (*case["frame"], 3), dtype=np.uint8)
        assert list(geometry.crop(image, box).shape) == case["ref_crop_shape"]


def test_face_position_and_scale(misc):
    for case in misc["bbox_param"]:
        assert geometry.box_vector(case["bbox"], case["ref"]).tolist() == case["value"]


def test_boxes_from_centres(misc):
    for case in misc["bbox_from_center"]:
        box = geometry.centred_box(case["center"], case["length"], case["size"])
        assert box.tolist() == case["value"]


def test_smoothed_centres(misc):
    case = misc["center_smoothing"]
    smoothed = geometry.smooth_centres(case["raw"], case["sigma"])
    assert smoothed.tolist() == case["smoothed"]
