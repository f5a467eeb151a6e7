"""From a trained model, a portrait and a driving video to an animated portrait on disk."""

import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipelines.animate.audio import add_sound
from pipelines.animate.contact_sheet import contact_sheet
from pipelines.animate.portrait import read_portrait
from preprocessing.encode.clip_encoder import encode_clip
from preprocessing.errors import UserError
from preprocessing.faces import make_detector
from xnemo.animation.animator import AnimateConfig, Animator, Progress
from xnemo.animation.driving_video import DrivingVideo
from xnemo.animation.trained_model import TrainedModel, load_trained
from xnemo.model.compiling import require_compiling
from xnemo.model.config import FrozenPaths
from xnemo.model.networks import Networks

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class AnimateOptions:
    """Everything about `xnemo animate` but its files."""

    # How the portrait is animated.
    animate: AnimateConfig = field(default_factory=AnimateConfig)
    # Where autoencoder and image embedding lie on this machine, if not where the model says.
    frozen: FrozenPaths = field(default_factory=FrozenPaths)
    # The bundle's averaged or its raw weights.
    weights: Literal["ema", "raw"] = "ema"
    # "auto" takes a GPU where there is one.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # What the networks calculate in; "auto" is fp32 on a CPU and bf16 on a GPU.
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    # Lay the UNets' memory out with channels innermost, as convolutions like it; same numbers.
    channels_last: bool = False
    # Compile the denoiser block by block: a minute or more before the first step, shorter steps
    # after it. For long clips.
    compile: bool = False
    # Which detector finds the faces.
    detector: str = "centerface"
    # Folder or name of the insightface detector's weights.
    faces_pack: str | None = None
    # Frames per second of driver and result; None keeps the driver's (training is at 25).
    fps: float | None = None
    # Most frames to make; None animates the whole driver.
    max_frames: int | None = None
    # Take the driver's sound over.
    sound: bool = True
    # A second driver, whose motion is blended in by animate.blend.
    second_driving: str | None = None
    # Columns of the contact sheet.
    sheet_frames: int = 6

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device = {self.device!r}", "use auto, cpu or cuda")
        if self.precision not in ("auto", *_DTYPES):
            raise UserError(f"precision = {self.precision!r}", "use auto, fp32, bf16 or fp16")
        if self.sheet_frames < 1:
            raise UserError(f"sheet_frames = {self.sheet_frames}", "use 1 or more")


@dataclass(frozen=True)
class AnimateResult:
    """What was made."""

    # The video.
    output: Path
    # Picture of reference, driver and result at a few moments.
    contact_sheet: Path
    # Frames of the video.
    frames: int
    # Frames per second of the video.
    fps: float
    # Time it took.
    seconds: float
    # What became of the driver's sound: copied, encoded, none, off, or lost with the reason.
    sound: str


def load_animator(bundle: str | Path, options: AnimateOptions) -> Animator:
    """Return a model's networks where the options want them, with a detector.

    Raises:
        UserError: The model is missing or damaged, there is no such device or detector, or this
            machine cannot compile.
    """
    detector = make_detector(options.detector, options.faces_pack)
    loaded = _load(bundle, options)
    place_networks(loaded.networks, options.device, options.precision)
    speed_up(loaded.networks, options.channels_last, options.compile)
    return Animator(loaded.networks, detector, loaded.diffusion)


