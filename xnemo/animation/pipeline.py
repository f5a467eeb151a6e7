"""The model as a diffusers pipeline."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import PIL.Image
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from torch import Tensor, nn

from preprocessing.errors import UserError, first_line
from preprocessing.faces import Detector, make_detector
from xnemo.animation.animator import Animator
from xnemo.animation.config import AnimateConfig, BoxMode
from xnemo.animation.inputs import Image, Video, read_frames, read_image
from xnemo.config import from_dict, to_dict
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.diffusion.scheduler import make_scheduler
from xnemo.model.config import FrozenPaths, NetworkConfig
from xnemo.model.frozen.autoencoder import make_autoencoder
from xnemo.model.frozen.image_embedding import make_image_embedding
from xnemo.model.motion.encoder import MotionEncoder
from xnemo.model.networks import CONFIG_FILE, Networks
from xnemo.model.unet.denoising_unet import DenoisingUNet
from xnemo.model.unet.reference_net import ReferenceNet
from xnemo.model.weights.files import atomic_folder

_TRAINED = ("denoiser", "reference_net", "motion_encoder")


@dataclass
class XNeMoPipelineOutput(BaseOutput):
    """The animated portrait.

    `frames` is, by output type: "pil" a list of one list of images; "np" an array (1, F, H, W, 3)
    and "pt" a tensor (1, F, 3, H, W), both in [0, 1]; "latent" the scaled latents (1, C, F, h, w).
    """

    frames: list[list[PIL.Image.Image]] | NDArray[np.float32] | Tensor


class XNeMoPipeline(DiffusionPipeline):
    """Animate a portrait with driving frames.

        pipe = XNeMoPipeline.from_pretrained("org/name", dtype=torch.float16).to("cuda")
        frames = pipe("portrait.jpg", "driving.mp4", num_inference_steps=25).frames[0]

    Loading, saving, offloading and the progress bar are those of `DiffusionPipeline`. Any diffusers
    scheduler on the same forward process may replace `pipe.scheduler`. Autoencoder and image
    embedding are frozen and come from elsewhere: a saved pipeline names them and does not contain
    them. The face detector is not saved either; the default one needs no further weights. For clips
    longer than memory use `Animator`, which yields frames as they are decoded.

    Args:
        denoiser: The denoising UNet.
        reference_net: Its reference network.
        motion_encoder: The motion encoder.
        scheduler: A diffusers scheduler on a variance-preserving process.
        autoencoder: The frozen autoencoder; by default the one that `network_config` names.
        image_embedding: The frozen image embedding; likewise.
        network_config: Configuration of all networks.
        frozen_paths: Where autoencoder and image embedding are, if not where `network_config` says.

    Raises:
        UserError: A frozen part cannot be loaded.
    """

    # In the order of use, for enable_model_cpu_offload(): one part at a time is on the GPU.
    model_cpu_offload_seq: Any = (
        "motion_encoder->image_embedding->reference_net->denoiser->autoencoder"
    )
    _optional_components = ["autoencoder", "image_embedding"]  # noqa: RUF012 - as diffusers has it

    denoiser: DenoisingUNet
    reference_net: ReferenceNet
    motion_encoder: MotionEncoder
    scheduler: SchedulerMixin
    autoencoder: Any
    image_embedding: Any

    def __init__(
        self,
        denoiser: DenoisingUNet,
        reference_net: ReferenceNet,
        motion_encoder: MotionEncoder,
        scheduler: SchedulerMixin,
        autoencoder: nn.Module | None = None,
        image_embedding: nn.Module | None = None,
        network_config: NetworkConfig | dict[str, Any] | None = None,
        frozen_paths: FrozenPaths | None = None,
    ) -> None:
        super().__init__()
        config = (
            network_config
            if isinstance(network_config, NetworkConfig)
            else from_dict(NetworkConfig, network_config or {})
        )
        self.register_modules(
            denoiser=denoiser,
            reference_net=reference_net,
            motion_encoder=motion_encoder,
            scheduler=scheduler,
            # None here keeps them out of what is saved.
            autoencoder=None,
            image_embedding=None,
        )
        self.register_to_config(network_config=to_dict(config))
        self.networks_config = config
        found = (frozen_paths or FrozenPaths()).apply_to(config)
        self.autoencoder = autoencoder or make_autoencoder(found.autoencoder)
        self.image_embedding = image_embedding or make_image_embedding(found.image_embedding)
        # Finds faces in portraits and driving frames; None uses the default detector.
        self.detector: Detector | None = None
        # Offloading asks for the device of a part's first weight, so the part must have one.
        parts = self.model_cpu_offload_seq.split("->")
        self._exclude_from_cpu_offload = [name for name in parts if not self._has_weights(name)]
        self.model_cpu_offload_seq = "->".join(name for name in parts if self._has_weights(name))

    def _has_weights(self, name: str) -> bool:
        return any(True for _ in getattr(self, name).parameters())

    @classmethod
    def from_networks(
        cls,
        networks: Networks,
        diffusion: DiffusionConfig | None = None,
        detector: Detector | None = None,
    ) -> Self:
        """Wrap networks, such as those of `load_model`, with the official scheduler (DDIM)."""
        parts: dict[str, Any] = vars(networks)
        names = (*_TRAINED, *cls._optional_components)
        pipeline = cls(
            **{name: parts[name] for name in names},
            scheduler=make_scheduler(diffusion or DiffusionConfig()),  # type: ignore[arg-type]
            network_config=networks.config,
        )
        pipeline.detector = detector
        return pipeline

    @property
    def networks(self) -> Networks:
        """The current parts."""
        parts = {name: getattr(self, name) for name in (*_TRAINED, *self._optional_components)}
        return Networks(self.networks_config, **parts)

    # The base class asks every part for device and type, which frozen ones may not have.
    @property
    def device(self) -> torch.device:
        """Device of the denoiser."""
        device: torch.device = self.denoiser.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Type that the denoiser computes in."""
        dtype: torch.dtype = self.denoiser.dtype
        return dtype

    def to(self, *args: Any, silence_dtype_warnings: bool = True, **kwargs: Any) -> Self:
        """Move or cast all parts, with the arguments of `nn.Module.to`."""
        for part in self.networks.modules().values():
            # Not the models' own: diffusers warns of casting even where nothing must stay fp32.
            nn.Module.to(part, *args, **kwargs)
        return self

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        detector: Detector | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a saved pipeline from a folder or the hub.

        Args:
            pretrained_model_name_or_path: Local folder, or name on the hub ("org/name").
            detector: Finds faces; None uses the default detector.
            kwargs: Those of `DiffusionPipeline.from_pretrained` (`dtype`, `revision`, `variant`,
                `local_files_only`, parts such as `scheduler`, ...) and `frozen_paths`.

        Raises:
            UserError: The hub cannot be reached, or a file is missing, damaged or does not fit.
        """
        try:
            pipeline: Self = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except UserError:
            raise
        except Exception as error:  # the libraries raise a dozen kinds for damaged files
            remedy = (
                "save or download it again"
                if Path(pretrained_model_name_or_path).is_dir()
                else "check the name and the network, or give a local folder"
            )
            raise UserError(
                f"{pretrained_model_name_or_path} does not load as an {cls.__name__}:"
                f" {first_line(error)}",
                remedy,
            ) from error
        pipeline.detector = detector
        return pipeline

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> None:
        """Write a folder that `from_pretrained` and `load_model` read, atomically.

        Args:
            save_directory: The folder.
            args: Those of `DiffusionPipeline.save_pretrained`.
            kwargs: Likewise (`safe_serialization`, `variant`, `push_to_hub`, ...).

        Raises:
            UserError: The folder exists and is not empty.
        """
        for name in _TRAINED:
            # diffusers would write the full name of the module, which may change.
            part = getattr(self, name)
            self.register_to_config(**{name: ("xnemo", type(part).__name__)})
        if kwargs.get("push_to_hub"):
            kwargs.setdefault("repo_id", Path(save_directory).name)
        with atomic_folder(save_directory) as folder:
            super().save_pretrained(str(folder), *args, **kwargs)
            text = json.dumps(to_dict(self.networks_config), indent=2) + "\n"
            (folder / CONFIG_FILE).write_text(text)

    @torch.no_grad()
    def __call__(
        self,
        image: Image,
        driving: Video,
        second_driving: Video | None = None,
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
    ) -> XNeMoPipelineOutput | tuple[list[list[PIL.Image.Image]] | NDArray[np.float32] | Tensor]:
        """Animate a portrait.

        Args:
            image: The portrait: RGB image, array or file; it is cropped around its face.
            driving: Driving video: a file, or RGB images or arrays, all of one size.
            second_driving: A second video, whose motion is blended in by `blend`.
            num_inference_steps: Denoising steps.
            guidance_scale: Guidance; 1 turns it off and halves the work.
            generator: Generator of all noise, on any device; a new seed each time if not given.
            output_type: "pil", "np", "pt" or "latent"; see `XNeMoPipelineOutput`.
            return_dict: Return an `XNeMoPipelineOutput`, not a tuple.
            callback_on_step_end: Called as `f(pipe, step, timestep, {"latents": ...})` after every
                step; "latents" in its result replaces them.
            callback_on_step_end_tensor_inputs: "latents" or nothing.
            window: Frames denoised together.
            overlap: Frames that neighbouring windows share.
            box: Position of the face, see `AnimateConfig.box`.
            blend: Weight of the second video at the first and last frame.
            blurred_reference: Start from the blurred reference, as the official release does.

        Raises:
            UserError: No face in the portrait or in the driving frames.
        """
        if output_type not in ("pil", "np", "pt", "latent"):
            raise UserError(f"output_type = {output_type!r}", "use pil, np, pt or latent")
        wrong = set(callback_on_step_end_tensor_inputs) - {"latents"}
        if wrong:
            raise UserError(f"the callback cannot be given {sorted(wrong)[0]!r}", "use latents")
        config = AnimateConfig(
            steps=num_inference_steps,
            guidance=guidance_scale,
            window=window,
            overlap=overlap,
            blurred_reference=blurred_reference,
            box=box,
            blend=blend,
        )
        self.detector = self.detector or make_detector()
        animator = Animator(self.networks, self.detector, scheduler=self.scheduler)
        portrait = animator.prepare_portrait(read_image(image), config)
        motion = animator.place_motion(
            animator.read_motion(read_frames(driving), config), portrait, config
        )
        if second_driving is not None:
            motion = animator.blended(motion, read_frames(second_driving), portrait, config)

        with self.progress_bar(total=num_inference_steps) as bar:

            def after_step(step: int, timestep: int, latents: Tensor) -> Tensor | None:
                bar.update()
                if callback_on_step_end is None:
                    return None
                # A copy: the sampler works in place, and callers keep what they are given.
                inputs = {name: latents.clone() for name in callback_on_step_end_tensor_inputs}
                answer = callback_on_step_end(self, step, timestep, inputs)
                return (answer or {}).get("latents")

            latents = animator.denoise(
                portrait, motion, config, on_step=after_step, generator=_cpu_generator(generator)
            )
        frames = _convert(animator, latents, output_type)
        self.maybe_free_model_hooks()
        return XNeMoPipelineOutput(frames=frames) if return_dict else (frames,)


def _cpu_generator(generator: torch.Generator | None) -> torch.Generator:
    """Return a generator for the sampler, which draws on the CPU."""
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    if generator.device.type == "cpu":
        return generator
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    return torch.Generator().manual_seed(int(seed))


def _convert(
    animator: Animator, latents: Tensor, output_type: str
) -> list[list[PIL.Image.Image]] | NDArray[np.float32] | Tensor:
    if output_type == "latent":
        return latents
    images = list(animator.decode(latents))
    if output_type == "pil":
        return [[PIL.Image.fromarray(image) for image in images]]
    array = np.asarray(np.stack(images)[None], np.float32) / np.float32(255)
    return array if output_type == "np" else torch.from_numpy(array).permute(0, 1, 4, 2, 3)
