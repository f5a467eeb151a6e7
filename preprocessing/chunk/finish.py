"""Turns a cut clip into a result: scores, filter decision, encoded video, arrays and row."""

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace

import av
import numpy as np
from PIL import Image

from preprocessing.chunk.filters import TOO_SHORT, drop_reason
from preprocessing.chunk.records import ClipResult, Row, Stopwatch
from preprocessing.chunk.score import FrameScores, score_clip
from preprocessing.chunk.signature import signature_of
from preprocessing.chunk.track import Clip
from preprocessing.chunk.tube import cut, stored_size
from preprocessing.config import PreprocessConfig
from preprocessing.decode import Frame
from preprocessing.encode.clip_encoder import encode_clip
from preprocessing.faces import Detector
from preprocessing.geometry import crop_affine, transform_boxes
from preprocessing.heartbeat import heartbeat
from preprocessing.storage.sample import SampleArrays, pack_arrays
from preprocessing.synthetic.motion.columns import MOTION_COLUMNS
from preprocessing.synthetic.truth import Truth

# Side in pixels, and number, of the frames in a strip for the report.
_STRIP_SIDE, _STRIP_FRAMES = 96, 3
# Frames whose mean descriptor is the identity of a clip.
_IDENTITY_FRAMES = 3


class ClipFinisher:
    """Scores, filters and encodes the clips of one chunk."""

    def __init__(
        self,
        config: PreprocessConfig,
        detector: Detector,
        clock: Stopwatch,
        origin_us: int,
        fps: float,
        truth: Truth | None = None,
    ) -> None:
        self._truth = truth
        self._config = config
        self._detector = detector
        self._clock = clock
        self._origin_us = origin_us
        self._fps = fps

    def finish(self, clip: Clip) -> ClipResult:
        """Return the result of a clip; a dropped one is not encoded."""
        heartbeat()
        config = self._config
        with self._clock("score"):
            scores, per_frame = score_clip(clip, self._fps)
        size = stored_size(clip.tube, config.tube)
        row = self._row(clip, scores, size)
        is_short = len(clip.frames) < config.tube.min_frames
        reason = TOO_SHORT if is_short else drop_reason(row, config.filters)
        with self._clock("report"):
            strip = contact_strip(clip, size)
        if reason is not None:
            return ClipResult({**row, "status": "dropped", "reason": reason}, b"", b"", strip)
        with self._clock("encode"):
            mp4 = encode_clip(_images(clip, size), self._fps, config.encode)
        with self._clock("identity"):
            identity = self._identity(clip)
        npz = pack_arrays(
            replace(_arrays(clip, per_frame, size, identity), truth=self._motion(clip))
        )
        signature = signature_of(per_frame.faces, clip.bbox)
        row |= {
            "status": "kept",
            "reason": "",
            "mp4_sha256": hashlib.sha256(mp4).hexdigest(),
            "npz_sha256": hashlib.sha256(npz).hexdigest(),
            "descriptor": base64.b64encode(identity.astype(np.float16).tobytes()).decode(),
            "signature": base64.b64encode(signature.to_bytes()).decode(),
        }
        if self._truth is not None:
            facts = {k: v for k, v in self._truth.facts.items() if k != "traits"}
            row["truth"] = {**facts, "columns": list(MOTION_COLUMNS)}
            row["motion_group"] = str(facts["motion"])
        return ClipResult(row, mp4, npz, strip)

    def clip_ms(self, time_us: int) -> int:
        """Return a time of the source in milliseconds from its first frame."""
        return round((time_us - self._origin_us) / 1000)

    def _row(self, clip: Clip, scores: Mapping[str, float | None], size: int) -> Row:
        start_ms = self.clip_ms(clip.frames[0].time_us)
        return {
            "start_ms": start_ms,
            "end_ms": start_ms + round(len(clip.frames) * 1000 / self._fps),
            "frames": len(clip.frames),
            "fps": self._fps,
            "duration_s": len(clip.frames) / self._fps,
            "size": size,
            "tube_px": int(clip.tube[2] - clip.tube[0]),
            "track": clip.track,
            **scores,
        }

    def _motion(self, clip: Clip) -> np.ndarray | None:
        """Return the exact motion of the frames shown, where it is known."""
        if self._truth is None:
            return None
        shown_us = np.array([frame.pts_us for frame in clip.frames])
        return self._truth.at((shown_us - self._origin_us) / 1e6)

    def _identity(self, clip: Clip) -> np.ndarray:
        """Return the mean face descriptor of a few frames spread over the clip."""
        if not self._detector.recognises:
            return np.zeros(0, dtype=np.float32)
        descriptors = []
        for index in _spread_over(clip, _IDENTITY_FRAMES):
            crop = clip.frames[index].crop
            image = Frame(crop.image, pts_us=0, index=0).rgb()
            points = (clip.landmarks[index] - [crop.x0, crop.y0]) / crop.shrink
            descriptors.append(self._detector.embed(image, points.astype(np.float32)))
        total = sum(descriptors[1:], start=descriptors[0])
        return (total / max(float(np.linalg.norm(total)), 1e-9)).astype(np.float32)


def contact_strip(clip: Clip, size: int) -> bytes:
    """Return the first, middle and last frame of a clip side by side, as JPEG."""
    side = max(16, min(size, 512))
    images = []
    for index in _spread_over(clip, _STRIP_FRAMES):
        image = cut(clip.frames[index].crop, clip.tube, clip.frame_hw, side)
        small = Image.fromarray(Frame(image, pts_us=0, index=0).rgb())
        images.append(np.asarray(small.resize((_STRIP_SIDE, _STRIP_SIDE))))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(images, axis=1)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _spread_over(clip: Clip, count: int) -> list[int]:
    """Return the positions of at most `count` frames, evenly spread from first to last."""
    positions = np.linspace(0, len(clip.frames) - 1, count).round().astype(int)
    return [int(position) for position in np.unique(positions)]


def _images(clip: Clip, size: int) -> Iterator[av.VideoFrame]:
    """Yield the images to encode; a repeated source frame is cut once."""
    latest: tuple[int, av.VideoFrame] | None = None
    for frame in clip.frames:
        if latest is None or latest[0] != frame.src_frame:
            heartbeat()
            latest = (frame.src_frame, cut(frame.crop, clip.tube, clip.frame_hw, size))
        yield latest[1]


def _arrays(clip: Clip, per_frame: FrameScores, size: int, identity: np.ndarray) -> SampleArrays:
    affine = crop_affine(clip.tube, size)
    landmarks = clip.landmarks @ affine[:, :2].T + affine[:, 2]
    return SampleArrays(
        bbox=clip.bbox,
        bbox_crop=transform_boxes(clip.bbox, affine),
        landmarks=landmarks,
        pose=per_frame.pose,
        sharpness=per_frame.sharpness,
        flags=per_frame.flags,
        pts_us=np.array([f.pts_us for f in clip.frames]),
        src_frame=np.array([f.src_frame for f in clip.frames]),
        src_to_crop=affine,
        identity=identity,
    )
