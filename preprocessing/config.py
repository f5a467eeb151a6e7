"""Settings of a preprocessing job, one section per stage."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from preprocessing.errors import UserError, require_at_least, require_between


@dataclass(frozen=True)
class PlanConfig:
    """How sources are split into chunks."""

    # Length of a chunk in seconds; a source up to one and a half times as long is one chunk.
    chunk_s: float = 180.0
    # Licence of the sources, copied into every sample; a list file can set it per source.
    licence: str = ""

    def __post_init__(self) -> None:
        require_at_least("plan.", self, chunk_s=20)


@dataclass(frozen=True)
class DecodeConfig:
    """Decoder and its limits."""

    # Decoder of raw sources.
    backend: Literal["pyav", "decord", "torchcodec"] = "pyav"
    # Seconds of processing allowed per second of a chunk before it fails.
    time_limit_ratio: float = 30.0
    # Seconds without a new decoded frame after which the decoder counts as hung.
    stall_limit_s: float = 60.0
    # Memory limit of a worker in MB.
    memory_limit_mb: int = 2048

    def __post_init__(self) -> None:
        require_at_least("decode.", self, time_limit_ratio=1, stall_limit_s=1, memory_limit_mb=512)


@dataclass(frozen=True)
class ShotConfig:
    """Thresholds of the shot-boundary detector."""

    # Least change of the brightness histogram (0 to 1) at a cut.
    histogram: float = 0.28
    # Least mean change of brightness (0 to 1) at a cut.
    difference: float = 0.08
    # Least ratio of the change at a cut to the change of the frames just before it.
    prominence: float = 3.0

    def __post_init__(self) -> None:
        require_between("shots.", self, histogram=(0, 1), difference=(0, 1))
        require_at_least("shots.", self, prominence=1)


@dataclass(frozen=True)
class DetectConfig:
    """Face detector and its sampling."""

    # `centerface` (MIT, installed) or `insightface` (SCRFD and ArcFace, non-commercial weights).
    name: Literal["centerface", "insightface"] = "centerface"
    # For `insightface`: a folder of ONNX files, or the name of a pack that it downloads.
    model_dir: str | None = None
    # Longer side in pixels of the image given to the detector. Smaller is faster and changes box
    # sizes by a few per cent, so use one value for a whole data set.
    size: int = 640
    # Least confidence of a face.
    threshold: float = 0.5
    # Frames between two detections while little moves; 1 runs the detector on every frame.
    stride: int = 8
    # Where faces of two detections overlap less than this (IoU), frames in between are detected.
    refine_iou: float = 0.7

    def __post_init__(self) -> None:
        require_at_least("detect.", self, size=64, stride=1)
        require_between("detect.", self, threshold=(0.05, 0.99), refine_iou=(0, 1))


@dataclass(frozen=True)
class TrackConfig:
    """How detections are linked into face tracks."""

    # Least overlap (IoU) with the same face at the previous detection.
    iou: float = 0.3
    # Longest time in seconds a face may be missing and still continue its track.
    gap_s: float = 0.6
    # Least similarity (cosine of descriptors) to continue a lost track elsewhere in the frame.
    likeness: float = 0.45

    def __post_init__(self) -> None:
        require_between("track.", self, iou=(0.05, 0.95), gap_s=(0, 5), likeness=(-1, 1))


@dataclass(frozen=True)
class TubeConfig:
    """How tracks are split into clips, and clips are cropped from frames."""

    # Side of the stored square as a multiple of the larger side of the face's union box.
    scale: float = 2.0
    # The same where the frame is too small for it, at least: what still reaches beyond is black.
    min_scale: float = 1.5
    # Side in pixels of the stored frames; smaller tubes keep their own size.
    size: int = 512
    # Length of clips in seconds.
    min_s: float = 2.0
    max_s: float = 10.0
    # Least frames of a clip from a shot that is itself shorter than `min_s`.
    min_frames: int = 16
    # Temporal smoothing (Gaussian sigma) of boxes and landmarks, in frames.
    smooth_frames: float = 2.0
    # Largest union box of a clip, as a multiple of its face's larger side; a face that moves
    # further starts a new clip.
    max_wander: float = 1.6
    # Least region of each frame that is buffered until the tube is known, as a multiple of the
    # face's larger side. More is buffered while memory allows; a face that leaves the region
    # starts a new clip.
    keep_scale: float = 2.7
    # Memory in MB for buffered frames; clips are cut earlier where it runs out.
    buffer_mb: int = 208

    def __post_init__(self) -> None:
        require_at_least("tube.", self, size=64, min_s=0.64, min_frames=16, buffer_mb=32)
        if self.size % 16:
            raise UserError(f"tube.size is {self.size}", "set it to a multiple of 16")
        if self.max_s < 2 * self.min_s:
            raise UserError(f"tube.max_s is {self.max_s}", "set it to at least twice tube.min_s")
        require_between(
            "tube.",
            self,
            scale=(1, 4),
            max_s=(2 * self.min_s, 60),
            smooth_frames=(0, 25),
            max_wander=(1.05, 4),
        )
        require_between("tube.", self, min_scale=(1, self.scale))
        require_at_least("tube.", self, keep_scale=self.scale * 1.1)


@dataclass(frozen=True)
class FilterConfig:
    """Filter thresholds; a clip beyond one is dropped with the filter's name as the reason."""

    # Least median of the face box's larger side, in source pixels.
    min_face_px: float = 72.0
    # Least side of the frame in pixels, without padding.
    min_picture_px: float = 128.0
    # Least median confidence of the detector.
    min_detection: float = 0.5
    # Least share of sampled frames in which the face was detected.
    min_detected: float = 0.8
    # Largest median head rotation in degrees.
    max_yaw: float = 75.0
    max_pitch: float = 60.0
    max_roll: float = 45.0
    # Least median sharpness of the face, 0 to 1; see `preprocessing.chunk.score`.
    min_sharpness: float = 0.12
    # Bounds of the face's median brightness, and its least contrast, 0 to 1.
    min_exposure: float = 0.08
    max_exposure: float = 0.95
    min_contrast: float = 0.04
    # Least motion as a share of full brightness; still images have none.
    min_motion: float = 0.0015
    # Largest share of frames with the face partly outside the frame.
    max_out_of_frame: float = 0.5
    # Largest share of the stored frame that is padding.
    max_pad: float = 0.75
    # Largest share of frames that show another face in the tube.
    max_others: float = 0.1
    # Largest occlusion and overlay scores, 0 to 1; see `preprocessing.chunk.score`.
    max_occlusion: float = 0.25
    max_overlay: float = 0.6
    # Largest share of frames that repeat the previous one.
    max_repeated: float = 0.7

    def __post_init__(self) -> None:
        require_at_least("filters.", self, **{f.name: 0 for f in dataclasses.fields(self)})


