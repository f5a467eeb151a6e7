"""Evaluation on the held-out clips of a data set: reenactment, and probes of the motion latent."""

from dataclasses import asdict, replace

import numpy as np

from pipelines.animate.job import place_networks
from pipelines.evaluate.settings import Row, Run, cross_row, plain, with_mean
from preprocessing.dataset.identity import BY_SOURCE
from preprocessing.errors import UserError
from xnemo.animation.animator import Animator
from xnemo.evaluation.held_out import HeldOutClip, KnownFaces, read_held_out
from xnemo.evaluation.probes import identity_accuracy, motion_latents, motion_r2
from xnemo.evaluation.reenactment import Trial, compare_methods
from xnemo.model.networks import build_networks

_CLIPS = 8


def evaluate_dataset(run: Run, root: str) -> dict[str, list[Row]]:
    """Return the tables of a data set.

    Raises:
        UserError: The data set is missing or damaged, or the filter selects no clip.
    """
    bundle, options = run.bundle, run.options
    clips = _read(run, root, options.limit or _CLIPS)
    if any(clip.identity.startswith(BY_SOURCE) for clip in clips):
        run.notes.append(
            "each source counts as one person, because no recogniser ran in preprocessing: "
            "held-out people may also be in training clips of other sources"
        )
    faces = KnownFaces(clips, run.detector)
    animator = Animator(bundle.networks, faces, bundle.config.diffusion, window=bundle.window)
    others = {}
    if options.untrained:
        initial = build_networks(bundle.config.network, bundle.config.seed).eval()
        place_networks(initial)
        others["untrained"] = Animator(initial, faces, bundle.config.diffusion)
    scores = compare_methods(
        animator,
        [Trial(c.key, c.frames[0], c.frames, c.frames) for c in clips],
        others=others,
        config=options,
        lpips=run.lpips,
        on_progress=lambda done, total, name: run.report(name, done, total),
    )
    tables = {"self-reenactment": [plain(asdict(row)) for row in scores]}
    if options.cross:
        tables["cross-reenactment"] = _cross(run, animator, clips)
    if options.probe_clips:
        tables["probes of the motion latent"] = _probes(run, _read(run, root, options.probe_clips))
    return tables


def _read(run: Run, root: str, clips: int) -> list[HeldOutClip]:
    options = run.options
    chosen = options.filter or run.bundle.config.validation.filter
    try:
        return read_held_out(
            [root], chosen, clips=clips, frames=options.frames, stride=options.stride
        )
    except UserError as error:
        if "that filter" not in error.remedy:
            raise
        remedy = 'give another, such as "filter=frames > 0" for all clips, including trained ones'
        raise UserError(error.what, remedy) from None


def _cross(run: Run, animator: Animator, clips: list[HeldOutClip]) -> list[Row]:
    """Animate the portrait of each clip with the next clip of another identity."""
    rows = []
    config = replace(run.options, box="relative")
    for number, clip in enumerate(clips):
        others = [c for c in clips[number + 1 :] + clips[:number] if c.identity != clip.identity]
        if not others:
            run.notes.append("cross-reenactment not measured: all clips show one identity")
            break
        other = others[0]
        run.report(f"{clip.identity} driven by {other.identity}", number, len(clips))
        portrait, driving = (clip.key, clip.frames[0]), (other.key, other.frames)
        rows.append(cross_row(animator, portrait, driving, config))
    return with_mean(rows)


def _probes(run: Run, clips: list[HeldOutClip]) -> list[Row]:
    latents = motion_latents(run.bundle.networks.motion_encoder, clips)
    identities = np.concatenate([[c.identity] * len(c.frames) for c in clips])
    keys = np.concatenate([[c.key] * len(c.frames) for c in clips])
    pose = np.concatenate([c.pose for c in clips])
    rows: list[Row] = []
    groups = identities if len(set(identities)) >= 3 else keys
    try:
        r2 = motion_r2(latents, pose, groups)
        for name, value in zip(("yaw", "pitch", "roll"), r2, strict=True):
            rows.append({"probe": f"{name}, R²", "value": float(value), "chance": 0.0})
    except ValueError as error:
        run.notes.append(f"motion not probed: {error}")
    try:
        found = identity_accuracy(latents, identities, keys)
        rows.append({"probe": "identity", "value": found.accuracy, "chance": found.chance})
    except ValueError as error:
        run.notes.append(f"identity not probed: {error}")
    return rows
