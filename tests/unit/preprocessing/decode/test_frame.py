"""Crops of frames at every position, size, orientation and depth against plain cropping."""

from fractions import Fraction
from itertools import product

import av
import numpy as np
import pytest
from PIL import Image

from preprocessing.decode.frame import Frame, frame_from_rgb, plane_array
from preprocessing.decode.pixels.orientation import Orientation, orientation_of

W, H = 96, 64


def _frame(
    pix_fmt: str = "yuv420p", orientation: Orientation | None = None, seed: int = 0
) -> Frame:
    """A smooth random picture, so that chroma's grid hardly matters."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(40, 216, (5, 7, 3)).astype(np.uint8))
    rgb = np.asarray(small.resize((W, H), Image.Resampling.BICUBIC))
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return Frame(picture.reformat(format=pix_fmt), 0, 0, orientation or Orientation())


TURNS = [
    Orientation(transpose=t, flip_x=x, flip_y=y) for t, x, y in product((False, True), repeat=3)
]


@pytest.mark.parametrize("orientation", TURNS, ids=str)
@pytest.mark.parametrize("box", [(8, 4, 40, 36), (7, 3, 41, 37), (0, 0, 64, 64), (31, 0, 63, 64)])
def test_crops_equal_regions_of_the_frame(orientation: Orientation, box: tuple[int, ...]) -> None:
    frame = _frame(orientation=orientation)
    whole = frame.rgb().astype(int)
    assert whole.shape == (frame.height, frame.width, 3)
    x0, y0, x1, y1 = box
    x1, y1 = min(x1, frame.width), min(y1, frame.height)
    crop = frame.rgb_crop((x0, y0, x1, y1), (x1 - x0, y1 - y0)).astype(int)
    expected = whole[y0:y1, x0:x1]
    # Chroma at the very edge of an aligned crop has no neighbour to blend with.
    assert np.abs(crop - expected)[2:-2, 2:-2].max() <= 2
    assert np.abs(crop - expected).mean() <= 1


@pytest.mark.parametrize("orientation", TURNS, ids=str)
def test_scaled_crops_equal_regions_of_the_scaled_frame(orientation: Orientation) -> None:
    frame = _frame(orientation=orientation)
    whole = Image.fromarray(frame.rgb())
    for box in [(8, 4, 48, 44), (7.25, 3.5, 47.75, 44.0)]:
        expected = np.asarray(whole.resize((32, 32), Image.Resampling.BICUBIC, box=box)).astype(int)
        got = frame.rgb_crop(box, 32).astype(int)
        planes = frame.crop(box, 32)
        assert np.abs(got - expected).mean() < 1.5
        luma = (plane_array(planes, 0).astype(float) - 16) / 219 * 255
        assert np.abs(luma - expected @ np.array([0.2126, 0.7152, 0.0722])).mean() < 2.5


def test_outside_the_frame_is_black() -> None:
    frame = _frame()
    crop = frame.rgb_crop((-16, -16, 48, 48), 64)
    assert not crop[:16].any()
    assert not crop[:, :16].any()
    assert np.abs(crop[16:, 16:].astype(int) - frame.rgb()[:48, :48]).mean() < 1
    assert not frame.rgb_crop((200, 200, 264, 264), 32).any()
    planes = frame.crop((-64, -64, 0, 0), 32)
    assert set(np.unique(plane_array(planes, 0))) == {16}
    assert set(np.unique(plane_array(planes, 1))) == {128}


@pytest.mark.parametrize(
    "pix_fmt",
    [
        "yuv420p", "yuv422p", "yuv444p", "yuvj420p", "nv12", "yuyv422", "yuv420p10le", "p010le",
        "gray", "gray10le", "rgb24", "bgra", "gbrp", "yuv411p", "yuv410p", "yuva420p",
    ],
)  # fmt: skip
def test_every_pixel_format_crops(pix_fmt: str) -> None:
    frame = _frame(pix_fmt)
    whole = frame.rgb().astype(int)
    for box, size in (((8, 4, 40, 36), 32), ((7, 3, 39, 35), 32)):
        got = frame.rgb_crop(box, size).astype(int)
        expected = whole[box[1] : box[3], box[0] : box[2]]
        assert np.abs(got - expected).mean() < (4 if "41" in pix_fmt else 1.5)
        assert frame.crop(box, size).format.name == "yuv420p"
    assert frame.luma_scaled(32).shape == (21, 32)
    assert frame.rgb_scaled(48).shape == (32, 48, 3)


def test_scaling_never_enlarges() -> None:
    frame = _frame()
    assert frame.rgb_scaled(1000).shape == (H, W, 3)
    assert frame.luma_scaled(1000).shape == (H, W)


def test_crops_do_not_share_memory() -> None:
    """Encoding a crop must not reach back into the decoder's frame."""
    frame = _frame()
    planes = frame.crop((0, 0, W, H), (W, H))
    before = plane_array(frame.video_frame, 0).copy()
    plane_array(planes, 0)[:] = 0
    assert np.array_equal(plane_array(frame.video_frame, 0), before)


