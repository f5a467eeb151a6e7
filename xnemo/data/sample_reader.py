"""Reading of sample n of a run: fetch, decode, crop, augment."""

import hashlib
import io
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.decode import decode_clip
from preprocessing.errors import UserError
from preprocessing.geometry import (
    box_vector,
    crop,
    driving_crop_boxes,
    reference_crop_box,
    tight_box,
)
from preprocessing.storage.sample import read_members
from xnemo.data.augment import change_appearance, draw_augmentation
from xnemo.data.batch import Batch, Sample, collate
from xnemo.data.clip_table import ClipTable
from xnemo.data.config import AugmentConfig, DataConfig
from xnemo.data.matching import Mate, MotionGroups
from xnemo.data.motion_numbers import motion_numbers
from xnemo.data.order import SampleOrder
from xnemo.data.pairs import choose_frames
from xnemo.data.resize import crop_and_resize, place_box, resize_frames
from xnemo.data.seeding import sample_rng

log = logging.getLogger(__name__)

# Arrays of a clip's npz by name.
_Arrays = dict[str, NDArray[Any]]

# Columns of the index that reading a clip requires.
_COLUMNS = (
    "root", "key", "shard", "mp4_offset", "mp4_length", "mp4_sha256", "npz_offset", "npz_length",
    "npz_sha256",
)  # fmt: skip

# Samples of a batch that are read concurrently from an object store.
_READS_AT_ONCE = 8


@dataclass(frozen=True)
class ImageSizes:
    """Sides in pixels of a sample's images."""

    # Wide crops of reference and targets.
    wide: int
    # The motion encoder's input.
    driving: int
    # The GAN head's reference and target; None omits them.
    head: int | None
    # Whether the GAN head uses the wide crop (motion with position) or the tight one.
    wide_head: bool = False
    # Whether samples include the motion numbers of their driving frames.
    motion_numbers: bool = False


