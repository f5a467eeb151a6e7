"""The learning study's faces of known motion: who is held out, and what is asked about them."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.animate.job import place_networks
from pipelines.demo.trials import make_trial
from pipelines.demo.videos import DemoClip, plan_demo_videos, read_frames, write_demo_videos
from pipelines.evaluate.settings import EvaluateOptions
from pipelines.preprocess.job import preprocess
from preprocessing.config import PreprocessConfig
from preprocessing.faces import make_detector
from preprocessing.synthetic.motion.columns import MOTION_COLUMNS
from xnemo.animation.animator import Animator
from xnemo.animation.motion import find_faces
from xnemo.evaluation.face_metrics import face_distances
from xnemo.evaluation.held_out import HeldOutClip
from xnemo.evaluation.image_metrics import mean_finite
from xnemo.evaluation.lpips import load_lpips
from xnemo.evaluation.probes import identity_accuracy, motion_latents, motion_r2
from xnemo.evaluation.reenactment import Trial, compare_methods
from xnemo.model.networks import build_networks
from xnemo.training.checkpoint.bundle import load_bundle

# Side of the stored pictures; the tiny network's own is half of it.
_SIDE = 128


def make_known_faces(out: Path, *, few: bool = False) -> list[DemoClip]:
    """Write the videos, preprocess those of training to ``out/dataset``, and return all clips."""
    takes, seconds = (1, 2.2) if few else (4, 3.0)
    clips = plan_demo_videos(
        out / "videos", people=6, seconds=seconds, clips_per_person=takes, driving_people=6
    )
    write_demo_videos(clips)
    base = PreprocessConfig()
    settings = replace(
        base,
        plan=replace(base.plan, licence="synthetic, CC0"),
        tube=replace(base.tube, size=_SIDE),
        shard=replace(base.shard, validation=0.0, test=0.0),
    )
    preprocess(out / "videos" / "train", out / "dataset", settings)
    return clips


def known_motion_tables(
    bundle_path: Path, clips: Sequence[DemoClip], options: EvaluateOptions
) -> dict[str, list[dict[str, Any]]]:
    """Answer the study's questions about one bundle."""
    bundle = load_bundle(bundle_path)
    place_networks(bundle.networks, "auto", "fp32")
    detector = make_detector(options.detector, options.face_model_dir)
    animator = Animator(bundle.networks, detector, bundle.config.diffusion)
    fresh = build_networks(bundle.config.network, bundle.config.seed).eval()
    place_networks(fresh, "auto", "fp32")
    held_out = {clip.identity: clip for clip in clips if clip.split == "held_out"}
    trained_on = {clip.identity for clip in clips if clip.split == "train"}
    strangers = [name for name in held_out if name not in trained_on]

    trials = [_trial(held_out[name], held_out[name], options) for name in strangers]
    scores = compare_methods(
        animator,
        trials,
        others={"untrained": Animator(fresh, detector, bundle.config.diffusion)},
        config=options,
        lpips=load_lpips(options.lpips) if options.lpips else None,
    )
    tables = {"self-reenactment": [asdict(row) for row in scores]}
    tables["cross-reenactment"] = [_cross(animator, strangers, held_out, options)]
    tables["probes"] = _probes(bundle.networks.motion_encoder, clips, detector, options)
    return {title: [_plain(row) for row in rows] for title, rows in tables.items()}


def _cross(
    animator: Animator,
    strangers: list[str],
    held_out: dict[str, DemoClip],
    options: EvaluateOptions,
) -> dict[str, Any]:
    """Move every stranger by the held-out motion of the next person, and average."""
    names = sorted(held_out)
    found = []
    for name in strangers:
        other = names[(names.index(name) + 1) % len(names)]
        trial = _trial(held_out[name], held_out[other], options)
        made = np.stack(list(animator.animate(trial.portrait, trial.driving, options)))
        found.append(face_distances(made, trial.driving, trial.portrait, animator.detector))
    return {
        "portrait": "mean",
        **{
            key: mean_finite(torch.tensor([getattr(f, key) for f in found]))
            for key in ("identity", "pose_degrees", "expression", "found")
        },
    }


def _probes(
    encoder: Any, clips: Sequence[DemoClip], detector: Any, options: EvaluateOptions
) -> list[dict[str, Any]]:
    """Read known motion and identity from the latents of all clips.

    Motion is read on the held-out motion of everybody, a person at a time left out of the fit;
    identity on everybody with two clips or more, a clip at a time left out.
    """
    read = [_read(clip, detector, options.stride) for clip in clips]
    latents = motion_latents(encoder, [stored for stored, _ in read])
    motion = np.concatenate([known for _, known in read])
    identities, keys = (
        np.concatenate([[getattr(stored, name)] * len(stored.frames) for stored, _ in read])
        for name in ("identity", "key")
    )
    held = np.concatenate(
        [
            [clip.split == "held_out"] * len(s.frames)
            for clip, (s, _) in zip(clips, read, strict=True)
        ]
    )
    r2 = motion_r2(latents[held], motion[held], identities[held])
    rows: list[dict[str, Any]] = [
        {"probe": f"{name}, R²", "value": float(value)}
        for name, value in zip(MOTION_COLUMNS, r2, strict=True)
    ]
    who = identity_accuracy(latents, identities, keys)
    return [*rows, {"probe": "identity", "value": who.accuracy, "chance": who.chance}]


def _read(clip: DemoClip, detector: Any, stride: int) -> tuple[HeldOutClip, NDArray[np.float32]]:
    """Return a clip's frames with detected faces, and the motion it was drawn with."""
    frames = np.stack(read_frames(clip.path)[::stride])
    motion = clip.read_truth().motion
    track = find_faces(frames, detector)
    stored = HeldOutClip(
        key=clip.path.stem,
        identity=clip.identity,
        frames=frames,
        boxes=track.boxes.astype(np.float32),
        landmarks=np.zeros((len(frames), 5, 2), np.float32),
        pose=motion[::stride, :3],
    )
    return stored, motion[::stride]


def _trial(portrait: DemoClip, driving: DemoClip, options: EvaluateOptions) -> Trial:
    trial = make_trial(portrait, driving, options.stride)
    taken = slice(options.frames)
    return replace(trial, driving=trial.driving[taken], truth=trial.truth[taken])


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return None for what could not be measured: JSON has no NaN."""
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}
