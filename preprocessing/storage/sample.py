"""One sample: a face track inside one shot, as arrays, JSON and MP4 under one stable key."""

import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from preprocessing.errors import UserError
from preprocessing.storage.shard import HEADER_BYTES, header_name
from preprocessing.storage.store import open_store

#: Version of the members' layout; readers reject other versions.
SCHEMA_VERSION = 1

#: Bits of `SampleArrays.flags`.
DETECTED, INTERPOLATED, OUT_OF_FRAME = 1, 2, 4

#: Names of a sample's members, in tar order.
MEMBERS = ("json", "mp4", "npz")


@dataclass(frozen=True)
class SampleArrays:
    """Arrays per frame (T frames at 25 fps) and per clip."""

    # Face box (x0, y0, x1, y1) in pixels of the upright source frame, float32 [T, 4].
    bbox: np.ndarray
    # The same box in pixels of the stored crop, float32 [T, 4].
    bbox_crop: np.ndarray
    # Eyes as they appear left to right, nose, mouth corners in crop pixels, float32 [T, 5, 2].
    landmarks: np.ndarray
    # Head pose (yaw, pitch, roll) in degrees, float32 [T, 3].
    pose: np.ndarray
    # Sharpness of the face, float32 [T]; see `preprocessing.chunk.score`.
    sharpness: np.ndarray
    # Bits: 1 detected, 2 interpolated, 4 face partly out of the frame; uint8 [T].
    flags: np.ndarray
    # Presentation time in the source in microseconds, int64 [T].
    pts_us: np.ndarray
    # Number of the source frame, int32 [T]; repeats where the source is slower than 25 fps.
    src_frame: np.ndarray
    # Affine from source to crop pixels, float32 [2, 3].
    src_to_crop: np.ndarray
    # Unit-length face descriptor, float32 [D]; empty where no recogniser ran.
    identity: np.ndarray
    # Exact motion of a synthetic source, float32 [T, P]; the JSON member names the P columns. None,
    # and not stored, for other sources.
    truth: np.ndarray | None = None


_TYPES = {
    "bbox": np.float32, "bbox_crop": np.float32, "landmarks": np.float32, "pose": np.float32,
    "sharpness": np.float32, "flags": np.uint8, "pts_us": np.int64, "src_frame": np.int32,
    "src_to_crop": np.float32, "identity": np.float32, "truth": np.float32,
}  # fmt: skip


@dataclass(frozen=True)
class SampleRecord:
    """A sample as it is stored."""

    # Stable name; see `sample_key`.
    key: str
    # H.264 bytes.
    mp4: bytes
    # Per-frame arrays.
    arrays: SampleArrays
    # Source, scores, thresholds and hashes; plain JSON.
    meta: Mapping[str, Any]


def sample_key(source_id: str, shot: int, track: int, start_ms: int) -> str:
    """Return the stable name of a sample; `source_id` is the sha256 of the source's content."""
    source = hashlib.sha1(source_id.encode()).hexdigest()[:12]
    return f"{source}_{shot:04d}_{track:02d}_{start_ms:09d}"


def pack_arrays(arrays: SampleArrays) -> bytes:
    """Return the arrays as an ``.npz`` whose bytes depend on their values only."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for field in dataclasses.fields(SampleArrays):
            if getattr(arrays, field.name) is None:
                continue
            value = np.ascontiguousarray(getattr(arrays, field.name), dtype=_TYPES[field.name])
            member = io.BytesIO()
            np.lib.format.write_array(member, value, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{field.name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, member.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=6)
    return buffer.getvalue()


def unpack_arrays(data: bytes) -> SampleArrays:
    """Read the arrays back from an ``npz`` member."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        names = (name for name in _TYPES if name != "truth" or name in archive)
        return SampleArrays(**{name: archive[name] for name in names})


def pack_meta(meta: Mapping[str, Any]) -> bytes:
    """Return the JSON member: sorted keys, floats as Python prints them, no NaN."""
    return json.dumps(meta, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def read_member(root: str | os.PathLike[str], row: Mapping[str, Any], member: str) -> bytes:
    """Read one member of a kept sample; see `read_members`."""
    return read_members(root, row, [member])[0]


def read_members(
    root: str | os.PathLike[str], row: Mapping[str, Any], members: Sequence[str]
) -> list[bytes]:
    """Read members of a kept sample by their byte ranges, from a folder or an fsspec URL.

    Adjacent members are read in one request. The tar headers are read and checked too, so that a
    truncated shard or one of another index is detected.

    Args:
        root: folder or URL of the data set.
        row: a row of its index.
        members: of ``mp4``, ``npz`` and ``json``.

    Raises:
        UserError: the shard has other content at that offset.
        OSError: the shard cannot be read.
    """
    ranges = [_member_range(row, member) for member in members]
    begin, end = min(first for first, _ in ranges), max(last for _, last in ranges)
    store, name = open_store(root), f"shards/{row['shard']}"
    if end - begin <= sum(last - first for first, last in ranges) + len(ranges) * HEADER_BYTES:
        whole = store.read(name, begin, end)
        blocks = [whole[first - begin : last - begin] for first, last in ranges]
    else:
        blocks = [store.read(name, first, last) for first, last in ranges]
    return [_content(row, m, b) for m, b in zip(members, blocks, strict=True)]


def _member_range(row: Mapping[str, Any], member: str) -> tuple[int, int]:
    """Return first and last (exclusive) byte of a member and its header."""
    if member not in MEMBERS:
        raise KeyError(f"a sample has no member {member!r}, only {', '.join(MEMBERS)}")
    start, length = int(row[f"{member}_offset"]), int(row[f"{member}_length"])
    if start < HEADER_BYTES or length < 0:
        name = f"{row['key']}.{member}"
        raise UserError(f"the index has no position of {name}", "run xnemo preprocess again")
    return start - HEADER_BYTES, start + length


def _content(row: Mapping[str, Any], member: str, block: bytes) -> bytes:
    """Return a member's bytes out of its block; raise UserError where it is wrong."""
    name, length = f"{row['key']}.{member}", int(row[f"{member}_length"])
    if header_name(block) != name:
        found = "another member is" if len(block) >= HEADER_BYTES else "nothing is"
        raise UserError(
            f"{found} in shard {row['shard']} where the index has {name}",
            "copy shards and index of one data set together, or run xnemo preprocess again",
        )
    if len(block) != HEADER_BYTES + length:
        raise UserError(
            f"shard {row['shard']} is truncated inside {name}",
            "copy it again, or run xnemo preprocess again",
        )
    return block[HEADER_BYTES:]


def read_sample(root: str | os.PathLike[str], row: Mapping[str, Any]) -> SampleRecord:
    """Read all members of a kept sample."""
    mp4, npz, meta = read_members(root, row, ("mp4", "npz", "json"))
    return SampleRecord(str(row["key"]), mp4, unpack_arrays(npz), json.loads(meta))
