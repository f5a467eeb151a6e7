import os
import subprocess
import sys

import numpy as np
import pytest
import skimage.data

from pipelines.doctor.faces import check_faces
from preprocessing.errors import UserError
from preprocessing.faces import DETECTORS, make_detector
from preprocessing.faces.centerface import suppress
from preprocessing.faces.pose import FACE_POINTS, head_pose, rotation
from preprocessing.geometry import iou_matrix


@pytest.fixture(scope="module")
def picture():
    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def centerface():
    return make_detector("centerface")


def check_astronaut(face, scale=1.0):
    """The face in scikit-image's astronaut, by eye."""
    np.testing.assert_allclose(face.box / scale, [181, 60, 270, 178], atol=8)
    eyes_nose_mouth = [[203, 102], [247, 104], [223, 127], [202, 141], [242, 143]]
    np.testing.assert_allclose(face.landmarks_52 / scale, eyes_nose_mouth, atol=5)


def test_centerface_finds_the_face_at_any_size(centerface, picture):
    (face,) = centerface.detect(picture)
    assert face.score > 0.8
    check_astronaut(face)
    large = np.repeat(np.repeat(picture, 3, axis=0), 3, axis=1)
    (face,) = centerface.detect(large)
    check_astronaut(face, 3.0)
    odd = picture[:300, 40:391]
    (face,) = centerface.detect(odd)
    check_astronaut(face.moved(1, 1, 40, 0))


def test_centerface_is_deterministic_and_names_its_weights(centerface, picture):
    a, b = (centerface.detect(picture)[0] for _ in range(2))
    np.testing.assert_array_equal(a.box, b.box)
    sha256 = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
    assert dict(centerface.model_sha256) == {"detection": sha256}
    assert not centerface.recognises
    assert centerface.embed(picture, a.landmarks_52).shape == (0,)


def test_no_face_where_there_is_none(centerface):
    assert centerface.detect(skimage.data.coffee()) == []
    assert centerface.detect(np.zeros((64, 64, 3), np.uint8)) == []


def test_two_faces(centerface, picture):
    both = np.concatenate([picture[:256, 100:356], picture[:256, 100:356]], axis=1)
    assert len(centerface.detect(both)) == 2


@pytest.mark.assets
def test_insightface_pack_detects_and_recognises(assets_dir, picture):
    pack = assets_dir / "weights" / "insightface" / "models" / "dev_pack"
    detector = make_detector("insightface", str(pack))
    (face,) = detector.detect(picture)
    check_astronaut(face)
    assert detector.recognises
    assert set(detector.model_sha256) == {"detection", "recognition"}
    ours = detector.embed(picture, face.landmarks_52)
    assert np.linalg.norm(ours) == pytest.approx(1, abs=1e-5)
    dark = (picture * 0.7).astype(np.uint8)
    assert float(ours @ detector.embed(dark, face.landmarks_52)) > 0.8
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    (turned,) = detector.detect(mirrored)
    assert float(ours @ detector.embed(mirrored, turned.landmarks_52)) > 0.6


@pytest.mark.assets
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("given", ["dev_pack", "~/.insightface", "~/.insightface/models",
                                   "~/.insightface/models/dev_pack"])  # fmt: skip
def test_a_pack_is_found_by_every_name(assets_dir, tmp_path, monkeypatch, given, nested):
    pack = assets_dir / "weights" / "insightface" / "models" / "dev_pack"
    monkeypatch.setenv("HOME", str(tmp_path))
    place = tmp_path / ".insightface" / "models" / "dev_pack"
    place = place / "dev_pack" if nested else place
    place.parent.mkdir(parents=True)
    place.symlink_to(pack)
    found = make_detector("insightface", given)
    assert found.model_sha256 == make_detector("insightface", str(pack)).model_sha256
    assert "packs dev_pack" in next(c for c in check_faces() if "insightface" in c.name).found


def test_a_pack_is_found_in_insightface_s_own_folder(assets_dir):
    root = assets_dir / "weights" / "insightface"
    below, named = (make_detector("insightface", str(root / p)) for p in ("", "models/dev_pack"))
    assert below.model_sha256 == named.model_sha256


def test_a_folder_of_several_packs_is_refused(tmp_path):
    for name in ("large", "small"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "det.onnx").touch()
    with pytest.raises(UserError, match="several packs: large, small"):
        make_detector("insightface", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("centreface",), "did you mean 'centerface'"),
        (("yolo",), "choose one of centerface, insightface"),
        (("centerface", "/some/pack"), "which reads none"),
        (("insightface", "/no/such/pack"), "the face model folder /no/such/pack does not exist"),
    ],
)
def test_wrong_detector_arguments_raise(arguments, message):
    with pytest.raises(UserError, match=message):
        make_detector(*arguments)


def test_a_pack_without_a_detection_model_raises(tmp_path):
    with pytest.raises(UserError, match="has no detection model"):
        make_detector("insightface", str(tmp_path))


def test_onnx_runtime_starts_no_telemetry_thread():
    """ONNX Runtime's telemetry keeps one, which can abort a process that is done."""
    script = """
import os
from preprocessing.faces import make_detector
before = set(os.listdir("/proc/self/task"))
make_detector("centerface")
print(len(set(os.listdir("/proc/self/task")) - before), os.environ["ORT_DISABLE_TELEMETRY"])
"""
    environment = {k: v for k, v in os.environ.items() if k not in {"CI", "ORT_DISABLE_TELEMETRY"}}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "1"]


def test_names_are_those_of_the_config():
    assert DETECTORS == ("centerface", "insightface")


@pytest.mark.parametrize("angles", [(0, 0, 0), (35, 0, 0), (-50, 10, 15), (20, -25, -30)])
def test_pose_recovers_the_angles_of_the_average_face(angles):
    turned = FACE_POINTS @ rotation(np.deg2rad(np.array([angles], float)))[0].T
    found = head_pose(turned[None, :, :2] * 3.7 + 120)[0]
    # The prior on pitch costs a little where pitch is large.
    np.testing.assert_allclose(found, angles, atol=4)


def test_signs_of_the_pose_angles():
    points = FACE_POINTS[:, :2].copy()
    to_the_right, up, tilted = points.copy(), points.copy(), points.copy()
    to_the_right[2, 0] += 10
    up[2, 1] -= 10
    tilted[1, 1] += 15
    tilted[4, 1] += 12
    assert head_pose(to_the_right[None])[0, 0] > 10
    assert head_pose(up[None])[0, 1] > 5
    assert head_pose(tilted[None])[0, 2] > 5
    assert head_pose(np.zeros((0, 5, 2))).shape == (0, 3)


def test_overlap_and_suppression():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], float)
    np.testing.assert_allclose(iou_matrix(boxes, boxes)[0], [1, 1 / 3, 0])
    assert suppress(boxes, np.array([0.5, 0.9, 0.7]), 0.3) == [1, 2]