def test_bad_boxes_are_refused() -> None:
    frame = _frame()
    for box, size in (
        ((5, 5, 5, 9), 8),
        ((9, 5, 5, 9), 8),
        ((0, 0, 8, 8), 0),
        ((0, 0, 8, 8), 99999),
    ):
        with pytest.raises(ValueError, match="cannot crop"):
            frame.rgb_crop(box, size)


def test_frames_from_arrays() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    frame = frame_from_rgb(rgb, pts_us=5, index=2)
    assert np.array_equal(frame.rgb(), rgb)
    assert np.array_equal(frame.rgb_crop((3, 5, 20, 22), 17), rgb[5:22, 3:20])


@pytest.mark.parametrize(
    ("aspect", "size"),
    [
        (Fraction(4, 3), (128, 64)),
        (Fraction(1, 2), (96, 128)),
        (Fraction(99), (96, 64)),
        (None, (96, 64)),
    ],
)
def test_pixel_aspect(aspect: Fraction | None, size: tuple[int, int]) -> None:
    frame = _frame(orientation=orientation_of(None, aspect))
    assert (frame.width, frame.height) == size
    assert frame.rgb().shape == (size[1], size[0], 3)
    crop = frame.rgb_crop((10, 10, 50, 50), 40).astype(int)
    assert np.abs(crop - frame.rgb()[10:50, 10:50]).mean() < 1.5


@pytest.mark.parametrize("orientation", TURNS, ids=str)
def test_boxes_and_pixels_have_one_orientation(orientation: Orientation) -> None:
    """The displayed frame in a box is the coded frame in the coded box, rotated."""
    coded = np.arange(W * H, dtype=np.int32).reshape(H, W)
    shown = orientation.apply(coded)
    x0, y0, x1, y1 = 3, 5, 21, 17
    a0, b0, a1, b1 = (int(edge) for edge in orientation.coded_box((x0, y0, x1, y1), W, H))
    assert np.array_equal(shown[y0:y1, x0:x1], orientation.apply(coded[b0:b1, a0:a1]))


def test_planes_exclude_row_padding() -> None:
    """Planes are wider in memory than on the screen."""
    frame = _frame()
    assert plane_array(frame.video_frame, 0).shape == (H, W)
    assert plane_array(frame.video_frame, 1).shape == (H // 2, W // 2)


@pytest.mark.parametrize(
    "box", [(0, 0, 161, 121), (101, 72, 161, 121), (90, 70, 150, 110), (120, 90, 170, 130)]
)
@pytest.mark.parametrize("orientation", TURNS[:5:2], ids=str)
def test_crops_of_odd_frames(box: tuple[int, ...], orientation: Orientation) -> None:
    """The last row and column of an odd frame have only half a chroma sample."""
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(40, 216, (6, 8, 3)).astype(np.uint8))
    rgb = np.asarray(small.resize((161, 121), Image.Resampling.BICUBIC))
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    frame = Frame(picture.reformat(format="yuv420p"), 0, 0, orientation)
    whole = np.zeros((200, 200, 3), dtype=int)
    whole[: frame.height, : frame.width] = frame.rgb()
    x0, y0, x1, y1 = box
    crop = frame.rgb_crop(box, (x1 - x0, y1 - y0)).astype(int)
    # libswscale stretches chroma over an odd frame by up to half a sample; a crop of even size
    # has none of that. Brightness must agree, colour nearly.
    difference = crop - whole[y0:y1, x0:x1]
    assert np.abs(difference @ np.array([0.299, 0.587, 0.114])).mean() <= 1
    assert np.abs(difference).mean() <= 2.5