def animate(
    bundle: str | Path | Animator,
    portrait: str | Path,
    driving: str | Path,
    output: str | Path,
    options: AnimateOptions | None = None,
    on_progress: Progress | None = None,
) -> AnimateResult:
    """Animate a portrait with a driving video and write an MP4 and a contact sheet beside it.

    Both files appear whole or not at all; the sheet is the output's name with `.png`.

    Args:
        bundle: A bundle, the folder of the four official files, or a saved pipeline; or what
            `load_animator` made of one.
        portrait: A picture with a face.
        driving: A video of a face.
        output: Where the MP4 goes; its folder is made.
        options: How.
        on_progress: Told what is going on: stage, done, total (0 where not known).

    Raises:
        UserError: Anything wrong with what was given, before anything is written.
    """
    started = time.monotonic()
    options = options or AnimateOptions()
    target = _check_output(Path(output), [Path(portrait), Path(driving)])
    picture = read_portrait(Path(portrait))
    driver = DrivingVideo(driving, options.fps, options.max_frames)
    second = (
        DrivingVideo(options.second_driving, driver.fps, options.max_frames)
        if options.second_driving
        else None
    )
    animator = bundle if isinstance(bundle, Animator) else load_animator(bundle, options)

    config = options.animate
    try:
        cut = animator.prepare_portrait(picture, config)
    except UserError as error:
        raise UserError(f"{portrait}: {error.what}", error.remedy) from None
    motion = animator.driving_motion(driver, cut, config, on_progress, str(driving))
    if second is not None:
        motion = animator.blended(motion, second, cut, config, on_progress)
    latents = animator.denoise(cut, motion, config, on_progress)

    count = latents.shape[2]
    shown = sorted({int(i) for i in np.linspace(0, count - 1, options.sheet_frames).round()})
    kept: dict[int, NDArray[np.uint8]] = {}
    mp4 = encode_clip(_keep(animator.decode(latents, on_progress), shown, kept), driver.fps)
    sound = "off"
    if options.sound:
        mp4, sound = add_sound(mp4, driver.path, driver.start_s, count / driver.fps)

    above: dict[int, NDArray[np.uint8]] = {}
    for _ in _keep(islice(iter(driver), shown[-1] + 1), shown, above):
        pass
    sheet = contact_sheet(
        cut.wide,
        [above[i] for i in shown],
        [kept[i] for i in shown],
        [f"{i / driver.fps:.2f} s" for i in shown],
    )
    sheet_path = target.with_suffix(".png")
    picture_file = io.BytesIO()
    sheet.save(picture_file, format="PNG")
    _write({target: mp4, sheet_path: picture_file.getvalue()})
    seconds = time.monotonic() - started
    return AnimateResult(target, sheet_path, count, driver.fps, seconds, sound)


def _load(bundle: str | Path, options: AnimateOptions) -> TrainedModel:
    try:
        return load_trained(bundle, options.weights, options.frozen)
    except UserError as error:
        part = error.what.partition(".path = ")[0]
        if part not in ("autoencoder", "image_embedding"):
            raise
        raise UserError(error.what, f"{error.remedy}: frozen.{part}=FOLDER") from error


def place_networks(networks: Networks, device: str, precision: str) -> None:
    """Move networks to a device and cast what may be cast; the autoencoder stays in fp32.

    Raises:
        UserError: A GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device = 'cuda', but no GPU is usable here", "use device auto or cpu")
    where = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = "bf16" if where == "cuda" else "fp32"
    networks.to(where).eval()
    for part in (networks.denoiser, networks.reference_net, networks.motion_encoder):
        # Not the model's own `to`: diffusers warns of casting even where nothing must stay fp32.
        nn.Module.to(part, dtype=_DTYPES[precision])


def speed_up(networks: Networks, channels_last: bool, compile_blocks: bool) -> None:
    """Turn on what makes the UNets faster without changing their numbers.

    Raises:
        UserError: this machine cannot compile.
    """
    if channels_last:
        unets: tuple[Any, ...] = (networks.denoiser, networks.reference_net)
        for unet in unets:
            unet.to(memory_format=torch.channels_last)
    if compile_blocks:
        require_compiling(networks.denoiser.device.type)
        networks.denoiser.compile_repeated_blocks()


def _check_output(output: Path, inputs: list[Path]) -> Path:
    if output.is_dir():
        example = output / "animated.mp4"
        raise UserError(f"the output {output} is a folder", f"name a file, such as {example}")
    if output.suffix.lower() != ".mp4":
        raise UserError(f"the output {output} is no .mp4", "end its name with .mp4")
    for made in (output, output.with_suffix(".png")):
        for given in inputs:
            if made.exists() and given.exists() and os.path.samefile(made, given):
                raise UserError(f"{given} would be overwritten by the result", "use another name")
    parent = next(p for p in output.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"nothing can be written in {parent}", "choose another folder")
    return output


def _keep(
    frames: Iterator[NDArray[np.uint8]], wanted: list[int], kept: dict[int, NDArray[np.uint8]]
) -> Iterator[NDArray[np.uint8]]:
    """Pass frames on and keep those of the wanted numbers."""
    for number, frame in enumerate(frames):
        if number in wanted:
            kept[number] = frame
        yield frame


def _write(contents: dict[Path, bytes]) -> None:
    """Write all files of one folder, or none of them."""
    hidden = {path: path.with_name(f".{path.name}.{os.getpid()}.partial") for path in contents}
    next(iter(contents)).parent.mkdir(parents=True, exist_ok=True)
    try:
        for path, content in contents.items():
            hidden[path].write_bytes(content)
        for path in contents:
            hidden[path].replace(path)
    finally:
        for left in hidden.values():
            left.unlink(missing_ok=True)
