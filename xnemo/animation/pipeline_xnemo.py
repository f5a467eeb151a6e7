"""The model as a diffusers pipeline."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import PIL.Image
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from torch import Tensor, nn

from preprocessing.errors import UserError
from preprocessing.faces import Detector, make_detector
from xnemo.animation.animator import AnimateConfig, Animator
from xnemo.animation.driving import BoxMode, Frames
from xnemo.diffusion.sampler import SamplerConfig
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.diffusion.scheduler import SCHEDULER_FOLDER, make_scheduler, read_scheduler
from xnemo.model.config import FrozenPaths, NetworkConfig
from xnemo.model.networks import Networks

Picture = PIL.Image.Image | NDArray[np.uint8]


@dataclass
class XNeMoPipelineOutput(BaseOutput):
    """The animated portrait.

    `frames` is, by output type: "pil" a list of one list of pictures; "np" an array (1, F, H, W, 3)
    and "pt" a tensor (1, F, 3, H, W), both in [0, 1]; "latent" the scaled latents (1, C, F, h, w).
    """

    frames: list[list[PIL.Image.Image]] | NDArray[np.float32] | Tensor


class XNeMoPipeline(DiffusionPipeline):
    """Animate a portrait with a driving clip.

        pipe = XNeMoPipeline.from_pretrained(folder).to("cuda", torch.float16)
        frames = pipe(portrait, driving_frames, num_inference_steps=25).frames[0]

    Any diffusers scheduler on the same forward process may replace `pipe.scheduler`. The detector
    is no part of what is saved; the default needs no weights from outside. For clips longer than
    memory use `xnemo.animation.animator.Animator`, which yields frames as they are decoded.
    """

    # In the order of use, for enable_model_cpu_offload(): one part at a time is on the GPU.
    model_cpu_offload_seq: Any = (
        "motion_encoder->image_embedding->reference_net->denoiser->autoencoder"
    )

    denoiser: Any
    reference_net: Any
    motion_encoder: Any
    autoencoder: Any
    image_embedding: Any
    scheduler: Any

    def __init__(
        self,
        denoiser: Any,
        reference_net: Any,
        motion_encoder: Any,
        autoencoder: Any,
        image_embedding: Any,
        scheduler: Any,
        network_config: NetworkConfig,
        detector: Detector | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            denoiser=denoiser,
            reference_net=reference_net,
            motion_encoder=motion_encoder,
            autoencoder=autoencoder,
            image_embedding=image_embedding,
            scheduler=scheduler,
        )
        self.network_config = network_config
        self.detector = detector
        # Offloading asks a part's first weight where it is, so it must have one.
        parts = self.model_cpu_offload_seq.split("->")
        self._exclude_from_cpu_offload = [name for name in parts if not _has_weights(self, name)]
        self.model_cpu_offload_seq = "->".join(name for name in parts if _has_weights(self, name))

    @classmethod
    def from_networks(
        cls,
        networks: Networks,
        diffusion: DiffusionConfig | None = None,
        detector: Detector | None = None,
    ) -> "XNeMoPipeline":
        """Wrap networks, for instance a bundle's, with the release's scheduler (DDIM)."""
        return cls(
            networks.denoiser,
            networks.reference_net,
            networks.motion_encoder,
            networks.autoencoder,
            networks.image_embedding,
            make_scheduler(diffusion or DiffusionConfig()),
            networks.config,
            detector,
        )

    @property
    def networks(self) -> Networks:
        """The parts as they are now."""
        return Networks(
            self.network_config,
            self.denoiser,
            self.reference_net,
            self.motion_encoder,
            self.autoencoder,
            self.image_embedding,
        )

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return self.denoiser.device

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser calculates in."""
        return self.denoiser.dtype

    @property
    def components(self) -> dict[str, Any]:
        """All parts, enough to build another pipeline that shares them."""
        names = ("denoiser", "reference_net", "motion_encoder", "autoencoder", "image_embedding")
        parts = {name: getattr(self, name) for name in (*names, "scheduler", "detector")}
        return parts | {"network_config": self.network_config}

    def to(self, *args: Any, silence_dtype_warnings: bool = True, **kwargs: Any) -> "XNeMoPipeline":
        """Move or cast all parts, with the arguments of `nn.Module.to`.

        `silence_dtype_warnings` is what diffusers passes too; there are none here.
        """
        for part in self.networks.modules().values():
            # Not the models' own: diffusers warns of casting even where nothing must stay fp32.
            nn.Module.to(part, *args, **kwargs)
        return self

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike[str]
    ) -> None:
        """Write a folder that `from_pretrained` reads: it appears whole or not at all.

        Frozen parts (autoencoder, image embedding) are named in it, not copied.

        Raises:
            UserError: The folder exists and is not empty.
        """
        folder = Path(save_directory)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} exists already", "give a new folder")
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.pipeline")
        try:
            self.networks.save(partial)
            self.scheduler.save_pretrained(partial / SCHEDULER_FOLDER)
            index = {
                "_class_name": type(self).__name__,
                "_diffusers_version": diffusers.__version__,
            }
            (partial / self.config_name).write_text(json.dumps(index, indent=2) + "\n")
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        torch_dtype: torch.dtype | None = None,
        detector: Detector | None = None,
        paths: FrozenPaths | None = None,
        **overrides: Any,
    ) -> "XNeMoPipeline":
        """Read what `save_pretrained` wrote.

        Args:
            pretrained_model_name_or_path: Local folder.
            torch_dtype: Cast the trained parts to it; None keeps what was saved.
            detector: Finds faces; None takes the default one.
            paths: Where autoencoder and image embedding lie, if not where they were.
            overrides: Parts to use instead of the saved ones, such as `scheduler=`.

        Raises:
            UserError: A file is missing or damaged.
        """
        folder = Path(pretrained_model_name_or_path)
        networks = Networks.load(folder, training=False, paths=paths).eval()
        parts = cls.from_networks(networks, detector=detector).components
        parts["scheduler"] = read_scheduler(folder / SCHEDULER_FOLDER)
        unknown = overrides.keys() - parts.keys()
        if unknown:
            raise UserError(
                f"XNeMoPipeline has no part {sorted(unknown)[0]!r}",
                f"use one of {', '.join(sorted(parts))}",
            )
        pipeline = cls(**parts | overrides)
        return pipeline.to(dtype=torch_dtype) if torch_dtype else pipeline

    @torch.no_grad()
    def __call__(
        self,
        image: Picture,
        driving: Sequence[Picture] | Frames,
        second_driving: Sequence[Picture] | Frames | None = None,
        *,
        num_inference_steps: int = 35,
        guidance_scale: float = 2.5,
        generator: torch.Generator | None = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Tensor] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        window: int = 24,
        overlap: int = 4,
        box: BoxMode = "relative",
        blend: tuple[float, float] = (0.5, 0.5),
        blurred_reference: bool = True,
    ) -> XNeMoPipelineOutput | tuple[Any]:
        """Animate a portrait.

        Args:
            image: The portrait, RGB; its face is found and the picture cut around it.
            driving: Driving frames, RGB pictures or arrays, all of one size.
            second_driving: A second driver, whose motion is blended in by `blend`.
            num_inference_steps: Denoising steps.
            guidance_scale: Guidance; 1 turns it off and halves the work.
            generator: CPU generator of all noise; a new seed each time if not given.
            output_type: "pil", "np", "pt" or "latent"; see `XNeMoPipelineOutput`.
            return_dict: Return an `XNeMoPipelineOutput`, not a tuple.
            callback_on_step_end: Called as `f(pipe, step, timestep, {"latents": ...})` after every
                step; "latents" in what it returns replaces them.
            callback_on_step_end_tensor_inputs: "latents" or nothing.
            window: Frames denoised together.
            overlap: Frames that neighbouring windows share.
            box: Where the face is, see `AnimateConfig.box`.
            blend: Weight of the second driver at the first and last frame.
            blurred_reference: Start from the blurred reference, as the release does.

        Raises:
            UserError: No face in the portrait or in the driving frames.
        """
        if output_type not in ("pil", "np", "pt", "latent"):
            raise UserError(f"output_type = {output_type!r}", "use pil, np, pt or latent")
        wrong = set(callback_on_step_end_tensor_inputs) - {"latents"}
        if wrong:
            raise UserError(f"the callback cannot be given {sorted(wrong)[0]!r}", "use latents")
        if generator is not None and generator.device.type != "cpu":
            raise UserError("the generator is on a GPU", "pass torch.Generator('cpu')")
        sampler = SamplerConfig(
            steps=num_inference_steps,
            guidance=guidance_scale,
            window=window,
            overlap=overlap,
            blurred_reference=blurred_reference,
        )
        config = AnimateConfig(sampler=sampler, box=box, blend=blend)
        self.detector = self.detector or make_detector()
        animator = Animator(self.networks, self.detector, scheduler=self.scheduler)
        portrait = animator.prepare_portrait(_array(image), config)
        motion = animator.driving_motion(_Arrays(driving), portrait, config)
        if second_driving is not None:
            motion = animator.blended(motion, _Arrays(second_driving), portrait, config)
        if generator is None:
            generator = torch.Generator()
            generator.seed()

        with self.progress_bar(total=num_inference_steps) as bar:

            def after_step(step: int, timestep: int, latents: Tensor) -> Tensor | None:
                bar.update()
                if callback_on_step_end is None:
                    return None
                # A copy: the sampler goes on in place, and callers keep what they are given.
                given = {name: latents.clone() for name in callback_on_step_end_tensor_inputs}
                answer = callback_on_step_end(self, step, timestep, given)
                return (answer or {}).get("latents")

            latents = animator.denoise(
                portrait, motion, config, on_step=after_step, generator=generator
            )
        frames = _convert(animator, latents, output_type)
        self.maybe_free_model_hooks()
        return XNeMoPipelineOutput(frames=frames) if return_dict else (frames,)


