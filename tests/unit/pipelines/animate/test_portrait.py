"""Portraits as people have them look as they do in a viewer; what is none is told in one line."""

import re

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from pipelines.animate.portrait import read_portrait
from preprocessing.errors import UserError

FACE = skimage.data.astronaut()[:128, 128:320]
GREY = FACE.mean(-1).round().astype(np.uint8)


def test_a_turned_photograph_comes_upright(tmp_path):
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:5] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter turn clockwise
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    upright = read_portrait(tmp_path / "turned.png")
    assert upright.shape == (30, 20, 3)
    assert upright[:, -5:].min() == 255


@pytest.mark.parametrize(
    ("mode", "name", "tolerance"),
    [("CMYK", "a.jpg", 6), ("P", "a.gif", 20), ("RGB", "a.webp", 6), ("LAB", "a.tif", 3)],
)
def test_every_kind_of_colour_is_read(mode, name, tolerance, tmp_path):
    Image.fromarray(FACE).convert(mode).save(tmp_path / name)
    read = read_portrait(tmp_path / name)
    assert read.shape == FACE.shape
    assert np.abs(read.astype(int) - FACE).mean() < tolerance


def test_sixteen_bits_and_grey_keep_their_brightness(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), GREY)
    cv2.imwrite(str(tmp_path / "deep.png"), GREY.astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "deep_colour.png"), FACE[..., ::-1].astype(np.uint16) * 257)
    wanted = np.repeat(GREY[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_portrait(tmp_path / "grey.png"), wanted)
    np.testing.assert_array_equal(read_portrait(tmp_path / "deep.png"), wanted)
    np.testing.assert_array_equal(read_portrait(tmp_path / "deep_colour.png"), FACE)


def test_what_is_transparent_is_white_and_not_what_lies_beneath(tmp_path):
    alpha = np.full(FACE.shape[:2], 255, np.uint8)
    alpha[60:] = 0
    Image.fromarray(np.dstack([FACE, alpha])).save(tmp_path / "cut.png")
    read = read_portrait(tmp_path / "cut.png")
    np.testing.assert_array_equal(read[:60], FACE[:60])
    assert read[60:].min() == 255


def test_what_is_no_portrait_is_told_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    Image.fromarray(FACE).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "numbers.tif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", FACE[..., 0].size // 3)
    for name, reason in {
        "missing.png": "there is no portrait",
        "folder.png": "is a folder",
        "empty.png": "cannot be read as an image",
        "cut.jpg": "too large",
        "numbers.tif": "too large",
    }.items():
        with pytest.raises(UserError, match=reason) as caught:
            read_portrait(tmp_path / name)
        assert re.search(rf"{re.escape(name)}.*;", str(caught.value))
    monkeypatch.undo()
    for name, reason in {"cut.jpg": "truncated", "numbers.tif": "floating-point"}.items():
        with pytest.raises(UserError, match=reason):
            read_portrait(tmp_path / name)
