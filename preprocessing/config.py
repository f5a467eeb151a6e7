"""Settings of a preprocessing job, one section a stage."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from preprocessing.encode.clip_encoder import EncodeConfig
from preprocessing.errors import UserError


@dataclass(frozen=True)
class PlanConfig:
    """How sources become chunks."""

    # Length of a chunk in seconds; sources up to one and a half times as long are one chunk.
    chunk_s: float = 180.0
    # Licence of the sources, copied into every sample; a list file can say it source by source.
    licence: str = ""

    def __post_init__(self) -> None:
        _at_least("plan.chunk_s", self.chunk_s, 20.0)


@dataclass(frozen=True)
class DecodeConfig:
    """Bounds on what one source may cost."""

    # Decoder of raw sources.
    backend: Literal["pyav", "decord", "torchcodec"] = "pyav"
    # Seconds a chunk may take for each of its own seconds, before it is given up.
    time_limit_ratio: float = 30.0
    # Seconds without one more decoded frame after which a decoder counts as hung.
    stall_limit_s: float = 60.0
    # Memory in MB that a worker may take before it is stopped.
    memory_limit_mb: int = 2048

    def __post_init__(self) -> None:
        _at_least("decode.time_limit_ratio", self.time_limit_ratio, 1.0)
        _at_least("decode.stall_limit_s", self.stall_limit_s, 1.0)
        _at_least("decode.memory_limit_mb", self.memory_limit_mb, 512)


@dataclass(frozen=True)
class ShotConfig:
    """When one picture follows another too abruptly to be the same shot."""

    # Least change of the brightness histogram (0 to 1) at a cut.
    histogram: float = 0.28
    # Least mean change of brightness (0 to 1) at a cut.
    difference: float = 0.08
    # A cut also changes this many times more than the frames just before it.
    prominence: float = 3.0

    def __post_init__(self) -> None:
        _between("shots.histogram", self.histogram, 0, 1)
        _between("shots.difference", self.difference, 0, 1)
        _at_least("shots.prominence", self.prominence, 1)


@dataclass(frozen=True)
class DetectConfig:
    """Which detector looks how closely and how often."""

    # `centerface` (MIT, always there) or `insightface` (SCRFD and ArcFace, non-commercial).
    name: Literal["centerface", "insightface"] = "centerface"
    # For `insightface`: a folder of ONNX files, or the name of a pack it fetches by itself.
    faces_pack: str | None = None
    # Longer side in pixels of the picture that detection reads. A smaller one is quicker, and its
    # boxes are some hundredths larger or smaller: all of a data set should come from one.
    size: int = 640
    # Least confidence of a face.
    threshold: float = 0.5
    # Frames between two looks while little moves; 1 looks at every frame.
    stride: int = 8
    # Faces of two looks that overlap less than this (IoU) are looked at again in between.
    refine_iou: float = 0.7

    def __post_init__(self) -> None:
        _at_least("detect.size", self.size, 64)
        _between("detect.threshold", self.threshold, 0.05, 0.99)
        _at_least("detect.stride", self.stride, 1)
        _between("detect.refine_iou", self.refine_iou, 0, 1)


@dataclass(frozen=True)
class TrackConfig:
    """How faces of successive looks become people."""

    # Least overlap (IoU) of a face with the same face at the look before.
    iou: float = 0.3
    # Longest time in seconds a face may be lost and still be the same track.
    gap_s: float = 0.6
    # Least likeness (cosine of descriptors) to take up a lost track elsewhere in the picture.
    likeness: float = 0.45

    def __post_init__(self) -> None:
        _between("track.iou", self.iou, 0.05, 0.95)
        _between("track.gap_s", self.gap_s, 0, 5)
        _between("track.likeness", self.likeness, -1, 1)


@dataclass(frozen=True)
class TubeConfig:
    """How tracks are cut into clips, and clips out of frames."""

    # Side of the stored square as a multiple of the larger side of the face's union box.
    scale: float = 2.0
    # Side in pixels of the stored picture; smaller tubes keep their own size.
    size: int = 512
    # Length of clips in seconds.
    min_s: float = 2.0
    max_s: float = 10.0
    # Shots shorter than `min_s` are still used down to this many frames when they are all there is.
    min_frames: int = 16
    # Strength of smoothing over time of boxes and landmarks, in frames.
    smooth_frames: float = 2.0
    # Largest union box of a clip, as a multiple of its face's larger side; a face that wanders
    # further starts a new clip, for it would be lost in so wide a tube.
    max_wander: float = 1.6
    # What is kept of each frame until the tube is known, at least, as a multiple of the face's
    # larger side. More is kept while memory allows; a face that wanders out of it starts a new
    # clip.
    keep_scale: float = 2.7
    # Memory in MB for frames that wait for their tube; clips are cut earlier where it runs out.
    buffer_mb: int = 208

    def __post_init__(self) -> None:
        _between("tube.scale", self.scale, 1.0, 4.0)
        _at_least("tube.size", self.size, 64)
        if self.size % 16:
            raise UserError(f"tube.size is {self.size}", "give a multiple of 16")
        _at_least("tube.min_s", self.min_s, 0.64)
        if self.max_s < 2 * self.min_s:
            raise UserError(f"tube.max_s is {self.max_s}", "give at least twice tube.min_s")
        _between("tube.max_s", self.max_s, 2 * self.min_s, 60)
        _at_least("tube.min_frames", self.min_frames, 16)
        _between("tube.smooth_frames", self.smooth_frames, 0, 25)
        _between("tube.max_wander", self.max_wander, 1.05, 4.0)
        if self.keep_scale < self.scale * 1.1:
            raise UserError(
                f"tube.keep_scale is {self.keep_scale}", f"give at least {self.scale * 1.1:.2g}"
            )
        _at_least("tube.buffer_mb", self.buffer_mb, 32)


@dataclass(frozen=True)
class FilterConfig:
    """Thresholds; a clip beyond one is dropped with that filter's name as the reason."""

    # Least median of the face box's larger side, in source pixels.
    min_face_px: float = 72.0
    # Least side of the picture in pixels, without what padding adds.
    min_picture_px: float = 128.0
    # Least median confidence of the detector.
    min_detection: float = 0.5
    # Least share of looks at which the face was found.
    min_detected: float = 0.8
    # Largest median turn of the head in degrees.
    max_yaw: float = 75.0
    max_pitch: float = 60.0
    max_roll: float = 45.0
    # Least median sharpness of the face, 0 to 1; see `preprocessing.chunk.score`.
    min_sharpness: float = 0.12
    # Bounds on the face's median brightness, and least contrast, of 0 to 1.
    min_exposure: float = 0.08
    max_exposure: float = 0.95
    min_contrast: float = 0.04
    # Least motion, in parts of full brightness; still pictures have none.
    min_motion: float = 0.0015
    # Largest share of frames with the face partly outside the picture.
    max_out_of_frame: float = 0.5
    # Largest share of the stored picture that is padding.
    max_pad: float = 0.75
    # Largest share of frames in which another face shows in the tube.
    max_others: float = 0.1
    # Largest occlusion and overlay scores, 0 to 1; see `preprocessing.chunk.score`.
    max_occlusion: float = 0.25
    max_overlay: float = 0.6
    # Largest share of frames that repeat the one before.
    max_repeated: float = 0.7

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            _at_least(f"filters.{item.name}", getattr(self, item.name), 0)


