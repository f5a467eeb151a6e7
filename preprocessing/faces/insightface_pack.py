"""Face detection and recognition with the ONNX files of an insightface pack."""

import contextlib
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from preprocessing.errors import UserError, first_line
from preprocessing.faces.detector import Face
from preprocessing.faces.network import providers, session_options, shrink
from preprocessing.paths import user_path

_DEFAULT_PACK = "buffalo_l"
# Where insightface unpacks what it downloads.
_PACKS = "~/.insightface/models"


class InsightFacePack:
    """SCRFD detection and, where the pack has it, ArcFace recognition.

    The published packs are licensed for non-commercial research only.
    """

    name = "insightface"

    def __init__(
        self, model_dir: str | None = None, size: int = 640, threshold: float = 0.5
    ) -> None:
        """Load a pack.

        Args:
            model_dir: A folder of ONNX files, insightface's own folder where it holds one pack, or
                the name of a pack that insightface downloads.
            size: Longer side in pixels to which images are shrunk before detection.
            threshold: Least confidence of a face.

        Raises:
            UserError: The folder or its detection model is missing, or the download fails.
        """
        self.size = size
        self.threshold = threshold
        app = _load(model_dir or _DEFAULT_PACK)
        self._detection = app.det_model
        self._recognition = app.models.get("recognition")
        self._detection.prepare(-1, det_thresh=threshold, input_size=(size, size))
        files = {"detection": self._detection.model_file}
        if self._recognition is not None:
            files["recognition"] = self._recognition.model_file
        self._sha256 = {
            role: hashlib.sha256(Path(file).read_bytes()).hexdigest()
            for role, file in files.items()
        }

    @property
    def model_sha256(self) -> Mapping[str, str]:
        """The checksums of the loaded models; see `Detector`."""
        return self._sha256

    @property
    def recognises(self) -> bool:
        """Whether the pack holds a recognition model."""
        return self._recognition is not None

    def detect(self, rgb_HWC: np.ndarray) -> list[Face]:
        """Return the faces of a uint8 RGB image, best first; see `Detector`."""
        small, scale_x, scale_y = shrink(rgb_HWC, self.size)
        # The network reads multiples of 32; the smallest that holds the image is the fastest.
        across, down = (-(-side // 32) * 32 for side in small.shape[1::-1])
        canvas = np.zeros((down, across, 3), dtype=np.uint8)
        canvas[: small.shape[0], : small.shape[1]] = small[..., ::-1]
        boxes, points = self._detection.detect(canvas, input_size=(across, down))
        if points is None:
            raise UserError(
                "the detection model returns no landmarks", "use a pack such as buffalo_l"
            )
        return [
            Face(box[:4], float(box[4]), landmarks).moved(scale_x, scale_y)
            for box, landmarks in zip(boxes, points, strict=True)
        ]

    def embed(self, rgb_HWC: np.ndarray, landmarks_52: np.ndarray) -> np.ndarray:
        """Return the unit-length descriptor of a face; see `Detector`."""
        if self._recognition is None:
            return np.zeros(0, dtype=np.float32)
        from insightface.utils import face_align

        bgr = cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2BGR)
        side = self._recognition.input_size[0]
        aligned = face_align.norm_crop(bgr, landmark=landmarks_52, image_size=side)
        feature = self._recognition.get_feat(aligned).reshape(-1).astype(np.float32)
        length = float(np.linalg.norm(feature))
        return (feature / length).astype(np.float32) if length > 0 else np.zeros_like(feature)


def _load(pack: str) -> Any:
    try:
        from insightface.app import FaceAnalysis
    except ImportError as error:
        raise UserError(
            "insightface is not installed", "run: pip install 'xnemo[preprocess]'"
        ) from error

    folder = user_path(pack)
    if not folder.is_dir() and "/" not in pack:
        # A pack by name that is there already, perhaps below a folder of its own name.
        folder = user_path(_PACKS) / pack
    is_folder = folder.is_dir()
    if not is_folder and ("/" in pack or pack.endswith(".onnx")):
        raise UserError(
            f"the face model folder {pack} does not exist", "give a folder of ONNX files"
        )
    name = str(_pack_in(folder).resolve()) if is_folder else pack
    try:
        # It prints the models it loads.
        with contextlib.redirect_stdout(io.StringIO()):
            return FaceAnalysis(
                name=name,
                allowed_modules=["detection", "recognition"],
                providers=providers(),
                sess_options=session_options(),
            )
    except AssertionError as error:
        raise UserError(
            f"the face model folder {pack} has no detection model",
            "give a folder with an SCRFD .onnx file",
        ) from error
    except Exception as error:
        # Downloads raise any of a dozen network errors, loading as many of ONNX Runtime's.
        raise UserError(
            f"the face models {pack} cannot be loaded: {first_line(error)}",
            "give --face-model-dir DIR with a pack's ONNX files, or use --detector centerface",
        ) from error


def _pack_in(folder: Path) -> Path:
    """Return the folder that holds the models: this one, or the only pack below it.

    Raises:
        UserError: There are several packs.
    """
    if any(folder.glob("*.onnx")):
        return folder
    # Published archives hold a folder of the pack's own name.
    patterns = ("*/*.onnx", "*/*/*.onnx", "*/*/*/*.onnx")
    packs = sorted({file.parent for pattern in patterns for file in folder.glob(pattern)})
    if len(packs) > 1:
        names = ", ".join(pack.name for pack in packs)
        raise UserError(f"{folder} holds several packs: {names}", f"give one, such as {packs[0]}")
    return packs[0] if packs else folder
