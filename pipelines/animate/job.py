"""From a trained model, a portrait and a driving video to an animated portrait on disk."""

import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipelines.animate.audio import add_sound, find_sound
from pipelines.animate.contact_sheet import contact_sheet
from pipelines.animate.portrait import read_portrait
from preprocessing.encode.clip_encoder import encode_clip
from preprocessing.errors import UserError
from preprocessing.faces import make_detector
from xnemo.animation.animator import Animator, Progress
from xnemo.animation.config import AnimateConfig
from xnemo.animation.driving_video import DrivingVideo
from xnemo.animation.load_model import LoadedModel, load_model
from xnemo.animation.tracking import FaceTrack
from xnemo.model.compiling import require_compiling
from xnemo.model.networks import Networks

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class AnimateOptions(AnimateConfig):
    """All settings of `xnemo animate`: those of the animation, the model, the machine and files."""

    # Averaged or raw weights of a bundle.
    weights: Literal["ema", "raw"] = "ema"
    # Folder or hub name of the autoencoder; None uses the one named by the model.
    vae: str | None = None
    # The same for the image embedding.
    image_embedding: str | None = None
    # "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
    device: str = "auto"
    # Type that the networks compute in; "auto" is fp32 on a CPU and bf16 on a GPU.
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    # Frames that the autoencoder decodes at once; None uses the model's setting.
    decode_chunk: int | None = None
    # Store the UNets' weights channels-last, which suits convolutions; same numbers.
    channels_last: bool = False
    # Compile the denoiser block by block: a minute or more before the first step, shorter steps
    # after it. For long clips.
    compile: bool = False
    # Detector that finds the faces.
    detector: str = "centerface"
    # Folder or name of the insightface detector's weights.
    face_model_dir: str | None = None
    # Frames per second to resample the driving video to; None keeps its own (training uses 25).
    fps: float | None = None
    # Most frames to generate; None animates the whole driving video.
    max_frames: int | None = None
    # Copy the audio of the driving video.
    audio: bool = True
    # A second driving video, whose motion is blended in by `blend`.
    second_driving: str | None = None
    # Columns of the contact sheet.
    sheet_frames: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_device(self.device)
        if self.precision not in ("auto", *_DTYPES):
            raise UserError(f"precision = {self.precision!r}", "use auto, fp32, bf16 or fp16")
        for name in ("decode_chunk", "sheet_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} = {value}", "use 1 or more")


@dataclass(frozen=True)
class AnimateResult:
    """What `animate` wrote."""

    # The video.
    output: Path
    # Image of the portrait, and of driving and generated frames at a few times.
    contact_sheet: Path
    # Frames of the video.
    frames: int
    # Frames per second of the video.
    fps: float
    # Wall-clock time.
    seconds: float
    # In how many frames the face was found, and how often it jumped.
    face: str
    # What became of the sound: copied, encoded, none, off, or lost with the reason.
    audio: str


def load_animator(model: str | Path, options: AnimateOptions) -> Animator:
    """Load a model onto the device of the options, with a detector.

    Raises:
        UserError: The model is missing or damaged, the device or detector does not exist, or this
            machine cannot compile.
    """
    detector = make_detector(options.detector, options.face_model_dir)
    loaded = _load(model, options)
    networks = loaded.networks
    if options.decode_chunk is not None:
        networks.autoencoder.decode_chunk = options.decode_chunk
    place_networks(networks, options.device, options.precision)
    speed_up(networks, options.channels_last, options.compile)
    return Animator(networks, detector, loaded.diffusion, window=loaded.window)


