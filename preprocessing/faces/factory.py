"""Opens a detector by the name a person types."""

import difflib

from preprocessing.errors import UserError
from preprocessing.faces.face import Detector

DETECTORS = ("centerface", "insightface")


def make_detector(
    name: str = "centerface",
    faces_pack: str | None = None,
    size: int = 640,
    threshold: float = 0.5,
) -> Detector:
    """Open a detector.

    Args:
        name: `centerface` or `insightface`.
        faces_pack: for `insightface`, a folder of ONNX files or the name of a pack.
        size: longer side in pixels of the picture that detection reads.
        threshold: least confidence of a face.

    Raises:
        UserError: there is no such detector, or its weights are missing.
    """
    if name == "centerface":
        from preprocessing.faces.centerface import CenterFace

        if faces_pack:
            raise UserError(
                "--face-model-dir is given, but the detector is centerface, which reads no pack",
                "add --detector insightface, or leave --face-model-dir out",
            )
        return CenterFace(size=size, threshold=threshold)
    if name == "insightface":
        from preprocessing.faces.insightface_pack import InsightFacePack

        return InsightFacePack(pack=faces_pack, size=size, threshold=threshold)
    near = difflib.get_close_matches(name, DETECTORS, n=1)
    raise UserError(
        f"there is no detector {name!r}",
        f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(DETECTORS)}",
    )
