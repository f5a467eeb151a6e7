"""Colour: every matrix and range against the standards' own equations, and HDR brought to SDR."""

import io
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest

from preprocessing.decode import Backend, BackendRefusalError, DecodeError, decode_clip, open_video
from preprocessing.decode.frame import plane_array
from preprocessing.decode.pixels.colour import (
    REFERENCE_WHITE_NITS,
    Colour,
    colour_of,
    to_display_rgb,
)
from preprocessing.encode.clip_encoder import encode_clip

# Luma weights (Kr, Kb) of each matrix, from ITU-R BT.601, BT.709, BT.2020, SMPTE 240M and FCC
# 73.682.
LUMA_WEIGHTS: dict[str, tuple[float, float]] = {
    "601": (0.299, 0.114),
    "709": (0.2126, 0.0722),
    "2020": (0.2627, 0.0593),
    "240m": (0.212, 0.087),
    "fcc": (0.30, 0.11),
}
# Mean distance from the exact matrix that the contract allows, in levels of 255.
ALLOWED = 2.0
# What the reference reaches away from colour edges.
REFERENCE = 0.35
MATRIX_CODE = {"601": 6, "709": 1, "2020": 9, "240m": 7, "fcc": 4}
TILES = (8, 12)
TILE = 32


def yuv_to_rgb_exact(yuv: np.ndarray, matrix: str, full_range: bool) -> np.ndarray:
    """Convert 8-bit YCbCr [...,3] to R'G'B' in 0–255 by the standard's equations, in float64."""
    kr, kb = LUMA_WEIGHTS[matrix]
    y, u, v = (np.asarray(yuv[..., i], dtype=np.float64) for i in range(3))
    if full_range:
        y, u, v = y / 255, (u - 128) / 255, (v - 128) / 255
    else:
        y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    red = y + 2 * (1 - kr) * v
    blue = y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.stack([red, green, blue], axis=-1) * 255, 0, 255)


def _tiles(full_range: bool, depth: int = 8) -> np.ndarray:
    """Random YCbCr [8, 12, 3] whose RGB stays inside the cube, so that nothing is clipped."""
    rng = np.random.default_rng(3)
    tiles = np.stack(
        [
            rng.integers(70, 180, TILES),
            rng.integers(100, 157, TILES),
            rng.integers(100, 157, TILES),
        ],
        -1,
    )
    assert full_range in (True, False)
    return tiles << (depth - 8)


