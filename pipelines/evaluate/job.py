"""Measure a bundle on clips it has not seen, or on a list of portraits and drivers."""

import csv
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.animate.job import place_networks
from pipelines.animate.portrait import read_portrait
from preprocessing.errors import UserError
from preprocessing.faces import make_detector
from preprocessing.faces.detector import Detector
from xnemo.animation.animator import AnimateConfig, Animator
from xnemo.animation.driving_video import DrivingVideo
from xnemo.evaluation.faces import face_distances
from xnemo.evaluation.held_out import HeldOutClip, KnownFaces, read_held_out
from xnemo.evaluation.latents import motion_latents
from xnemo.evaluation.lpips import Lpips, load_lpips
from xnemo.evaluation.motion_correlation import Trial, compare_followers
from xnemo.evaluation.pictures import mean_finite
from xnemo.evaluation.probes import identity_accuracy, motion_r2
from xnemo.model.networks import build_networks
from xnemo.training.checkpoint.bundle import Bundle, Weights, load_bundle

#: Told what is going on, how much is done, and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EvaluateOptions:
    """How a bundle is measured."""

    # Scheduler, steps, guidance; the driver's place in the picture is followed as in training.
    animate: AnimateConfig = field(default_factory=lambda: AnimateConfig(box="real"))
    # The bundle's averaged or its raw weights.
    weights: Weights = "ema"
    # Which rows of the index; empty takes the bundle's own validation filter.
    filter: str = ""
    # Clips to animate, and frames of each.
    clips: int = 8
    frames: int = 16
    # Distance between the frames taken.
    stride: int = 2
    # Clips for the probes of the motion latent, which need no animation; 0 leaves them out.
    probe_clips: int = 64
    # Also measure the same networks untrained.
    untrained: bool = True
    # Also animate every portrait by somebody else's clip.
    cross: bool = True
    # Which detector finds the faces; insightface with a pack also tells whose they are.
    detector: str = "centerface"
    # Folder or name of the insightface detector's weights.
    faces_pack: str | None = None
    # Folder of the perceptual distance's two weight files; empty leaves it out.
    lpips: str | None = None

    def __post_init__(self) -> None:
        """Refuse counts that measure nothing."""
        for name, least in (("clips", 1), ("frames", 2), ("stride", 1), ("probe_clips", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}", f"set it to {least} or more")


@dataclass(frozen=True)
class EvaluateResult:
    """What was measured. A number that could not be is None, never left out or made up."""

    # Rows of a table under each title.
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    # What was evaluated on what, and what could not be measured and why.
    facts: Mapping[str, Any]
    # The same as JSON.
    path: Path | None


def evaluate(
    bundle: str | Path,
    source: str | Path,
    *,
    out: str | Path | None = None,
    options: EvaluateOptions | None = None,
    on_progress: Progress | None = None,
) -> EvaluateResult:
    """Measure a bundle.

    Args:
        bundle: folder of a trained model.
        source: a data set that `xnemo preprocess` wrote, or a list file: a line for each pair,
            ``portrait,driving``, paths relative to the list.
        out: JSON file to write; None writes none.
        options: how.
        on_progress: told of progress.

    Raises:
        UserError: the bundle, the source or a weight file does not suit.
    """
    began = time.monotonic()
    options = options or EvaluateOptions()
    path = _check_output(Path(out)) if out is not None else None
    loaded = load_bundle(bundle, options.weights)
    place_networks(loaded.networks, "auto", "fp32")
    detector = make_detector(options.detector, options.faces_pack)
    lpips = load_lpips(options.lpips) if options.lpips else None
    notes: list[str] = []
    if lpips is None:
        notes.append("lpips not measured: no folder of its weights was given")
    if not detector.recognises:
        notes.append("identity not measured: the detector does not recognise people")
    tell = on_progress or (lambda stage, done, total: None)
    if Path(source).is_file():
        tables = _on_list(loaded, Path(source), options, detector, tell)
    else:
        tables = _on_data(loaded, str(source), options, detector, lpips, notes, tell)
    facts = {
        "bundle": str(bundle),
        "samples_seen": loaded.meta.get("samples_seen"),
        "weights": options.weights,
        "source": str(source),
        "notes": notes,
        "seconds": round(time.monotonic() - began, 1),
    }
    if path is not None:
        _write({"facts": facts, "tables": tables, "options": asdict(options)}, path)
    return EvaluateResult(tables, facts, path)


def _on_data(
    bundle: Bundle,
    root: str,
    options: EvaluateOptions,
    detector: Detector,
    lpips: Lpips | None,
    notes: list[str],
    tell: Progress,
) -> dict[str, list[dict[str, Any]]]:
    chosen = options.filter or bundle.config.validation.filter
    try:
        clips = read_held_out(
            [root], chosen, clips=options.clips, frames=options.frames, stride=options.stride
        )
    except UserError as error:
        if "data.filter" not in error.remedy:
            raise
        wider = 'give another, such as "filter=frames > 0" for all clips, also those trained on'
        raise UserError(error.what, wider) from None
    faces = KnownFaces(clips, detector)
    animator = Animator(bundle.networks, faces, bundle.config.diffusion)
    untrained = None
    if options.untrained:
        fresh = build_networks(bundle.config.network, bundle.config.seed).eval()
        place_networks(fresh, "auto", "fp32")
        untrained = Animator(fresh, faces, bundle.config.diffusion)
    trials = [Trial(c.key, c.frames[0], c.frames, c.frames) for c in clips]
    followed = compare_followers(
        animator,
        trials,
        untrained=untrained,
        config=options.animate,
        lpips=lpips,
        on_progress=lambda done, total, words: tell(words, done, total),
    )
    tables = {"self-reenactment": [_plain(asdict(row)) for row in followed]}
    if options.cross:
        tables["cross-reenactment"] = _cross(animator, clips, options, notes, tell)
    if options.probe_clips:
        wide = read_held_out(
            [root], chosen, clips=options.probe_clips, frames=options.frames, stride=options.stride
        )
        tables["probes of the motion latent"] = _probes(bundle, wide, notes)
    return tables


def _cross(
    animator: Animator,
    clips: list[HeldOutClip],
    options: EvaluateOptions,
    notes: list[str],
    tell: Progress,
) -> list[dict[str, Any]]:
    """Move each portrait by the next clip of another person."""
    rows = []
    config = AnimateConfig(**{**vars(options.animate), "box": "relative"})
    for number, clip in enumerate(clips):
        others = [c for c in clips[number + 1 :] + clips[:number] if c.identity != clip.identity]
        if not others:
            notes.append("cross-reenactment not measured: all clips show one person")
            break
        driver = others[0]
        tell(f"{clip.identity} driven by {driver.identity}", number, len(clips))
        made = np.stack(list(animator.animate(clip.frames[0], driver.frames, config)))
        found = face_distances(made, driver.frames, clip.frames[0], animator.detector)
        pair = {"portrait": clip.key, "driver": driver.key}
        rows.append({**pair, **_plain(asdict(found))})
    return [*rows, _mean_row(rows, "portrait")] if rows else []


def _probes(bundle: Bundle, clips: list[HeldOutClip], notes: list[str]) -> list[dict[str, Any]]:
    latents = motion_latents(bundle.networks.motion_encoder, clips)
    identities = np.concatenate([[c.identity] * len(c.frames) for c in clips])
    keys = np.concatenate([[c.key] * len(c.frames) for c in clips])
    pose = np.concatenate([c.pose for c in clips])
    rows: list[dict[str, Any]] = []
    groups = identities if len(set(identities)) >= 3 else keys
    try:
        r2 = motion_r2(latents, pose, groups)
        for name, value in zip(("yaw", "pitch", "roll"), r2, strict=True):
            rows.append({"probe": f"{name}, R²", "value": float(value), "chance": 0.0})
    except ValueError as error:
        notes.append(f"motion not probed: {error}")
    try:
        found = identity_accuracy(latents, identities, keys)
        rows.append({"probe": "identity", "value": found.accuracy, "chance": found.chance})
    except ValueError as error:
        notes.append(f"identity not probed: {error}")
    return rows


def _on_list(
    bundle: Bundle, file: Path, options: EvaluateOptions, detector: Detector, tell: Progress
) -> dict[str, list[dict[str, Any]]]:
    pairs = read_pairs(file)
    animator = Animator(bundle.networks, detector, bundle.config.diffusion)
    config = AnimateConfig(**{**vars(options.animate), "box": "relative"})
    rows: list[dict[str, Any]] = []
    for number, (portrait_path, driving_path) in enumerate(pairs):
        tell(f"{portrait_path.name} driven by {driving_path.name}", number, len(pairs))
        portrait = read_portrait(portrait_path)
        driving = _frames(driving_path, options)
        try:
            made = np.stack(list(animator.animate(portrait, driving, config)))
        except UserError as error:
            pair_name = f"{portrait_path}, {driving_path}"
            raise UserError(f"{file}: {pair_name}: {error.what}", error.remedy) from None
        found = face_distances(made, driving, portrait, detector)
        pair = {"portrait": str(portrait_path), "driver": str(driving_path)}
        rows.append({**pair, **_plain(asdict(found))})
    return {"cross-reenactment": [*rows, _mean_row(rows, "portrait")]}


def read_pairs(file: Path) -> list[tuple[Path, Path]]:
    """Read a list file; empty lines and lines that begin with # are passed over.

    Raises:
        UserError: a line has another form, names a missing file, or there is none.
    """
    pairs = []
    try:
        lines = list(csv.reader(file.read_text().splitlines(), skipinitialspace=True))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as a list", "give a text file") from error
    for number, line in enumerate(lines, 1):
        if not line or line[0].startswith("#"):
            continue
        if len(line) != 2:
            raise UserError(f"{file}, line {number}: {','.join(line)!r}", "write portrait,driving")
        portrait, driving = (file.parent / part.strip() for part in line)
        for path in (portrait, driving):
            if not path.is_file():
                raise UserError(f"{file}, line {number}: {path} is missing", "correct the path")
        pairs.append((portrait, driving))
    if not pairs:
        raise UserError(f"{file} lists nothing", "write lines of portrait,driving")
    return pairs


def _frames(path: Path, options: EvaluateOptions) -> NDArray[np.uint8]:
    video = DrivingVideo(path, max_frames=options.frames * options.stride)
    return np.stack([x for n, x in enumerate(video) if n % options.stride == 0])


def _mean_row(rows: list[dict[str, Any]], label: str) -> dict[str, Any]:
    """Return the means of all numbers, over the rows that have one."""
    import torch

    mean: dict[str, Any] = {}
    for name in rows[0]:
        numbers = [row[name] for row in rows if isinstance(row[name], float)]
        mean[name] = _plain_number(mean_finite(torch.tensor(numbers))) if numbers else None
    return {**mean, label: "mean"}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain_number(value) for name, value in row.items()}


def _plain_number(value: Any) -> Any:
    """Return None for what could not be measured: JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_output(path: Path) -> Path:
    """Refuse now what could not be written after minutes of work."""
    if path.suffix.lower() != ".json":
        raise UserError(f"the output {path} is no .json", "end its name with .json")
    if path.is_dir():
        raise UserError(f"the output {path} is a folder", "give the name of a file")
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"nothing can be written in {parent}", "choose another folder")
    return path


def _write(content: dict[str, Any], path: Path) -> None:
    text = json.dumps(content, indent=1, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
