"""Face detectors behind one protocol.

`make_detector` opens one by name: `centerface` (weights inside an installed package, MIT) or
`insightface` (a pack of SCRFD and ArcFace weights, fetched by insightface or given as a folder).
"""

from preprocessing.faces.face import Detector, Face
from preprocessing.faces.factory import DETECTORS, make_detector

__all__ = ["DETECTORS", "Detector", "Face", "make_detector"]
