"""Face detectors behind one protocol.

`make_detector` opens one by name: `centerface` (installed weights, MIT) or `insightface` (SCRFD and
ArcFace weights, downloaded by insightface or given as a folder).
"""

from preprocessing.faces.detector import DETECTORS, Detector, Face, make_detector

__all__ = ["DETECTORS", "Detector", "Face", "make_detector"]
