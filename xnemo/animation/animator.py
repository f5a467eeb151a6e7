"""Animate a portrait with the motion of a driving video."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar, cast

import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from numpy.typing import NDArray
from torch import Tensor

from preprocessing import geometry
from preprocessing.errors import UserError
from preprocessing.faces.detector import Detector
from preprocessing.faces.look import find_in_image, prominence
from xnemo.animation.config import AnimateConfig, chosen_face
from xnemo.animation.motion import (
    Motion,
    blend_motion,
    box_vectors,
    encode_faces,
    motion_tokens,
    to_tensor,
)
from xnemo.animation.motion_file import encoder_sha256
from xnemo.animation.tracking import Frames, check_inside, find_faces
from xnemo.diffusion.guidance import Conditions
from xnemo.diffusion.sampler import SamplerConfig, StepCallback, sample_latents
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.diffusion.scheduler import Scheduler, make_scheduler
from xnemo.model.networks import Networks
from xnemo.model.unet.config import UNetConfig

# Called with the stage, the units done and the units in all (0: not known yet).
Progress = Callable[[str, int, int], None]

S = TypeVar("S", bound=SamplerConfig)


@dataclass(frozen=True)
class Portrait:
    """A portrait, cropped as the networks read it."""

    # Face box in the image's pixels.
    box: NDArray[np.float64]
    # Box of the wide crop, which may leave the image.
    crop: NDArray[np.float64]
    # Wide crop (S, S, 3): the framing of the result.
    wide: NDArray[np.uint8]
    # Tight crop (D, D, 3): its motion is the negative of guidance.
    tight: NDArray[np.uint8]
    # Faces that were found.
    faces: int


class Animator:
    """Runs a trained model on portraits and driving videos.

    Args:
        networks: All networks in evaluation mode, on the device and in the dtype to compute in; the
            scheduler always steps in fp32.
        detector: Finds faces in portraits and driving videos.
        diffusion: Forward process that the denoiser was trained with.
        scheduler: A diffusers scheduler that replaces the one named in the settings.
        window: Most frames denoised together: as many as the temporal modules were trained on. None
            for as many as they have positions.
    """

    def __init__(
        self,
        networks: Networks,
        detector: Detector,
        diffusion: DiffusionConfig | None = None,
        scheduler: SchedulerMixin | None = None,
        window: int | None = None,
    ) -> None:
        self.networks = networks
        self.detector = detector
        self.diffusion = diffusion or DiffusionConfig()
        self.scheduler = scheduler
        self.window = window

    @cached_property
    def encoder_sha256(self) -> str:
        """Name of the motion encoder's weights in motion files; set before they are cast."""
        return encoder_sha256(self.networks.motion_encoder)

    def animate(
        self,
        portrait_HWC: NDArray[np.uint8],
        driving: Frames,
        config: AnimateConfig | None = None,
        second_driving: Frames | None = None,
        on_progress: Progress | None = None,
        on_step: StepCallback | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Animate a portrait; everything but decoding is done when this returns.

        The driving frames are iterated twice, to track the face and to encode its motion, and are
        never held; only motion tokens and latents are kept per frame. Result frames are decoded as
        they are taken.

        Args:
            portrait_HWC: RGB uint8 image with a face.
            driving: RGB uint8 frames that can be iterated more than once (no generator).
            config: Settings.
            second_driving: A second driving video, whose motion is blended in.
            on_progress: Receives stage, units done and units in all.
            on_step: Called after every denoising step.

        Returns:
            The frames, RGB uint8 (S, S, 3) each.

        Raises:
            UserError: No face in the portrait or in a driving video, or not the chosen one, or
                frames that can be iterated only once.
        """
        config = config or AnimateConfig()
        portrait = self.prepare_portrait(portrait_HWC, config)
        read = self.read_motion(driving, config, on_progress)
        motion = self.place_motion(read, portrait, config)
        if second_driving is not None:
            motion = self.blended(motion, second_driving, portrait, config, on_progress)
        latents = self.denoise(portrait, motion, config, on_progress, on_step)
        return self.decode(latents, on_progress)

    def prepare_portrait(
        self, portrait_HWC: NDArray[np.uint8], config: AnimateConfig | None = None
    ) -> Portrait:
        """Find the face of a portrait and cut both of its crops.

        Raises:
            UserError: No face, or not the chosen one.
        """
        config = config or AnimateConfig()
        frame_hw = portrait_HWC.shape[:2]
        chosen = chosen_face(config.faces.portrait, "faces.portrait")
        faces = sorted(find_in_image(self.detector, portrait_HWC), key=prominence, reverse=True)
        if not isinstance(chosen, int):
            box = np.array(chosen)
            check_inside(box, frame_hw, "faces.portrait", "the portrait")
        elif not faces:
            raise UserError(
                "the portrait shows no face that the detector finds",
                "give an image of an upright face, its box (--portrait-face x0,y0,x1,y1), or"
                " another detector",
            )
        elif chosen > len(faces):
            raise UserError(
                f"faces.portrait = {chosen}, but the portrait shows {len(faces)} faces",
                f"use 1 to {len(faces)}, or a box x0,y0,x1,y1",
            )
        else:
            box = np.asarray(faces[chosen - 1].box, dtype=np.float64)
        box = np.clip(box, 0, [frame_hw[1], frame_hw[0]] * 2)
        crop = geometry.reference_crop_box(box, frame_hw)
        tight = geometry.tight_box(box, frame_hw)
        return Portrait(
            box=box,
            crop=crop,
            wide=geometry.crop_resize(portrait_HWC, crop, self.networks.config.image_size),
            tight=geometry.crop_resize(portrait_HWC, tight, self.networks.config.motion.image_size),
            faces=len(faces),
        )

    def read_motion(
        self,
        driving: Frames,
        config: AnimateConfig | None = None,
        on_progress: Progress | None = None,
        name: str = "the driving video",
        fps: float | None = None,
    ) -> Motion:
        """Return the motion of driving frames.

        `fps` is their rate, for a reference frame given as a time.
        """
        config = config or AnimateConfig()
        if iter(driving) is driving:
            raise UserError(
                f"{name} can be iterated only once", "give a list of frames, or a DrivingVideo"
            )
        frames = _LeftSquares(driving) if config.faces.left_square else driving
        track = find_faces(
            frames,
            self.detector,
            config.faces,
            name,
            lambda number: on_progress("finding faces", number + 1, 0) if on_progress else None,
            fps,
        )
        if on_progress:
            on_progress("encoding motion", 0, len(track))
        encoder = self.networks.motion_encoder
        return Motion(encode_faces(encoder, frames, track, config.motion_chunk), track)

    def place_motion(
        self, motion: Motion, portrait: Portrait, config: AnimateConfig | None = None
    ) -> Tensor:
        """Return the tokens (F, L, D) of a motion for a portrait, on the CPU."""
        config = config or AnimateConfig()
        vectors = box_vectors(
            motion.track, portrait.box, config.box, config.box_sigma, config.strength
        )
        return motion_tokens(self.networks.motion_encoder, motion, vectors, config.strength)

    def blended(
        self,
        motion_FLD: Tensor,
        second_driving: Frames,
        portrait: Portrait,
        config: AnimateConfig,
        on_progress: Progress | None = None,
    ) -> Tensor:
        """Return motion tokens with those of a second driving video blended in."""
        # Who and which frame were chosen holds for the first video only.
        faces = replace(config.faces, driving=1, reference="auto")
        second = self.read_motion(
            second_driving, replace(config, faces=faces), on_progress, "the second driving video"
        )
        return blend_motion(motion_FLD, self.place_motion(second, portrait, config), *config.blend)

    @torch.no_grad()
    def denoise(
        self,
        portrait: Portrait,
        motion_FLD: Tensor,
        config: AnimateConfig | None = None,
        on_progress: Progress | None = None,
        on_step: StepCallback | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the latents (1, C, F, h, w) of the animated portrait, fp32 on the CPU.

        `generator` is a CPU generator that replaces the seed of the settings.
        """
        config = config or AnimateConfig()
        parts = self.networks
        like = next(parts.denoiser.parameters())
        wide = to_tensor(portrait.wide[None]).to(like.device)
        tight = to_tensor(portrait.tight[None]).to(like)
        centred = torch.tensor([[0.0, 0.0, 1.0]]).to(like)
        image_embedding = parts.image_embedding(wide).to(like)
        z_reference = parts.autoencoder.encode(wide).to(like)
        conditions = Conditions(
            image_embedding=image_embedding,
            reference=parts.reference_net(z_reference, image_embedding),
            motion=motion_FLD,
            negative_motion=parts.motion_encoder(tight, centred).tokens,
        )
        config = fit_windows(config, parts.config.unet, self.window).for_model(self.diffusion)
        steps = config.steps or 1

        def after_step(step: int, timestep: int, z: Tensor) -> Tensor | None:
            if on_progress:
                on_progress("denoising", step + 1, steps)
            return on_step(step, timestep, z) if on_step else None

        return sample_latents(
            parts.denoiser,
            z_reference,
            conditions,
            cast(Scheduler, self.scheduler)
            or make_scheduler(self.diffusion, config.scheduler, config.spacing),
            config,
            generator or torch.Generator().manual_seed(config.seed),
            after_step,
        )

    def decode(
        self, z_1CFhw: Tensor, on_progress: Progress | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames of latents, RGB uint8 (S, S, 3), decoded chunk by chunk."""
        done, frames = 0, z_1CFhw.shape[2]
        device = next(self.networks.denoiser.parameters()).device
        for z in z_1CFhw.split(self.networks.autoencoder.decode_chunk, dim=2):
            for x_1CFHW in self.networks.autoencoder.decode_chunks(z.to(device)):
                yield from to_images(x_1CFHW[0].transpose(0, 1))
                done += x_1CFHW.shape[2]
                if on_progress:
                    on_progress("decoding", done, frames)


def to_images(x_NCHW: Tensor) -> NDArray[np.uint8]:
    """Return images in [-1, 1] as uint8 (N, H, W, 3); values outside are clipped."""
    x = x_NCHW.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    return x.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()


def fit_windows(sampler: S, unet: UNetConfig, trained: int | None = None) -> S:
    """Return sampler settings with windows that suit a network.

    Without temporal modules frames are independent, so overlap would be wasted work; with them a
    window holds at most as many frames as the position tables, and as they were trained on.
    """
    if not unet.temporal:
        return replace(sampler, overlap=0)
    window = min(sampler.window, unet.max_frames, trained or unet.max_frames)
    return replace(sampler, window=window, overlap=min(sampler.overlap, window - 1))


class _LeftSquares:
    """Frames cropped to their left square; can be iterated as often as the frames."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (geometry.left_square(frame) for frame in self.frames)
