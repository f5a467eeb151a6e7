"""Put generated frames back into the whole portrait, without a visible seam."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xnemo.animation.animator import Portrait

# Width of the transition from the frame to the portrait, as a share of the crop's side. The face's
# box is the middle half of the crop.
_FEATHER = 0.2


class PasteBack:
    """Pastes frames into a portrait at its own size, cut to even sides as H.264 wants them.

    Along the crop's border the frame fades into the portrait; where the crop reaches the portrait's
    edge, it does not. A difference in colour between the frame and the portrait along that border
    is taken off the whole frame, so that no lighter or darker square is seen.

    Args:
        image_HWC: The whole portrait, RGB uint8.
        portrait: Its crop.
    """

    def __init__(self, image_HWC: NDArray[np.uint8], portrait: Portrait) -> None:
        height, width = (side // 2 * 2 for side in image_HWC.shape[:2])
        self._image = np.ascontiguousarray(image_HWC[:height, :width])
        # As `geometry.crop` truncates.
        x0, y0, x1, y1 = (int(value) for value in portrait.crop)
        self._size = (max(x1 - x0, 1), max(y1 - y0, 1))
        inside = (max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))
        self._target = (slice(inside[1], inside[3]), slice(inside[0], inside[2]))
        self._source = (
            slice(inside[1] - y0, inside[3] - y0),
            slice(inside[0] - x0, inside[2] - x0),
        )
        down = _ramp(self._size[1], y0 > 0, y1 < height)[self._source[0]]
        across = _ramp(self._size[0], x0 > 0, x1 < width)[self._source[1]]
        self._mask = (down[:, None] * across[None, :])[..., None]
        # Where both are half seen: the colours that have to agree.
        self._border = (self._mask > 0.02) & (self._mask < 0.98)
        self._under = self._image[self._target].astype(np.float32)

    @property
    def pixels(self) -> int:
        """Pixels of a result."""
        return self._image.shape[0] * self._image.shape[1]

    def __call__(self, frame_SSC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the portrait with a frame in its place."""
        scaled = Image.fromarray(frame_SSC).resize(self._size, Image.Resampling.LANCZOS)
        over = np.asarray(scaled)[self._source].astype(np.float32)
        if self._border.any():
            shift = (self._under - over)[self._border[..., 0]].mean(axis=0)
            over = over + shift
        mixed = self._under + self._mask * (over - self._under)
        result = self._image.copy()
        result[self._target] = mixed.round().clip(0, 255).astype(np.uint8)
        return result


def _ramp(length: int, first: bool, last: bool) -> NDArray[np.float32]:
    """Return weights that rise smoothly from 0 at the ends that are asked for."""
    position = (np.arange(length) + 0.5) / length
    near = np.full(length, 1.0)
    if first:
        near = np.minimum(near, position / _FEATHER)
    if last:
        near = np.minimum(near, (1 - position) / _FEATHER)
    smooth: NDArray[np.float32] = (near * near * (3 - 2 * near)).astype(np.float32)
    return smooth
