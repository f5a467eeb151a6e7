"""Motion as a file: encode a driving video once, animate many portraits."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from preprocessing.errors import UserError, first_line
from xnemo.animation.motion import Motion
from xnemo.animation.tracking import FaceTrack, Shot
from xnemo.model.motion.encoder import MotionEncoder

SUFFIX = ".safetensors"
_FORMAT = "xnemo motion 1"


def encoder_sha256(encoder: MotionEncoder) -> str:
    """Return the sha256 of a motion encoder's weights, as they are at this moment."""
    found = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def pack_motion(motion: Motion, fps: float, encoder: str) -> bytes:
    """Return the content of a motion file.

    Args:
        motion: The motion of a driving video.
        fps: Frames per second.
        encoder: `encoder_sha256` of the encoder that read it.
    """
    track = motion.track
    facts = {
        "format": _FORMAT,
        "encoder": encoder,
        "fps": fps,
        "frame_hw": track.frame_hw,
        "shots": [asdict(shot) for shot in track.shots],
        "frames_without_face": track.frames_without_face,
        "unmoving": track.unmoving,
    }
    tensors = {
        "face": motion.face.contiguous(),
        "boxes": torch.from_numpy(track.boxes),
        "shown": torch.from_numpy(track.shown),
    }
    return save(tensors, {"xnemo": json.dumps(facts)})


def read_motion_file(path: Path, encoder: str) -> tuple[Motion, float]:
    """Return the motion of a file, and its frames per second.

    Args:
        path: A file that `xnemo encode-motion` wrote.
        encoder: `encoder_sha256` of the model that will show it.

    Raises:
        UserError: It is missing, damaged, no motion, or of another model's encoder.
    """
    if not path.is_file():
        raise UserError(f"there is no motion file at {path}", "check the path")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("xnemo", "{}"))
            if facts.get("format") != _FORMAT:
                raise UserError(
                    f"{path} holds no motion", "give a file written by xnemo encode-motion"
                )
            if facts["encoder"] != encoder:
                raise UserError(
                    f"{path} holds motion of another model's encoder ({facts['encoder'][:8]}, this"
                    f" model's is {encoder[:8]})",
                    "encode the driving video with this model",
                )
            face, boxes, shown = (file.get_tensor(name) for name in ("face", "boxes", "shown"))
        shots = tuple(Shot(**shot) for shot in facts["shots"])
        if not len(face) == len(boxes) == len(shown) == shots[-1].stop:
            raise ValueError("its parts differ in length")
        track = FaceTrack(
            boxes.numpy(),
            shots,
            shown.numpy(),
            tuple(facts["frame_hw"]),
            facts["frames_without_face"],
            facts["unmoving"],
        )
        return Motion(face, track), float(facts["fps"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{path} is damaged or not a motion file ({first_line(error)})",
            "encode the driving video again",
        ) from error