@dataclass(frozen=True)
class EncodeConfig:
    """How clips are encoded; every field changes the bytes of the data set."""

    # Constant rate factor, lower is better. On 15 real clips at 512 pixels square, 16 gave 40.5 dB
    # PSNR at worst (44 at the median) for 0.14 of the bytes of JPEG quality 95 (0.22 at worst).
    crf: float = 16.0
    # Speed against size at the same quality.
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"] = "veryfast"
    # Most frames between key frames: bounds what random access has to decode.
    gop: int = 12

    def __post_init__(self) -> None:
        require_between("encode.", self, crf=(0, 51), gop=(1, 12))


@dataclass(frozen=True)
class ShardConfig:
    """How samples are arranged in shards and splits."""

    # Largest shard in MB; one sample larger than this gets a shard of its own.
    size_mb: int = 256
    # Least number of shards, where there are as many clips: shards of a small data set are smaller.
    # Readers of whole shards, such as webdataset, give each of their workers shards of its own.
    min_count: int = 8
    # Shares of identities in the validation and test splits.
    validation: float = 0.05
    test: float = 0.05
    # Least similarity (cosine of descriptors) of two clips of one identity.
    identity_likeness: float = 0.45
    # Least correlation of two clips' face changes for one to be a copy of the other.
    duplicate_likeness: float = 0.85

    def __post_init__(self) -> None:
        require_at_least("shard.", self, size_mb=1, min_count=1)
        require_between(
            "shard.",
            self,
            validation=(0, 0.5),
            test=(0, 0.5),
            identity_likeness=(0, 1),
            duplicate_likeness=(0.5, 1),
        )


@dataclass(frozen=True)
class PreprocessConfig:
    """All settings that decide the output of a preprocessing job."""

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
    # Filters of clips.
    filters: FilterConfig = field(default_factory=FilterConfig)
    # Clips to MP4.
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    # Samples to shards.
    shard: ShardConfig = field(default_factory=ShardConfig)
