"""Colour metadata of decoded frames, and tone mapping of HDR to display RGB.

FFmpeg's filters do not replace the tone mapping: this build has no `zscale`, `colorspace` knows
neither PQ nor HLG, and `scale` either clips all above 203 cd/m² (relative intent) or renders it at
155 of 255 instead of 241 (perceptual intent); it takes 20 ms where this takes 86 (768×640).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from preprocessing.decode.failure import DecodeError

Matrix = Literal["601", "709", "2020", "240m", "fcc", "rgb"]
Transfer = Literal["sdr", "pq", "hlg"]

# libswscale's names of these matrices, as PyAV spells them.
SWSCALE_NAME: dict[str, str] = {
    "601": "itu601",
    "709": "itu709",
    "2020": "bt2020",
    "240m": "smpte240m",
    "fcc": "fcc",
    "rgb": "default",
}

# AVColorSpace numbers (ISO/IEC 23091-2 matrix coefficients) of each matrix.
_MATRIX_OF_CODE: dict[int, Matrix] = {
    0: "rgb", 1: "709", 4: "fcc", 5: "601", 6: "601", 7: "240m", 9: "2020",
}  # fmt: skip
_UNTAGGED = (2, 3)
_FULL_RANGE = 2
_PRIMARIES_2020 = 9
_TRANSFER_OF_CODE: dict[int, Transfer] = {16: "pq", 18: "hlg"}

# BT.2408: HDR reference white, the level that maps to SDR white here, in cd/m².
REFERENCE_WHITE_NITS = 203.0
# Highlights above the knee are compressed; HDR peaks above this are clipped.
_PEAK_NITS = 1000.0
_KNEE = 0.75

# Linear-light BT.2020 → BT.709 primaries (ITU-R BT.2087).
_RGB_2020_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    dtype=np.float32,
)


@dataclass(frozen=True)
class Colour:
    """Colour of a stream or frame, with defaults in place of missing tags."""

    # Matrix between YCbCr and R'G'B'.
    matrix: Matrix
    # Whether 0–255 is black to white (JPEG range) rather than 16–235.
    full_range: bool
    # From code values to light.
    transfer: Transfer
    # Whether primaries are BT.2020; they are converted to BT.709.
    wide_gamut: bool

    @property
    def is_display_ready(self) -> bool:
        """Whether the matrix alone gives display RGB, without tone or gamut mapping."""
        return self.transfer == "sdr" and not self.wide_gamut


def colour_of(
    *,
    matrix_code: int,
    range_code: int,
    transfer_code: int,
    primaries_code: int,
    is_rgb: bool,
    format_name: str,
    width: int,
    height: int,
) -> Colour:
    """Return the colour of a frame from its tags; `*_code` are ISO/IEC 23091-2 numbers.

    A frame without a matrix tag is BT.2020 where its primaries are, BT.709 above standard
    definition (over 1024 wide or 576 high), else BT.601, as in broadcast and in players.

    Raises:
        DecodeError: The matrix is not supported (YCgCo, ICtCp, constant luminance).
    """
    transfer = _TRANSFER_OF_CODE.get(transfer_code, "sdr")
    wide = primaries_code == _PRIMARIES_2020
    full = range_code == _FULL_RANGE or format_name.startswith("yuvj") or is_rgb
    matrix: Matrix
    if is_rgb:
        matrix = "rgb"
    elif matrix_code in _UNTAGGED or matrix_code == 0:
        if wide or transfer != "sdr":
            matrix = "2020"
        else:
            matrix = "709" if width > 1024 or height > 576 else "601"
    elif matrix_code in _MATRIX_OF_CODE:
        matrix = _MATRIX_OF_CODE[matrix_code]
    else:
        raise DecodeError("unsupported", f"colour matrix number {matrix_code} is not supported")
    return Colour(matrix=matrix, full_range=full, transfer=transfer, wide_gamut=wide)


def to_display_rgb(rgb16_HWC: np.ndarray, colour: Colour) -> np.ndarray:
    """Convert 16-bit R'G'B' of an HDR or wide-gamut source to 8-bit BT.709 SDR.

    Code values become linear light relative to BT.2408 reference white (203 cd/m²), BT.2020
    primaries become BT.709, highlights above three quarters of white roll off smoothly up to
    1000 cd/m², and the inverse of BT.1886 (gamma 2.4) gives code values again. The curve is the
    same for all scenes, so that a face keeps its brightness through a cut.
    """
    linear = _to_linear(rgb16_HWC, colour.transfer)
    if colour.wide_gamut:
        red, green, blue = linear[..., 0], linear[..., 1], linear[..., 2]
        # Not a matrix product, whose rounding depends on the machine's BLAS.
        linear = np.stack([m[0] * red + m[1] * green + m[2] * blue for m in _RGB_2020_TO_709], -1)
        linear = np.maximum(linear, 0)
    if colour.transfer != "sdr":
        linear = _roll_off(linear)
    code = np.clip(linear, 0, 1) ** np.float32(1 / 2.4) * 255 + 0.5
    return np.asarray(code).astype(np.uint8)


def _to_linear(rgb16_HWC: np.ndarray, transfer: Transfer) -> np.ndarray:
    code = np.arange(65536, dtype=np.float64) / 65535
    if transfer == "pq":  # SMPTE ST 2084
        m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
        power = code ** (1 / m2)
        nits = 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
        table = nits / REFERENCE_WHITE_NITS
    elif transfer == "hlg":  # ITU-R BT.2100, system gamma 1.2 at 1000 cd/m², applied per channel
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
        table = 1000 * scene**1.2 / REFERENCE_WHITE_NITS
    else:
        table = code**2.4
    linear: np.ndarray = table.astype(np.float32)[rgb16_HWC]
    return linear


def _roll_off(linear: np.ndarray) -> np.ndarray:
    """Compress light above the knee so that the peak maps to white, keeping the hue."""
    peak = np.float32(_PEAK_NITS / REFERENCE_WHITE_NITS)
    brightest = linear.max(axis=-1, keepdims=True)
    over = np.clip((brightest - _KNEE) / (peak - _KNEE), 0, 1)
    # Rational curve: slope 1 at the knee, value 1 at the peak.
    slope = np.float32((peak - _KNEE) / (1 - _KNEE))
    mapped = _KNEE + (1 - _KNEE) * (slope * over) / (1 + (slope - 1) * over)
    gain = np.where(brightest > _KNEE, mapped / np.maximum(brightest, 1e-6), 1)
    compressed: np.ndarray = linear * gain.astype(np.float32)
    return compressed
