"""Write a small data set of moving faces, in the format preprocessing writes, in a second."""

import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import skimage.data

from preprocessing.encode.clip_encoder import encode_clip
from preprocessing.storage.index import write_index
from preprocessing.storage.sample import SampleArrays, pack_arrays, pack_meta, sample_key
from preprocessing.storage.shard import write_tar_file
from preprocessing.storage.store import open_store
from preprocessing.synthetic.motion.columns import COLUMN, MOTION_COLUMNS

# Where the face lies in scikit-image's astronaut, (x0, y0, x1, y1).
_FACE = np.array([172.0, 62.0, 280.0, 190.0])
# Her eyes, nose and mouth corners.
_LANDMARKS = np.array([[201.0, 115], [242, 111], [224, 135], [204, 153], [246, 151]])


def write_dataset(
    root: Path,
    *,
    clips: int = 6,
    frames: int = 20,
    size: int = 64,
    people: int = 3,
    shards: int = 1,
    matched: bool = False,
) -> Path:
    """Write `clips` clips of `people` tinted faces that shift, grow and turn; returns `root`.

    They are dealt to `shards` shards in turn.

    The last clip of every third is of split "val", the others "train". With `matched` all people
    make the same motions, clip by clip, which are known exactly (yaw and jawOpen), and the clip of
    person p begins 2 p frames into the motion.
    """
    (root / "shards").mkdir(parents=True, exist_ok=True)
    picture = skimage.data.astronaut()
    rows: list[dict[str, object]] = []
    members: dict[str, list[tuple[str, bytes]]] = {f"{n:06d}.tar": [] for n in range(shards)}
    for number in range(clips):
        person = number % people
        key = sample_key(f"{root.name}{number}", 0, 0, 0)
        motion, begin = (number // people, 2 * person) if matched else (number, 0)
        arrays, pictures = _clip(picture, person, motion, frames, size, begin)
        if matched:
            arrays = replace(arrays, truth=_truth(arrays.pose))
        mp4 = encode_clip(pictures)
        npz = pack_arrays(arrays)
        split, shard = "val" if number % 3 == 2 else "train", f"{number % shards:06d}.tar"
        meta = pack_meta({"key": key, "identity": f"person{person}", "split": split})
        members[shard] += [(f"{key}.json", meta), (f"{key}.mp4", mp4), (f"{key}.npz", npz)]
        rows.append(
            {
                "key": key, "status": "kept", "shard": shard, "frames": frames, "fps": 25.0,
                "size": size, "duration_s": frames / 25, "source": f"clip{number}", "licence": "PD",
                "shot": 0, "track": 0, "start_ms": begin * 40,
                "end_ms": (begin + frames) * 40, "motion_group": str(motion) if matched else "",
                "identity": f"person{person}", "split": split,
                "face_px": size / 2, "yaw": float(number), "score": 1.0,
                **{
                    f"{name}_sha256": hashlib.sha256(data).hexdigest()
                    for name, data in (("mp4", mp4), ("npz", npz), ("json", meta))
                },
            }
        )  # fmt: skip
    places = {
        place.name: place
        for shard, content in members.items()
        for place in write_tar_file(root / "shards" / shard, sorted(content))
    }
    for row in rows:
        for name in ("mp4", "npz", "json"):
            place = places[f"{row['key']}.{name}"]
            row[f"{name}_offset"], row[f"{name}_length"] = place.offset, place.length
    write_index(open_store(root), rows)
    return root


def _truth(pose_T3: np.ndarray) -> np.ndarray:
    truth = np.zeros((len(pose_T3), len(MOTION_COLUMNS)), np.float32)
    truth[:, COLUMN["yaw"]] = pose_T3[:, 0]
    truth[:, COLUMN["jawOpen"]] = pose_T3[:, 1] / 20 + 0.5
    return truth


def _clip(
    picture: np.ndarray, person: int, number: int, frames: int, size: int, begin: int = 0
) -> tuple[SampleArrays, list[np.ndarray]]:
    rng = np.random.default_rng(number)
    phase, speed = rng.uniform(0, 6.28), rng.uniform(0.1, 0.3)
    tint = np.roll([1.0, 0.8, 0.6], person)
    boxes, landmarks, poses, pictures = [], [], [], []
    side = 2 * (_FACE[2:] - _FACE[:2]).max()
    centre = (_FACE[:2] + _FACE[2:]) / 2
    for t in range(begin, begin + frames):
        wave = np.sin(phase + speed * t)
        shift = np.array([6 * wave, 3 * np.cos(phase + speed * t)]) * size / 64
        scale = size / side * (1 + 0.1 * wave)
        affine = np.array([[scale, 0, 0], [0.1 * wave * scale, scale, 0]])
        affine[:, 2] = size / 2 + shift - affine[:, :2] @ centre
        warped = cv2.warpAffine(picture, affine, (size, size), flags=cv2.INTER_AREA)
        pictures.append((warped * tint).astype(np.uint8))
        corners = _FACE.reshape(2, 2) @ affine[:, :2].T + affine[:, 2]
        boxes.append(corners.reshape(4))
        landmarks.append(_LANDMARKS @ affine[:, :2].T + affine[:, 2])
        poses.append([30 * wave, 10 * np.cos(t), 0])
    box = np.array(boxes, dtype=np.float32)
    return (
        SampleArrays(
            bbox=box,
            bbox_crop=box,
            landmarks=np.array(landmarks, dtype=np.float32),
            pose=np.array(poses, dtype=np.float32),
            sharpness=np.ones(frames, np.float32),
            flags=np.ones(frames, np.uint8),
            pts_us=(np.arange(frames) * 40_000).astype(np.int64),
            src_frame=np.arange(frames, dtype=np.int32),
            src_to_crop=np.eye(2, 3, dtype=np.float32),
            identity=np.zeros(0, np.float32),
        ),
        pictures,
    )