def animate(
    model: str | Path | Animator,
    portrait: str | Path,
    driving: str | Path,
    output: str | Path,
    options: AnimateOptions | None = None,
    on_progress: Progress | None = None,
) -> AnimateResult:
    """Animate a portrait with a driving video; write an MP4 and a contact sheet beside it.

    Both files are written atomically; the sheet has the output's name with `.png`.

    Args:
        model: A bundle, a folder with the four official files, a saved pipeline, or an animator
            from `load_animator`.
        portrait: An image with a face.
        driving: A video of a face.
        output: The MP4 to write; its folder is created.
        options: Settings.
        on_progress: Receives stage, units done and units in all (0: not known yet).

    Raises:
        UserError: An input or a setting is unusable; nothing is written.
    """
    started = time.monotonic()
    options = options or AnimateOptions()
    target = _check_output(Path(output), [Path(portrait), Path(driving)])
    image = read_portrait(Path(portrait))
    video = DrivingVideo(driving, options.fps, options.max_frames)
    second = (
        DrivingVideo(options.second_driving, video.fps, options.max_frames)
        if options.second_driving
        else None
    )
    sound = find_sound(video.path) if options.audio else None
    animator = model if isinstance(model, Animator) else load_animator(model, options)

    try:
        crops = animator.prepare_portrait(image, options)
    except UserError as error:
        raise UserError(f"{portrait}: {error.what}", error.remedy) from None
    tracks: list[FaceTrack] = []
    motion = animator.driving_motion(
        video, crops, options, on_progress, str(driving), on_track=tracks.append
    )
    if second is not None:
        motion = animator.blended(motion, second, crops, options, on_progress)
    latents = animator.denoise(crops, motion, options, on_progress)

    count = latents.shape[2]
    shown = sorted({int(i) for i in np.linspace(0, count - 1, options.sheet_frames).round()})
    below: dict[int, NDArray[np.uint8]] = {}
    mp4 = encode_clip(_keep(animator.decode(latents, on_progress), shown, below), video.fps)
    audio = "off"
    if sound is not None:
        mp4, audio = add_sound(mp4, sound, video.start_s, count / video.fps)

    above: dict[int, NDArray[np.uint8]] = {}
    for _ in _keep(islice(iter(video), shown[-1] + 1), shown, above):
        pass
    sheet = contact_sheet(
        crops.wide,
        [above[i] for i in shown],
        [below[i] for i in shown],
        [f"{i / video.fps:.2f} s" for i in shown],
    )
    sheet_path = target.with_suffix(".png")
    png = io.BytesIO()
    sheet.save(png, format="PNG")
    _write({target: mp4, sheet_path: png.getvalue()})
    seconds = time.monotonic() - started
    face = describe_track(tracks[0])
    return AnimateResult(target, sheet_path, count, video.fps, seconds, face, audio)


def describe_track(track: FaceTrack) -> str:
    """Return in words in how many frames a driving face was found."""
    missed, total = track.frames_without_face, len(track)
    words = f"not found in {missed} of {total} frames" if missed else f"found in {total} frames"
    if track.jumps:
        words += f", {track.jumps} jump{'s' * (track.jumps > 1)} (cuts)"
    return words


def _load(model: str | Path, options: AnimateOptions) -> LoadedModel:
    try:
        return load_model(
            model, options.weights, vae=options.vae, image_embedding=options.image_embedding
        )
    except UserError as error:
        part = error.what.partition(".path = ")[0]
        setting = {"autoencoder": "vae", "image_embedding": "image_embedding"}.get(part)
        if setting is None:
            raise
        raise UserError(error.what, f"{error.remedy}: {setting}=FOLDER") from error


def check_device(device: str) -> None:
    """Raise a UserError if a device is none of auto, cpu, cuda and cuda:N."""
    kind, _, index = device.partition(":")
    if device not in ("auto", "cpu", "cuda") and not (kind == "cuda" and index.isdecimal()):
        raise UserError(f"device = {device!r}", "use auto, cpu, cuda or cuda:N")


def place_networks(networks: Networks, device: str = "auto", precision: str = "fp32") -> None:
    """Move networks to a device and cast the trained ones; the autoencoder stays in fp32.

    Raises:
        UserError: The device is a GPU that does not exist.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= gpus:
        raise UserError(
            f"device = {device!r}, but this machine has {gpus} usable GPUs",
            "use device auto or cpu",
        )
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if precision == "auto":
        precision = "fp32" if device == "cpu" else "bf16"
    networks.to(device).eval()
    for part in (networks.denoiser, networks.reference_net, networks.motion_encoder):
        # Not the model's own `to`: diffusers warns of casting even where nothing must stay fp32.
        nn.Module.to(part, dtype=_DTYPES[precision])


def speed_up(networks: Networks, channels_last: bool, compile_blocks: bool) -> None:
    """Apply optimisations of the UNets that do not change their numbers.

    Raises:
        UserError: This machine cannot compile.
    """
    if channels_last:
        for unet in (networks.denoiser, networks.reference_net):
            nn.Module.to(unet, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compile_blocks:
        require_compiling(networks.denoiser.device.type)
        networks.denoiser.compile_repeated_blocks()


def _check_output(output: Path, inputs: list[Path]) -> Path:
    if output.is_dir():
        example = output / "animated.mp4"
        raise UserError(f"the output {output} is a folder", f"name a file, such as {example}")
    if output.suffix.lower() != ".mp4":
        raise UserError(f"the output {output} is not an .mp4", "end its name with .mp4")
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
    """Yield all frames and keep those with the wanted numbers."""
    for number, frame in enumerate(frames):
        if number in wanted:
            kept[number] = frame
        yield frame


def _write(contents: dict[Path, bytes]) -> None:
    """Write all files, or none of them."""
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