def _has_weights(pipeline: XNeMoPipeline, name: str) -> bool:
    part = getattr(pipeline, name)
    return isinstance(part, nn.Module) and any(True for _ in part.parameters())


def _convert(animator: Animator, latents: Tensor, output_type: str) -> Any:
    if output_type == "latent":
        return latents
    pictures = list(animator.decode(latents))
    if output_type == "pil":
        return [[PIL.Image.fromarray(picture) for picture in pictures]]
    array = np.stack(pictures)[None].astype(np.float32) / 255
    return array if output_type == "np" else torch.from_numpy(array).permute(0, 1, 4, 2, 3)


def _array(picture: Picture) -> NDArray[np.uint8]:
    if isinstance(picture, PIL.Image.Image):
        return np.asarray(picture.convert("RGB"))
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise UserError(
            f"a picture is an array of {picture.dtype} {picture.shape}",
            "give RGB uint8 (height, width, 3), or PIL pictures",
        )
    return picture


class _Arrays:
    """Frames as arrays, as often as they are gone through."""

    def __init__(self, frames: Any) -> None:
        # A generator can be gone through once only, and two passes are needed.
        self.frames = list(frames) if iter(frames) is frames else frames

    def __iter__(self) -> Any:
        return (_array(frame) for frame in self.frames)