class SampleReader:
    """Read samples by their number in the run; sample n is the same in every process."""

    def __init__(
        self,
        clips: ClipTable,
        config: DataConfig,
        augment: AugmentConfig,
        sizes: ImageSizes,
        *,
        seed: int,
    ) -> None:
        """Prepare to read.

        Raises:
            UserError: the number of weights is not that of the data sets, or matched pairs are
                wanted and no two people make the same motion.
        """
        if config.weights and len(config.weights) != len(clips.roots):
            raise UserError(
                f"data.weights has {len(config.weights)} values for {len(clips.roots)} data sets",
                "set one weight per data set, or none",
            )
        self._groups = MotionGroups(clips) if config.pairs.matched > 0 else None
        # Every loader process has a copy: keep only the columns that locate clips.
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
        # Arrays, because fetching a pandas row takes longer than decoding a small clip.
        self._columns = {name: clips.rows[name].to_numpy() for name in _COLUMNS}

    def read_batch(self, indices: Sequence[int]) -> Batch:
        """Return the samples at `indices` as one batch."""
        numbers = [int(n) for n in indices]
        if not self._remote or len(numbers) < 2:
            return collate([self.read(n) for n in numbers])
        # Requests to an object store overlap.
        with ThreadPoolExecutor(min(len(numbers), _READS_AT_ONCE)) as pool:
            return collate(list(pool.map(self.read, numbers)))

    def read(self, n: int) -> Sample:
        """Return sample `n`, or a substitute if its clip cannot be read.

        The substitute is a pure function of (seed, n), and `faults` says why it was needed.

        Raises:
            UserError: the sample and its substitutes cannot be read, or none is allowed.
        """
        faults: list[str] = []
        tried: set[int] = set()
        # After 16 failures the store is at fault, not a sample.
        for attempt in range(16):
            row = self.order.at(n) if attempt == 0 else self.order.substitute(n, attempt)
            if row in tried:
                continue
            tried.add(row)
            try:
                sample = self._read_with_retries(n, row)
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

    def _read_with_retries(self, n: int, number: int) -> Sample:
        """Read with retries on errors of the store; damaged clips fail at once."""
        row = self._location(number)
        where = f"{row['key']} in {row['root']}/shards/{row['shard']}"
        for attempt in range(self.config.retries + 1):
            try:
                return self._read_row(n, number)
            except (OSError, UserError) as error:
                cause: Exception = error
            except Exception as error:
                raise _BadSampleError(f"{where}: {type(error).__name__}: {error}") from error
            if attempt < self.config.retries:
                log.warning("reading %s failed, retrying: %s", where, cause)
                time.sleep(0.1 * 4**attempt)
        raise _BadSampleError(f"{where}: {cause}") from cause

    def _location(self, number: int) -> dict[str, Any]:
        return {name: column[number] for name, column in self._columns.items()}

    def _read_members(self, number: int, *members: str) -> list[bytes]:
        """Return members of a clip, verified if that is set."""
        row = self._location(number)
        contents = read_members(row["root"], row, members)
        if self.config.verify:
            for member, data in zip(members, contents, strict=True):
                if hashlib.sha256(data).hexdigest() != row[f"{member}_sha256"]:
                    raise ValueError(f"the clip's {member} differs from the index's sha256")
        return contents

    def _read_clip(self, number: int) -> tuple[bytes, _Arrays]:
        """Return a clip's mp4 and the arrays of its npz."""
        mp4, npz = self._read_members(number, "mp4", "npz")
        return mp4, _unpack(npz)

    def _read_row(self, n: int, number: int) -> Sample:
        clip = self._read_clip(number)
        _, arrays = clip
        usable_T = np.asarray(np.isfinite(arrays["bbox_crop"]).all(axis=1), bool)
        mate, mate_clip = self._mate(n, number), clip
        if mate is not None:
            mate_clip = self._read_clip(mate.row)
            usable_T = usable_T & mate.usable(mate_clip[1]["bbox_crop"], len(usable_T))
        pairs = self.config.pairs
        reference, targets = choose_frames(
            usable_T,
            arrays["pose"],
            sample_rng(self.seed, n, "pair"),
            frames=pairs.frames,
            layout=pairs.layout,
            stride=pairs.stride,
            policy=pairs.policy,
            min_pose_degrees=pairs.min_pose_degrees,
        )
        frames, boxes, crops = self._cut_out(n, clip, [reference, *targets])
        driving_frames, driving_crops, shown = frames[1:], crops[1:], targets
        if mate is not None:
            shown = targets + mate.shift
            driving_frames, _, driving_crops = self._cut_out(n, mate_clip, shown.tolist())
        driving = list(zip(driving_frames, driving_crops, strict=True))
        key = str(self._columns["key"][number])
        sample = self._crop(n, key, frames, boxes, crops[1:], driving)
        if not self.sizes.motion_numbers:
            return sample
        return replace(sample, motion_FK=motion_numbers(mate_clip[1], shown))

    def _cut_out(
        self, n: int, clip: tuple[bytes, _Arrays], chosen: Sequence[int]
    ) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[Any]]:
        """Return frames of a clip, their face boxes and their driving crops, changed alike."""
        mp4, arrays = clip
        frames = _decode(mp4, chosen)
        boxes_T4 = arrays["bbox_crop"]
        # The crops of animation, which depend on the whole clip, in whole pixels as they are cut.
        crops_T4 = np.trunc(driving_crop_boxes(boxes_T4, frames.shape[1:3]))
        frames, boxes, _ = change_appearance(
            frames,
            np.concatenate([boxes_T4[chosen], crops_T4[chosen]]),
            arrays["landmarks"][chosen],
            self.augment,
            sample_rng(self.seed, n, "appearance"),
        )
        boxes, crops = np.split(boxes, [len(frames)])
        return frames, boxes, crops

    def read_motion(self, number: int) -> NDArray[np.float32]:
        """Return the motion numbers [T, K] of all frames of the clip in row `number`."""
        arrays = _unpack(*self._read_members(number, "npz"))
        return motion_numbers(arrays, np.arange(len(arrays["pose"])))

    def _mate(self, n: int, number: int) -> Mate | None:
        """Return the clip of another person that drives sample `n`, or None."""
        if self._groups is None:
            return None
        rng = sample_rng(self.seed, n, "mate")
        if rng.random() >= self.config.pairs.matched:
            return None
        return self._groups.draw(number, rng)

    def _crop(
        self,
        n: int,
        key: str,
        frames: NDArray[np.uint8],
        boxes: NDArray[Any],
        crops: NDArray[Any],
        driving: Sequence[tuple[NDArray[np.uint8], NDArray[Any]]],
    ) -> Sample:
        """Crop and resize every image of a sample; frame 0 is the reference.

        Args:
            n: number of the sample.
            key: its clip.
            frames: reference and targets.
            boxes: their face boxes.
            crops: crops of the targets' faces.
            driving: driving frames with their crops.
        """
        sizes = self.sizes
        augmentation = draw_augmentation(
            self.augment, sizes.driving, sample_rng(self.seed, n, "augment")
        )
        augmented = [augmentation.apply(frame, crop) for frame, crop in driving]
        vectors = np.stack([box_vector(box, boxes[0]) for box in boxes[1:]])
        pose_box = tight_box(boxes[0], frames.shape[1:3])
        heads = None
        if sizes.head is not None and not sizes.wide_head:
            cuts = [(frames[0], pose_box), *zip(frames[1:], crops, strict=True)]
            heads = np.stack([crop_and_resize(frame, box, sizes.head) for frame, box in cuts])
        shown = frames
        if sample_rng(self.seed, n, "box").random() < self.config.constant_box_probability:
            # The targets must have what the vector says: the face at the reference's place.
            vectors = np.tile([0.0, 0.0, 1.0], (len(boxes) - 1, 1))
            moved = [
                place_box(frame, box, boxes[0])
                for frame, box in zip(frames[1:], boxes[1:], strict=True)
            ]
            shown = np.stack([frames[0], *moved])
        if self.config.framing == "portrait":
            # Within the tube, which is twice as wide as all of the clip's faces together.
            framed = reference_crop_box(boxes[0], frames.shape[1:3])
            shown = np.stack([crop(frame, framed) for frame in shown])
        wide = resize_frames(shown, sizes.wide)
        if sizes.head is not None and sizes.wide_head:
            heads = resize_frames(shown, sizes.head)
        return Sample(
            index=n,
            key=key,
            reference=wide[:1],
            target=wide[1:],
            driving=np.stack(augmented),
            reference_pose=crop_and_resize(frames[0], pose_box, sizes.driving)[None],
            head_reference=None if heads is None else heads[:1],
            head_target=None if heads is None else heads[1:],
            box_F3=vectors.astype(np.float32),
        )


def _unpack(npz: bytes) -> _Arrays:
    """Return the arrays of a clip that samples are made from."""
    with np.load(io.BytesIO(npz), allow_pickle=False) as arrays:
        wanted = ("bbox_crop", "pose", "landmarks", "truth")
        return {name: arrays[name] for name in wanted if name in arrays}


def _decode(mp4: bytes, frames: Sequence[int]) -> NDArray[np.uint8]:
    """Return frames of a clip in the given order, which may repeat some."""
    unique, inverse = np.unique(frames, return_inverse=True)
    decoded: NDArray[np.uint8] = decode_clip(mp4, unique.tolist())[inverse]
    return decoded


class _BadSampleError(Exception):
    """A clip cannot be read; the message names it and the cause."""
