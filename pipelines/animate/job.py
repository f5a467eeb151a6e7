"""From a trained model, a portrait and a driving video to an animated portrait on disk."""

import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngInfo
from torch import nn

from pipelines.animate.audio import add_sound, find_sound
from pipelines.animate.contact_sheet import contact_sheet
from pipelines.animate.credentials import Credentials, CredentialsConfig, comment
from pipelines.animate.portrait import read_portrait
from preprocessing.encode.clip_encoder import encode_clip
from preprocessing.errors import UserError
from preprocessing.faces import make_detector
from xnemo.animation.animator import Animator, Progress
from xnemo.animation.config import AnimateConfig
from xnemo.animation.driving_video import DrivingVideo
from xnemo.animation.load_model import LoadedModel, load_model
from xnemo.animation.motion import Motion
from xnemo.animation.motion_file import (
    SUFFIX,
    encoder_sha256,
    pack_motion,
    read_motion_file,
)
from xnemo.animation.paste_back import PasteBack
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
    # Put the face back into the whole portrait, at its own size; the result is a square around the
    # face otherwise.
    paste_back: bool = False
    # Who signs the video.
    credentials: CredentialsConfig = field(default_factory=CredentialsConfig)
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
    # Image of the portrait, driving and generated frames at a few times; None if that failed.
    contact_sheet: Path | None
    # Frames of the video.
    frames: int
    # Frames per second of the video.
    fps: float
    # Wall-clock time.
    seconds: float
    # Which face of the portrait is animated.
    portrait: str
    # In how many frames the driving face was found, cuts, and the frames at rest.
    face: str
    # What became of the sound: copied, encoded, none, off, or lost with the reason.
    audio: str
    # "signed", or "unsigned" without a certificate.
    credentials: str


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
    animator = Animator(networks, detector, loaded.diffusion, window=loaded.window)
    animator.encoder_sha256 = encoder_sha256(networks.motion_encoder)
    place_networks(networks, options.device, options.precision)
    speed_up(networks, options.channels_last, options.compile)
    return animator


def animate(
    model: str | Path | Animator,
    portrait: str | Path,
    driving: str | Path,
    output: str | Path,
    options: AnimateOptions | None = None,
    on_progress: Progress | None = None,
) -> AnimateResult:
    """Animate a portrait with a driving video; write an MP4 and a contact sheet beside it.

    Everything that can fail is tried before the denoising. Both files are written atomically; the
    sheet has the output's name with `.png`.

    Args:
        model: A bundle, a folder with the four official files, a saved pipeline, or an animator
            from `load_animator`.
        portrait: An image with a face.
        driving: A video of a face, or a file of `encode_motion`.
        output: The MP4 to write; its folder is created.
        options: Settings.
        on_progress: Receives stage, units done and units in all (0: not known yet).

    Raises:
        UserError: An input or a setting is unusable; nothing is written.
    """
    started = time.monotonic()
    options = options or AnimateOptions()
    portrait, driving = Path(portrait), Path(driving)
    target = Path(output)
    sheet_path = target.with_suffix(".png")
    check_output(target, ".mp4", [portrait, driving], also=[sheet_path])
    signing = options.credentials
    signer = (
        Credentials(signing.certificate, signing.private_key)
        if signing.certificate and signing.private_key
        else None
    )
    image = read_portrait(portrait)
    video = None if driving.suffix.lower() == SUFFIX else _open_video(driving, options)
    sound = find_sound(driving) if video and options.audio else None
    animator = model if isinstance(model, Animator) else load_animator(model, options)

    try:
        crops = animator.prepare_portrait(image, options)
    except UserError as error:
        raise UserError(f"{portrait}: {error.what}", error.remedy) from None
    paste = PasteBack(image, crops) if options.paste_back else None
    if video is None:
        motion, fps = read_motion_file(driving, animator.encoder_sha256)
        if options.fps not in (None, fps):
            raise UserError(
                f"fps = {options.fps}, but {driving} was encoded at {fps:g}",
                "set fps when the driving video is encoded",
            )
    else:
        fps = video.fps
        motion = animator.read_motion(video, options, on_progress, str(driving), fps)
    tokens = animator.place_motion(motion, crops, options)[: options.max_frames]
    if options.second_driving:
        second = DrivingVideo(options.second_driving, fps, options.max_frames)
        tokens = animator.blended(tokens, second, crops, options, on_progress)
    count = len(tokens)
    _check_space(target, count * (paste.pixels if paste else crops.wide.shape[0] ** 2))
    latents = animator.denoise(crops, tokens, options, on_progress)

    shown = sorted({int(i) for i in np.linspace(0, count - 1, options.sheet_frames).round()})
    below: dict[int, NDArray[np.uint8]] = {}
    frames = animator.decode(latents, on_progress)
    frames = _keep(map(paste, frames) if paste else frames, shown, below)
    mp4 = encode_clip(frames, fps, comment=comment())
    audio = "none in a motion file" if video is None else "off"
    if sound is not None and video is not None:
        mp4, audio = add_sound(mp4, sound, video.start_s, count / fps)
    _write_or_keep(target, signer.sign(mp4) if signer else mp4)

    try:
        above: dict[int, NDArray[np.uint8]] = {}
        for _ in _keep(islice(iter(video or ()), shown[-1] + 1), shown, above):
            pass
        sheet = contact_sheet(
            crops.wide,
            [above[i] for i in shown if i in above],
            [below[i] for i in shown],
            [f"{i / fps:.2f} s" for i in shown],
        )
        png = io.BytesIO()
        text = PngInfo()
        text.add_text("Comment", comment())
        sheet.save(png, format="PNG", pnginfo=text)
        write_file(sheet_path, png.getvalue())
        made_sheet: Path | None = sheet_path
    except Exception:  # the video is there; a sheet is an extra
        made_sheet = None
    choice = str(options.faces.portrait)
    return AnimateResult(
        output=target,
        contact_sheet=made_sheet,
        frames=count,
        fps=fps,
        seconds=time.monotonic() - started,
        portrait=f"number {choice} of {crops.faces} found"
        if "," not in choice
        else "the given box",
        face=motion.track.describe(),
        audio=audio,
        credentials="signed" if signer else "unsigned",
    )


