"""The public names of the package: light to import, and what they do."""

import subprocess
import sys

import pytest
from moving_faces import write_dataset
from tiny_run import nano_config

import xnemo


def test_importing_the_package_loads_no_heavy_library():
    heavy = ("torch", "diffusers", "ray", "cv2")
    code = f"import sys, xnemo; sys.exit(', '.join({set(heavy)!r} & set(sys.modules)) or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", xnemo.__all__)
def test_public_names_exist(name):
    assert getattr(xnemo, name)
    assert name in dir(xnemo)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = xnemo.trian


def test_training_in_this_process_gives_a_model_that_loads(tmp_path):
    faces = write_dataset(tmp_path / "faces")
    bundle = xnemo.train(nano_config(samples=4), str(faces), tmp_path / "run")
    model = xnemo.load_model(bundle)
    pipeline = xnemo.XNeMoPipeline.from_networks(model.networks, model.diffusion)
    assert pipeline.dtype == model.networks.denoiser.dtype
