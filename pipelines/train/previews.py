"""Previews of a run: held-out clips animated and measured by a separate process."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.cluster.connect import Cluster
from pipelines.tracking import RunLog
from preprocessing.errors import UserError
from preprocessing.geometry import resize

if TYPE_CHECKING:
    from xnemo.evaluation.held_out import HeldOutClip

_log = logging.getLogger(__name__)

#: Folder of the previews in the run folder and in MLflow.
FOLDER = "previews"

# Clips, frames of each and their stride, and denoising steps: few, for speed.
_CLIPS, _FRAMES, _STRIDE, _STEPS = 3, 8, 3, 12


@dataclass(frozen=True)
class PreviewJob:
    """Task of a preview process."""

    # Folder of the bundle.
    bundle: str
    # Folders or URLs of the data sets.
    data: list[str]
    # Folder of the files, and their name without suffix.
    folder: str
    name: str


@dataclass(frozen=True)
class Preview:
    """Files and scores of a preview."""

    # A contact sheet and a clip: portrait, driving video of another identity, result.
    files: tuple[str, ...]
    # Self-reenactment scores, mean over the clips.
    metrics: Mapping[str, float]


class Previewer:
    """Starts previews at checkpoints, one at a time, and collects their results.

    A preview runs in its own process at the lowest priority. With GPUs it uses one that the workers
    leave free; if there is none, only the finished run is previewed.
    """

    def __init__(self, log: RunLog, data: list[str], run_dir: Path) -> None:
        """Write previews to ``run_dir/previews`` and record them in ``log``."""
        self._log, self._data = log, data
        self._folder = run_dir / FOLDER
        self._task: Any = None
        self._samples = 0

    @property
    def busy(self) -> bool:
        """Whether a preview is running."""
        return self._task is not None

    def start(self, bundle: Path, samples_seen: int, gpus: float | None) -> None:
        """Start a preview of a bundle unless one is running.

        Args:
            bundle: folder of the bundle.
            samples_seen: position of the run; names the files.
            gpus: GPUs of the preview; None to skip it because all are in use.
        """
        if self._task is not None or gpus is None:
            return
        import ray

        self._folder.mkdir(exist_ok=True)
        job = PreviewJob(str(bundle), self._data, str(self._folder), f"{samples_seen:012d}")
        remote = ray.remote(make_preview).options(num_cpus=0, num_gpus=gpus, max_retries=0)
        self._task, self._samples = remote.remote(job), samples_seen

    def collect(self, timeout_s: float = 0.0) -> None:
        """Record a finished preview in the run log; a failed one is logged and skipped."""
        if self._task is None:
            return
        import ray

        done, _ = ray.wait([self._task], timeout=timeout_s)
        if not done:
            return
        task, self._task = self._task, None
        try:
            preview: Preview = ray.get(task)
        except Exception as error:
            # The checkpoint may be pruned or the GPU full; training does not depend on previews.
            _log.warning("no preview: %s", str(error).strip().splitlines()[-1])
            return
        for file in preview.files:
            self._log.artifact(Path(file), FOLDER)
        self._log.metrics(self._samples, preview.metrics)


def free_gpus(cluster: Cluster, workers: int, gpu: bool) -> float | None:
    """Return the GPUs that a preview may use during training; None if all are in use."""
    if not gpu:
        return 0.0
    return 1.0 if cluster.gpus > workers else None


def make_preview(job: PreviewJob) -> Preview:
    """Animate held-out clips: cross-reenactment for the files, self-reenactment for the scores.

    Runs in its own process and loads its own networks from the bundle.
    """
    os.nice(19)
    import torch
    from PIL import Image

    from preprocessing.encode.clip_encoder import encode_clip
    from preprocessing.faces import make_detector
    from xnemo.animation.animator import Animator
    from xnemo.animation.config import AnimateConfig
    from xnemo.evaluation.held_out import KnownFaces
    from xnemo.evaluation.reenactment import TRAINED, Trial, framed, score
    from xnemo.training.checkpoint.bundle import load_bundle

    torch.set_num_threads(1)
    bundle = load_bundle(job.bundle)
    clips = _held_out(job.data, bundle.config.validation.filter, bundle.config.data.filter)
    animator = Animator(
        bundle.networks,
        KnownFaces(clips, make_detector()),
        bundle.config.diffusion,
        window=bundle.window,
    )
    if torch.cuda.is_available():
        bundle.networks.to("cuda")
    config = AnimateConfig(steps=_STEPS)
    # With ground truth, the position of the face follows the driving video, as in training.
    measured = AnimateConfig(steps=_STEPS, box="real")
    rows, scores = [], []
    for number, clip in enumerate(clips):
        driving = clips[(number + 1) % len(clips)].frames
        wide = animator.prepare_portrait(clip.frames[0]).wide
        made = np.stack(list(animator.animate(clip.frames[0], driving, config)))
        rows.append(_row(wide, driving, made))
        itself = Trial(clip.key, clip.frames[0], clip.frames, clip.frames)
        _, truth = framed(animator, itself, measured)
        own = np.stack(list(animator.animate(itself.portrait, itself.driving, measured)))
        scores.append(score(TRAINED, own, truth))
    film = np.concatenate(rows, axis=1)
    image = np.concatenate(list(film[:: max(1, len(film) // 4)]), axis=1)
    png, mp4 = (Path(job.folder) / f"{job.name}{ending}" for ending in (".png", ".mp4"))
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    _replace(png, buffer.getvalue())
    _replace(mp4, encode_clip(iter(film)))
    metrics = {
        f"preview/{name}": float(np.mean([getattr(one, name) for one in scores]))
        for name in ("l1", "psnr", "ssim", "motion_correlation")
    }
    return Preview((str(png), str(mp4)), metrics)


def _held_out(data: list[str], held_out: str, trained: str) -> "list[HeldOutClip]":
    """Read held-out clips or, if there are none, training clips."""
    from xnemo.evaluation.held_out import read_held_out

    read = partial(read_held_out, clips=_CLIPS, frames=_FRAMES, stride=_STRIDE)
    try:
        clips = read(data, held_out)
    except UserError:
        clips = read(data, trained)
    length = min(len(clip.frames) for clip in clips)
    return [clip for clip in clips if len(clip.frames) >= length]


def _row(
    wide: NDArray[np.uint8], driving: NDArray[np.uint8], made: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return portrait, driving video and result side by side, (F, S, 3·S, 3)."""
    shown = np.stack([resize(frame, made.shape[1]) for frame in driving[: len(made)]])
    portrait = np.repeat(wide[None], len(made), axis=0)
    return np.concatenate([portrait, shown, made], axis=2)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