def encode_motion(
    model: str | Path | Animator,
    driving: str | Path,
    output: str | Path,
    options: AnimateOptions | None = None,
    on_progress: Progress | None = None,
) -> Motion:
    """Write the motion of a driving video to a file that `animate` takes in its place.

    Args:
        model: As for `animate`.
        driving: A video of a face.
        output: The `.safetensors` file to write; its folder is created.
        options: Settings; those of the faces, `fps` and `max_frames` count.
        on_progress: Receives stage, units done and units in all (0: not known yet).

    Raises:
        UserError: An input or a setting is unusable; nothing is written.
    """
    options = options or AnimateOptions()
    driving, target = Path(driving), Path(output)
    check_output(target, SUFFIX, [driving])
    video = _open_video(driving, options)
    animator = model if isinstance(model, Animator) else load_animator(model, options)
    motion = animator.read_motion(video, options, on_progress, str(driving), video.fps)
    write_file(target, pack_motion(motion, video.fps, animator.encoder_sha256))
    return motion


def _open_video(driving: Path, options: AnimateOptions) -> DrivingVideo:
    return DrivingVideo(driving, options.fps, options.max_frames)


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


def check_output(
    output: Path, suffix: str, inputs: Sequence[Path], also: Sequence[Path] = ()
) -> None:
    """Create the folder of an output and try to write there.

    Args:
        output: The file to write.
        suffix: End of its name.
        inputs: Files that must not be overwritten.
        also: Other files that will be written.

    Raises:
        UserError: The output cannot be written, or would overwrite an input.
    """
    if output.is_dir():
        example = output / f"animated{suffix}"
        raise UserError(f"the output {output} is a folder", f"name a file, such as {example}")
    if output.suffix.lower() != suffix:
        raise UserError(f"the output {output} is not an {suffix}", f"end its name with {suffix}")
    for made in (output, *also):
        for given in inputs:
            if made.exists() and given.exists() and os.path.samefile(made, given):
                raise UserError(f"{given} would be overwritten by the result", "use another name")
    check_folder(output.parent, output.name)


def check_folder(folder: Path, name: str = "") -> None:
    """Try to write in a folder, or where it will be created.

    Raises:
        UserError: Nothing can be written there.
    """
    parent = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    try:
        # Only a trial shows read-only disks, quotas and names that are too long.
        with tempfile.NamedTemporaryFile(dir=parent, prefix=f".{name}.", suffix=".partial"):
            pass
    except OSError as error:
        raise UserError(
            f"nothing can be written in {parent}: {error.strerror}", "choose another place"
        ) from error


def _check_space(output: Path, pixels: int) -> None:
    """Refuse a disk that is too small for a video of so many pixels in all frames."""
    parent = next(p for p in output.absolute().parents if p.exists())
    needed, free = pixels // 8, shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"{parent} has {free / 2**20:.0f} MiB left and the video may need"
            f" {needed / 2**20:.0f} MiB",
            "free some space or choose another folder",
        )


def _keep(
    frames: Iterator[NDArray[np.uint8]], wanted: list[int], kept: dict[int, NDArray[np.uint8]]
) -> Iterator[NDArray[np.uint8]]:
    """Yield all frames and keep those with the wanted numbers."""
    for number, frame in enumerate(frames):
        if number in wanted:
            kept[number] = frame
        yield frame


def _write_or_keep(path: Path, content: bytes) -> None:
    """Write a file; where that fails after all, write it elsewhere and say so."""
    try:
        write_file(path, content)
    except OSError as error:
        kept = Path(tempfile.mkdtemp(prefix="xnemo-")) / path.name
        write_file(kept, content)
        raise UserError(
            f"{path} could not be written: {error.strerror}", f"the video is kept as {kept}"
        ) from error


def write_file(path: Path, content: bytes) -> None:
    """Write a file, or nothing."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        hidden.write_bytes(content)
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)
