"""The public names of `preprocessing`, and how little their import loads."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import preprocessing
from preprocessing.decode import open_video
from preprocessing.errors import UserError

HEAVY = {"torch", "ray", "cv2", "onnxruntime", "av", "numpy", "pyarrow", "pandas"}


def test_import_loads_no_heavy_library():
    code = f"import sys, preprocessing; sys.exit(', '.join({HEAVY!r} & set(sys.modules)) or 0)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_every_public_name_resolves():
    assert set(preprocessing.__all__) <= set(dir(preprocessing))
    values = {name: getattr(preprocessing, name) for name in preprocessing.__all__}
    assert values.pop("__version__") == version("xnemo")
    assert all(value.__name__ == name for name, value in values.items())


def test_unknown_names_raise_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        preprocessing.no_such_name  # noqa: B018


def test_optional_decoders_are_not_imported_by_the_main_path():
    code = (
        "import sys, preprocessing.chunk.task, preprocessing.dataset.chunking;"
        "sys.exit(', '.join({'decord', 'torchcodec'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("backend", "extra"), [("decord", "preprocess"), ("torchcodec", "torchcodec")]
)
def test_a_missing_decoder_is_reported_with_its_extra(monkeypatch, backend, extra):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{backend} is not installed.*xnemo\[{extra}\]"):
        open_video(b"", backend)
