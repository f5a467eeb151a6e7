"""Animate a portrait with the motion of a driving clip."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preprocessing import geometry
from preprocessing.errors import UserError
from preprocessing.faces.detector import Detector
from xnemo.animation.driving import (
    BoxMode,
    FaceTrack,
    Frames,
    blend_motion,
    box_vectors,
    encode_motion,
    find_faces,
    prominence,
)
from xnemo.animation.pictures import to_pictures, to_tensor
from xnemo.diffusion.guidance import Conditions
from xnemo.diffusion.sampler import SamplerConfig, StepCallback, sample_latents
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.diffusion.scheduler import make_scheduler
from xnemo.model.networks import Networks
from xnemo.model.unet.config import UNetConfig

# What is being done, how much of it is done, and how much there is (0: not known yet).
Progress = Callable[[str, int, int], None]

# The release refuses a portrait with several faces that are all more certain than this.
_CERTAIN = 0.8


@dataclass(frozen=True)
class AnimateConfig:
    """How a portrait is animated."""

    # Scheduler, steps, guidance and windows.
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    # Decides all noise; the same seed on the same inputs gives the same clip.
    seed: int = 0
    # Where the generated face is: "relative" follows the driver's moves from the portrait's place,
    # "real" takes the driver's place as training does, "constant" holds it still as the release.
    box: BoxMode = "relative"
    # Gaussian smoothing of the face's place over time, in frames; 0 takes it as detected.
    box_sigma: float = 2.0
    # A portrait with several faces: "largest" takes the most prominent, "only" refuses it.
    portrait_face: Literal["largest", "only"] = "largest"
    # Read only the left square of the driving frames, as the release does.
    left_square: bool = False
    # Look for the driving face in every so many frames; boxes between are interpolated.
    detect_every: int = 1
    # Driving frames encoded at once.
    motion_chunk: int = 32
    # With a second driver: its weight in the motion at the first and at the last frame.
    blend: tuple[float, float] = (0.5, 0.5)

    def __post_init__(self) -> None:
        if self.box not in ("relative", "real", "constant"):
            raise UserError(f"box = {self.box!r} is unknown", "use relative, real or constant")
        if self.portrait_face not in ("largest", "only"):
            raise UserError(
                f"portrait_face = {self.portrait_face!r} is unknown", "use largest or only"
            )
        if self.detect_every < 1 or self.motion_chunk < 1:
            raise UserError(
                f"detect_every = {self.detect_every}, motion_chunk = {self.motion_chunk}",
                "use 1 or more for both",
            )
        if self.box_sigma < 0:
            raise UserError(f"box_sigma = {self.box_sigma}", "use 0 or more")


@dataclass(frozen=True)
class Portrait:
    """A portrait, cut as the networks want it."""

    # Face box in the picture's pixels.
    box: NDArray[np.float64]
    # Wide crop (S, S, 3): the framing of the result.
    wide: NDArray[np.uint8]
    # Tight crop (D, D, 3): its motion is the negative of guidance.
    tight: NDArray[np.uint8]


class Animator:
    """Runs the networks of a trained model on portraits and driving clips.

    Args:
        networks: All networks, in evaluation mode, where and in what dtype they are to calculate;
            the scheduler always steps in fp32.
        detector: Finds faces in portraits and drivers.
        diffusion: Forward process that the denoiser was trained with.
        scheduler: A diffusers scheduler to use instead of the one that a config names.
    """

    def __init__(
        self,
        networks: Networks,
        detector: Detector,
        diffusion: DiffusionConfig | None = None,
        scheduler: Any = None,
    ) -> None:
        self.networks = networks
        self.detector = detector
        self.diffusion = diffusion or DiffusionConfig()
        self.scheduler = scheduler

    def animate(
        self,
        portrait_HWC: NDArray[np.uint8],
        driving: Frames,
        config: AnimateConfig | None = None,
        second_driving: Frames | None = None,
        on_progress: Progress | None = None,
        on_step: StepCallback | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Animate a portrait; all but decoding is done when this returns.

        The driving clip is gone through twice, to follow the face and to encode its motion, and is
        never held; what is held per frame is its motion tokens and its latents. Result frames are
        decoded as they are taken.

        Args:
            portrait_HWC: RGB uint8 picture with a face.
            driving: RGB uint8 frames that can be gone through more than once (no generator).
            config: Options.
            second_driving: A second driver whose motion is blended in.
            on_progress: Told what is going on.
            on_step: Called after every denoising step.

        Returns:
            The frames, RGB uint8 (S, S, 3) each.

        Raises:
            UserError: No face in the portrait or in a driver, several in the portrait where that is
                refused, or frames that can be gone through only once.
        """
        config = config or AnimateConfig()
        portrait = self.prepare_portrait(portrait_HWC, config)
        motion = self.driving_motion(driving, portrait, config, on_progress)
        if second_driving is not None:
            motion = self.blended(motion, second_driving, portrait, config, on_progress)
        latents = self.denoise(portrait, motion, config, on_progress, on_step)
        return self.decode(latents, on_progress)

    def prepare_portrait(
        self, portrait_HWC: NDArray[np.uint8], config: AnimateConfig | None = None
    ) -> Portrait:
        """Find the face of a portrait and cut both of its crops.

        Raises:
            UserError: No face, or several where the config refuses that.
        """
        config = config or AnimateConfig()
        faces = self.detector.detect(portrait_HWC)
        if not faces:
            raise UserError(
                "the portrait shows no face that the detector finds",
                "give a picture of an upright face, or another detector",
            )
        certain = [face for face in faces if face.score > _CERTAIN]
        if config.portrait_face == "only" and len(certain) > 1:
            raise UserError(
                f"the portrait shows {len(certain)} faces",
                "cut it to one face, or set portrait_face to largest",
            )
        box = np.asarray(max(faces, key=prominence).box, dtype=np.float64)
        frame_hw = portrait_HWC.shape[:2]
        box = np.clip(box, 0, [frame_hw[1], frame_hw[0]] * 2)
        wide_size = self.networks.config.image_size
        tight_size = self.networks.config.motion.image_size
        wide = geometry.reference_crop_box(box, frame_hw)
        tight = geometry.tight_box(box, frame_hw)
        return Portrait(
            box=box,
            wide=geometry.crop_resize(portrait_HWC, wide, wide_size),
            tight=geometry.crop_resize(portrait_HWC, tight, tight_size),
        )

    def driving_motion(
        self,
        driving: Frames,
        portrait: Portrait,
        config: AnimateConfig | None = None,
        on_progress: Progress | None = None,
        name: str = "the driving video",
    ) -> Tensor:
        """Return the motion tokens (F, L, D) of a driving clip, on the CPU."""
        config = config or AnimateConfig()
        if iter(driving) is driving:
            raise UserError(
                f"{name} can be gone through only once", "give a list of frames, or a DrivingVideo"
            )
        frames = _LeftSquares(driving) if config.left_square else driving
        track: FaceTrack = find_faces(
            frames,
            self.detector,
            config.detect_every,
            name,
            lambda number: on_progress("finding faces", number + 1, 0) if on_progress else None,
        )
        vectors = box_vectors(track, portrait.box, config.box, config.box_sigma)
        if on_progress:
            on_progress("encoding motion", 0, len(track))
        return encode_motion(
            self.networks.motion_encoder, frames, track, vectors, config.motion_chunk
        )

    def blended(
        self,
        motion_FLD: Tensor,
        second_driving: Frames,
        portrait: Portrait,
        config: AnimateConfig,
        on_progress: Progress | None = None,
    ) -> Tensor:
        """Return motion tokens with those of a second driver blended in by `config.blend`."""
        second = self.driving_motion(
            second_driving, portrait, config, on_progress, "the second driving video"
        )
        return blend_motion(motion_FLD, second, *config.blend)

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

        `generator` is a CPU generator that replaces the config's seed.
        """
        config = config or AnimateConfig()
        parts: Any = self.networks
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

        sampler = fit_windows(config.sampler, parts.config.unet)

        def after_step(step: int, timestep: int, z: Tensor) -> Tensor | None:
            if on_progress:
                on_progress("denoising", step + 1, sampler.steps)
            return on_step(step, timestep, z) if on_step else None

        return sample_latents(
            parts.denoiser,
            z_reference,
            conditions,
            self.scheduler or make_scheduler(self.diffusion, sampler.scheduler, sampler.spacing),
            sampler,
            generator or torch.Generator().manual_seed(config.seed),
            after_step,
        )

    def decode(
        self, z_1CFhw: Tensor, on_progress: Progress | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames of latents, RGB uint8 (S, S, 3), a chunk decoded at a time."""
        done, frames = 0, z_1CFhw.shape[2]
        size = self.networks.config.autoencoder.decode_chunk
        device = next(self.networks.denoiser.parameters()).device
        for start in range(0, frames, size):
            z = z_1CFhw[:, :, start : start + size].to(device)
            for x_1CFHW in self.networks.autoencoder.decode_chunks(z):
                yield from to_pictures(x_1CFHW[0].transpose(0, 1))
                done += x_1CFHW.shape[2]
                if on_progress:
                    on_progress("decoding", done, frames)


def fit_windows(sampler: SamplerConfig, unet: UNetConfig) -> SamplerConfig:
    """Return the sampler with windows that suit a network.

    Without temporal modules frames do not see each other, so overlap would be work for nothing;
    with them a window holds at most as many frames as their position tables.
    """
    if not unet.temporal:
        return replace(sampler, overlap=0)
    window = min(sampler.window, unet.max_frames)
    return replace(sampler, window=window, overlap=min(sampler.overlap, window - 1))


class _LeftSquares:
    """Frames cut to their left square, as often as they are gone through."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (geometry.left_square(frame) for frame in self.frames)