@dataclass(frozen=True)
class ShardConfig:
    """How samples are laid out."""

    # Largest shard in MB; one sample larger than it gets a shard of its own.
    size_mb: int = 256
    # Shares of identities that go to validation and to test.
    validation: float = 0.05
    test: float = 0.05
    # Least likeness (cosine of descriptors) of two clips of one identity.
    identity_likeness: float = 0.45
    # Least correlation of how two faces change for one clip to be a copy of the other.
    duplicate_likeness: float = 0.85

    def __post_init__(self) -> None:
        _at_least("shard.size_mb", self.size_mb, 1)
        _between("shard.validation", self.validation, 0, 0.5)
        _between("shard.test", self.test, 0, 0.5)
        _between("shard.identity_likeness", self.identity_likeness, 0, 1)
        _between("shard.duplicate_likeness", self.duplicate_likeness, 0.5, 1)


@dataclass(frozen=True)
class PreprocessConfig:
    """Everything that decides what a preprocessing job writes."""

    # Sources to chunks.
    plan: PlanConfig = field(default_factory=PlanConfig)
    # Chunks to frames.
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    # Frames to shots.
    shots: ShotConfig = field(default_factory=ShotConfig)
    # Frames to faces.
    detect: DetectConfig = field(default_factory=DetectConfig)
    # Faces to tracks.
    track: TrackConfig = field(default_factory=TrackConfig)
    # Tracks to clips.
    tube: TubeConfig = field(default_factory=TubeConfig)
    # Clips that are good enough.
    filters: FilterConfig = field(default_factory=FilterConfig)
    # Clips to MP4.
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    # Samples to shards.
    shard: ShardConfig = field(default_factory=ShardConfig)


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise UserError(f"{name} is {value}", f"give {least:g} or more")


def _between(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UserError(f"{name} is {value}", f"give {least:g} to {most:g}")
