"""The baseline B0: what a plain script does. decord decodes every frame, a detector looks at every
frame, the largest face is cropped and written as JPEG. One process, one thread.
"""

import time
from collections import Counter
from pathlib import Path

import cv2
import decord
import numpy as np

from preprocessing.faces import Detector

DETECTOR_SIDE = 640
CROP_SIDE = 512
CROP_SCALE = 2.0
JPEG_QUALITY = 95


def run(path: Path, detector: Detector) -> tuple[int, Counter[str]]:
    """Process one video; return its number of frames and the CPU seconds by stage."""
    seconds: Counter[str] = Counter()
    began = time.process_time()
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    count = len(reader)
    _add(seconds, "decode", began)
    for number in range(count):
        began = time.process_time()
        picture = reader[number].asnumpy()
        began = _add(seconds, "decode", began)
        box = _largest_face(picture, detector)
        began = _add(seconds, "detect", began)
        if box is None:
            continue
        crop = _crop(picture, box)
        began = _add(seconds, "crop", began)
        cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        _add(seconds, "encode", began)
    return count, seconds


def _largest_face(picture: np.ndarray, detector: Detector) -> np.ndarray | None:
    height, width = picture.shape[:2]
    scale = min(1.0, DETECTOR_SIDE / max(height, width))
    small = picture
    if scale < 1:
        size = (round(width * scale), round(height * scale))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
    faces = detector.detect(small)
    if not faces:
        return None
    boxes = np.stack([face.box for face in faces]) / scale
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    largest: np.ndarray = boxes[areas.argmax()]
    return largest


def _crop(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    half = max(box[2] - box[0], box[3] - box[1]) * CROP_SCALE / 2
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    x0, x1 = (int(np.clip(edge, 0, width)) for edge in (x - half, x + half))
    y0, y1 = (int(np.clip(edge, 0, height)) for edge in (y - half, y + half))
    return cv2.resize(picture[y0:y1, x0:x1], (CROP_SIDE, CROP_SIDE), interpolation=cv2.INTER_AREA)


def _add(seconds: Counter[str], stage: str, began: float) -> float:
    now = time.process_time()
    seconds[stage] += now - began  # type: ignore[assignment]
    return now
