"""Make sample number n of a run: read, decode, cut, disturb."""

import hashlib
import io
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from preprocessing.decode import decode_clip
from preprocessing.errors import UserError
from preprocessing.geometry import box_vector, crop, tight_box
from preprocessing.storage.sample import read_members
from xnemo.data.augment import change_appearance, draw_augmentation
from xnemo.data.batch import Batch, Sample, collate
from xnemo.data.clip_table import ClipTable
from xnemo.data.config import AugmentConfig, DataConfig
from xnemo.data.face_description import describe_face
from xnemo.data.order import SampleOrder
from xnemo.data.pairs import choose_frames
from xnemo.data.resize import resize_frames
from xnemo.data.seeding import sample_rng

log = logging.getLogger(__name__)

# What reading a clip takes of its row in the index.
_COLUMNS = (
    "root", "key", "shard", "mp4_offset", "mp4_length", "mp4_sha256", "npz_offset", "npz_length",
    "npz_sha256",
)  # fmt: skip

# Samples of a batch that are read at once from an object store.
_READS_AT_ONCE = 8


@dataclass(frozen=True)
class ImageSizes:
    """Sides in pixels of the pictures of a sample."""

    # Wide reference and target.
    wide: int
    # The motion encoder's input.
    driving: int
    # The GAN head's reference and target; None leaves them out.
    head: int | None
    # Whether the GAN head sees the wide crop (motion with position) or the tight one (motion
    # alone).
    wide_head: bool = False
    # Whether samples carry a description of their targets' faces.
    describe_faces: bool = False