def _lossless(
    path: Path, tiles: np.ndarray, tags: tuple[int, int, int, int], pix_fmt: str = "yuv420p"
) -> None:
    """Write three equal frames of flat tiles without loss."""
    deep = "10" in pix_fmt
    frame = av.VideoFrame(TILES[1] * TILE, TILES[0] * TILE, pix_fmt)
    for index in range(3):
        size = TILE if index == 0 or "444" in pix_fmt else TILE // 2
        samples = np.kron(tiles[..., index], np.ones((size, size)))
        plane = plane_array(frame, index, 2 if deep else 1)
        plane[:] = samples.astype("<u2" if deep else np.uint8).view(np.uint8).reshape(plane.shape)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx265" if deep else "libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pix_fmt
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_trc, context.color_primaries = tags
        stream.options = {"x265-params": "lossless=1:log-level=0"} if deep else {"qp": "0"}
        for number in range(3):
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def _middle(picture: np.ndarray, tile: int = TILE) -> np.ndarray:
    return picture[tile // 2 :: tile, tile // 2 :: tile].astype(np.float64)


@pytest.mark.parametrize(
    ("matrix", "full_range"), list(product(("601", "709", "240m", "fcc"), (False, True)))
)
def test_tagged_matrix_and_range(
    tmp_path: Path, backend: Backend, matrix: str, full_range: bool
) -> None:
    path, tiles = tmp_path / "tiles.mp4", _tiles(full_range)
    _lossless(path, tiles, (MATRIX_CODE[matrix], 2 if full_range else 1, 1, 1))
    exact = yuv_to_rgb_exact(tiles, matrix, full_range)
    try:
        reader = open_video(path, backend)
    except BackendRefusalError:
        assert backend != "pyav"
        return
    wrong = np.abs(_middle(reader.frames_at([1])[0]) - exact).mean()
    assert wrong <= (REFERENCE if backend == "pyav" else ALLOWED)


@pytest.mark.parametrize(("matrix", "full_range"), list(product(MATRIX_CODE, (False, True))))
def test_all_conversions_of_a_frame_agree_in_colour(
    tmp_path: Path, matrix: str, full_range: bool
) -> None:
    path, tiles = tmp_path / "tiles.mp4", _tiles(full_range)
    _lossless(path, tiles, (MATRIX_CODE[matrix], 2 if full_range else 1, 1, 1))
    exact = yuv_to_rgb_exact(tiles, matrix, full_range)
    frame = next(iter(open_video(path).frames()))
    width, height = frame.width, frame.height
    half = frame.rgb_scaled(width // 2)
    assert half.shape == (height // 2, width // 2, 3)
    assert np.abs(_middle(half, TILE // 2) - exact).mean() <= REFERENCE
    aligned = frame.rgb_crop((0, 0, width, height), (width // 2, height // 2))
    assert np.abs(_middle(aligned, TILE // 2) - exact).mean() <= REFERENCE
    shifted = frame.rgb_crop((1, 1, width - 1, height - 1), (width - 2, height - 2))
    assert np.abs(_middle(frame.rgb()) - exact).mean() <= REFERENCE
    assert np.array_equal(shifted, frame.rgb()[1:-1, 1:-1])
    # The encoder's way: planes in BT.709 limited range, read back as such.
    planes = frame.crop((0, 0, width, height), (width // 2, height // 2))
    luma = plane_array(planes, 0)[TILE // 4 :: TILE // 2, TILE // 4 :: TILE // 2]
    chroma = [
        plane_array(planes, i)[TILE // 8 :: TILE // 4, TILE // 8 :: TILE // 4] for i in (1, 2)
    ]
    rgb = yuv_to_rgb_exact(np.stack([luma, *chroma], -1), "709", False)
    # Two roundings to 8-bit YCbCr lie between.
    assert np.abs(rgb - exact).mean() <= 1.0
    brightness = frame.luma_scaled(width)
    kr, kb = LUMA_WEIGHTS[matrix]
    expected = exact @ np.array([kr, 1 - kr - kb, kb])
    assert np.abs(_middle(brightness) - expected).mean() <= 1.0


@pytest.mark.parametrize(("width", "height", "matrix"), [(640, 480, "601"), (1280, 720, "709")])
def test_untagged_colour_is_decided_by_size(width: int, height: int, matrix: str) -> None:
    colour = _colour(width=width, height=height)
    assert colour == Colour(matrix, full_range=False, transfer="sdr", wide_gamut=False)  # type: ignore[arg-type]


def test_unsupported_matrices_are_refused() -> None:
    with pytest.raises(DecodeError) as caught:
        _colour(matrix_code=8)
    assert caught.value.reason == "unsupported"


def _colour(**changes: object) -> Colour:
    usual = {
        "matrix_code": 2,
        "range_code": 0,
        "transfer_code": 2,
        "primaries_code": 2,
        "is_rgb": False,
        "format_name": "yuv420p",
        "width": 640,
        "height": 480,
    }
    return colour_of(**(usual | changes))  # type: ignore[arg-type]


def test_ten_bit_sdr_is_exact(tmp_path: Path) -> None:
    path, tiles = tmp_path / "deep.mp4", _tiles(False, depth=10)
    _lossless(path, tiles, (1, 1, 1, 1), "yuv420p10le")
    picture = open_video(path).frames_at([0])[0]
    exact = yuv_to_rgb_exact(tiles / 4, "709", False)
    assert np.abs(_middle(picture) - exact).mean() <= 1.0


def _pq(nits: np.ndarray | float) -> np.ndarray:
    """SMPTE ST 2084 inverse: light to 16-bit code values."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = (np.asarray(nits) / 10000) ** m1
    return np.round(((c1 + c2 * power) / (1 + c3 * power)) ** m2 * 65535).astype(np.uint16)


def test_hdr_keeps_mid_tones_and_rolls_highlights_off() -> None:
    hdr = Colour("2020", full_range=False, transfer="pq", wide_gamut=True)
    nits = np.array([0.0, 1, 10, 50, 100, 150, 203, 400, 700, 1000, 4000, 10000])
    gray = to_display_rgb(np.repeat(_pq(nits)[None, :, None], 3, 2), hdr)[0, :, 0].astype(float)
    assert gray[0] == 0
    assert np.all(np.diff(gray) >= 0), "brighter light is never darker on screen"
    # Below the knee, a plain gamma of light relative to reference white.
    expected = (nits[1:6] / REFERENCE_WHITE_NITS) ** (1 / 2.4) * 255
    assert np.abs(gray[1:6] - expected).max() <= 1.5
    assert gray[nits == 203][0] > 220
    assert gray[nits == 1000][0] == 255


def test_wide_gamut_gray_stays_gray_and_primaries_saturate() -> None:
    hdr = Colour("2020", full_range=False, transfer="hlg", wide_gamut=True)
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)
    gray = to_display_rgb(np.repeat(ramp[None, :, None], 3, 2), hdr).astype(int)
    assert np.abs(gray - gray[..., :1]).max() <= 1
    red = to_display_rgb(np.array([[[40000, 0, 0]]], dtype=np.uint16), hdr)[0, 0]
    assert red[0] > 100
    assert red[1] == red[2] == 0


def test_encoded_clips_keep_their_colour() -> None:
    rng = np.random.default_rng(5)
    colours = rng.integers(40, 216, (4, 4, 3))
    picture = np.kron(colours, np.ones((32, 32, 1))).astype(np.uint8)
    mp4 = encode_clip([picture] * 4)
    with av.open(io.BytesIO(mp4)) as container:
        stored = next(container.decode(video=0))
        yuv = [plane_array(stored, i) for i in range(3)]
    tiles = np.stack([yuv[0][16::32, 16::32], yuv[1][8::16, 8::16], yuv[2][8::16, 8::16]], -1)
    assert np.abs(yuv_to_rgb_exact(tiles, "709", False) - colours).mean() <= 2.0
    quick = decode_clip(mp4)[0]
    exact = yuv_to_rgb_exact(tiles, "709", False)
    assert np.abs(_middle(quick, 32) - exact).mean() <= 0.75