class SampleReader:
    """Read samples by their position in the run; the same n gives the same sample anywhere."""

    def __init__(
        self,
        clips: ClipTable,
        config: DataConfig,
        augment: AugmentConfig,
        sizes: ImageSizes,
        *,
        seed: int,
    ) -> None:
        """Prepare to read; raises UserError where the weights do not fit the data sets."""
        if config.weights and len(config.weights) != len(clips.roots):
            raise UserError(
                f"data.weights has {len(config.weights)} values for {len(clips.roots)} data sets",
                "give one weight per data set, or none",
            )
        # Every loader process has a copy: no more of a large index than says where clips lie.
        clips = replace(clips, rows=clips.rows[[*_COLUMNS, "identity"]])
        self.clips = clips
        self.config = config
        self.augment = augment
        self.sizes = sizes
        self.seed = seed
        self._remote = any("://" in root for root in clips.roots)
        self.order = SampleOrder(
            clips.identities(), seed=seed, weights=config.weights, balance=config.balance
        )
        # Arrays: a pandas row costs more to fetch than a small clip to decode.
        self._columns = {name: clips.rows[name].to_numpy() for name in _COLUMNS}

    def read_batch(self, indices: Sequence[int]) -> Batch:
        """Return the samples at `indices` as one batch."""
        numbers = [int(n) for n in indices]
        if not self._remote or len(numbers) < 2:
            return collate([self.read(n) for n in numbers])
        # An object store answers many questions in the time of one.
        with ThreadPoolExecutor(min(len(numbers), _READS_AT_ONCE)) as pool:
            return collate(list(pool.map(self.read, numbers)))

    def read(self, n: int) -> Sample:
        """Return sample `n`, or where its clip cannot be used another in its place.

        The substitute is a pure function of (seed, n) too, and carries the fault in `faults`.

        Raises:
            UserError: the sample and its substitutes are all bad, or none is allowed.
        """
        faults: list[str] = []
        tried: set[int] = set()
        # So many bad draws mean that the store is at fault, not a sample.
        for attempt in range(16):
            row = self.order.at(n) if attempt == 0 else self.order.substitute(n, attempt)
            if row in tried:
                continue
            tried.add(row)
            try:
                where = {name: column[row] for name, column in self._columns.items()}
                sample = self._read_patiently(n, where)
            except _BadSampleError as error:
                faults.append(str(error))
                if self.config.max_bad_samples == 0:
                    break
                continue
            return replace(sample, faults=tuple(faults)) if faults else sample
        raise UserError(
            f"sample {n} cannot be read: {faults[0]}",
            "run `xnemo inspect` on the data set, exclude the clip with data.filter, or allow "
            "substitutes with data.max_bad_samples",
        )

    def _read_patiently(self, n: int, row: dict) -> Sample:
        """Read with retries: object stores fail now and then, damaged bytes fail always."""
        where = f"{row['key']} in {row['root']}/shards/{row['shard']}"
        for attempt in range(self.config.retries + 1):
            try:
                return self._read_row(n, row)
            except (OSError, UserError) as error:
                cause: Exception = error
            except Exception as error:
                raise _BadSampleError(f"{where}: {type(error).__name__}: {error}") from error
            if attempt < self.config.retries:
                log.warning("reading %s failed, trying again: %s", where, cause)
                time.sleep(0.1 * 4**attempt)
        raise _BadSampleError(f"{where}: {cause}") from cause

    def _read_row(self, n: int, row: dict) -> Sample:
        mp4, npz = read_members(row["root"], row, ("mp4", "npz"))
        if self.config.verify:
            for member, data in (("mp4", mp4), ("npz", npz)):
                if hashlib.sha256(data).hexdigest() != row[f"{member}_sha256"]:
                    raise ValueError(f"the clip's {member} differs from the index's sha256")
        with np.load(io.BytesIO(npz), allow_pickle=False) as arrays:
            boxes_T4, pose_T3 = arrays["bbox_crop"], arrays["pose"]
            landmarks_T52 = arrays["landmarks"]
        pairs = self.config.pairs
        rng = sample_rng(self.seed, n, "pair")
        reference, targets = choose_frames(
            np.isfinite(boxes_T4).all(axis=1),
            pose_T3,
            rng,
            frames=pairs.frames,
            layout=pairs.layout,
            stride=pairs.stride,
            policy=pairs.policy,
            min_pose_degrees=pairs.min_pose_degrees,
        )
        wanted, place = np.unique([reference, *targets], return_inverse=True)
        decoded = decode_clip(mp4, wanted.tolist())
        frames = decoded[place]
        frames, boxes, landmarks = change_appearance(
            frames,
            boxes_T4[[reference, *targets]],
            landmarks_T52[[reference, *targets]],
            self.augment,
            sample_rng(self.seed, n, "appearance"),
        )
        sample = self._cut(n, row["key"], frames, boxes)
        if not self.sizes.describe_faces:
            return sample
        seen = zip(frames[1:], boxes[1:], landmarks[1:], strict=True)
        return replace(sample, face_FK=np.stack([describe_face(*face) for face in seen]))

    def _cut(self, n: int, key: str, frames: np.ndarray, boxes: np.ndarray) -> Sample:
        """Cut every picture of a sample; frame 0 is the reference."""
        sizes = self.sizes
        frame_hw = frames.shape[1:3]
        tight = [tight_box(box, frame_hw) for box in boxes]
        wide = resize_frames(frames, sizes.wide)
        augmentation = draw_augmentation(
            self.augment, sizes.driving, sample_rng(self.seed, n, "augment")
        )
        driving = [
            augmentation.apply(frame, np.asarray(box))
            for frame, box in zip(frames[1:], tight[1:], strict=True)
        ]
        if sample_rng(self.seed, n, "box").random() < self.config.constant_box_probability:
            vectors = np.tile([0.0, 0.0, 1.0], (len(boxes) - 1, 1))
        else:
            vectors = np.stack([box_vector(box, boxes[0]) for box in boxes[1:]])
        heads = None
        if sizes.head is not None and sizes.wide_head:
            heads = resize_frames(frames, sizes.head)
        elif sizes.head is not None:
            crops = zip(frames, tight, strict=True)
            heads = np.stack([_cut_out(frame, box, sizes.head) for frame, box in crops])
        return Sample(
            index=n,
            key=key,
            reference=wide[:1],
            target=wide[1:],
            driving=np.stack(driving),
            reference_pose=_cut_out(frames[0], tight[0], sizes.driving)[None],
            head_reference=None if heads is None else heads[:1],
            head_target=None if heads is None else heads[1:],
            box_F3=vectors.astype(np.float32),
        )


def _cut_out(frame_HWC: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    return resize_frames(crop(frame_HWC, box)[None], size)[0]


class _BadSampleError(Exception):
    """A clip that cannot be used, with its name and the cause."""
