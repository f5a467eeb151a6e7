"""All parts of the network together: build, save, load."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from preprocessing.errors import UserError
from xnemo.config import from_dict, to_dict
from xnemo.model.autoencoder import Autoencoder, make_autoencoder
from xnemo.model.config import NetworkConfig
from xnemo.model.critic import Critic
from xnemo.model.denoising_unet import DenoisingUNet
from xnemo.model.gan_head import GanHead
from xnemo.model.image_token import ImageToken, make_image_token
from xnemo.model.initialise import initialise, layer_seed
from xnemo.model.motion_encoder import MotionEncoder
from xnemo.model.reference_net import ReferenceNet
from xnemo.model.weights_check import assign_tensors, check_tensors
from xnemo.model.weights_files import read_tensors

CONFIG_FILE = "network.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


@dataclass
class Networks:
    """The parts of X-NeMo. GAN head and critic serve training alone and may be absent."""

    config: NetworkConfig
    denoiser: DenoisingUNet
    reference_net: ReferenceNet
    motion_encoder: MotionEncoder
    gan_head: GanHead | None
    critic: Critic | None
    # Frozen: they come from elsewhere, are never trained and are not saved.
    autoencoder: Autoencoder
    image_token: ImageToken

    def trained_parts(self) -> dict[str, Any]:
        """Return the parts that are trained and saved, by name."""
        names = ("denoiser", "reference_net", "motion_encoder", "gan_head", "critic")
        parts = {name: getattr(self, name) for name in names}
        return {name: part for name, part in parts.items() if part is not None}

    def modules(self) -> dict[str, nn.Module]:
        """Return all parts by name, the frozen ones too."""
        frozen = {"autoencoder": self.autoencoder, "image_token": self.image_token}
        return self.trained_parts() | {
            name: part for name, part in frozen.items() if isinstance(part, nn.Module)
        }

    def to(self, *args: Any, **kwargs: Any) -> "Networks":
        """Move or cast all parts in place, with the arguments of `nn.Module.to`."""
        for part in self.modules().values():
            part.to(*args, **kwargs)
        return self

    def eval(self) -> "Networks":
        """Set all parts to evaluation mode."""
        for part in self.modules().values():
            part.eval()
        return self

    def save(self, directory: str | Path) -> None:
        """Write `network.json` and one diffusers folder per trained part.

        The folder appears whole or not at all. Each part's folder also loads by itself, with that
        class's `from_pretrained`.

        Raises:
            UserError: The folder exists and is not empty.
        """
        directory = Path(directory)
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise UserError(f"{directory} exists already", "give a new folder")
        partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            for name, part in self.trained_parts().items():
                _write_part(part, partial / name)
            text = json.dumps(to_dict(self.config), indent=2) + "\n"
            (partial / CONFIG_FILE).write_text(text)
            os.replace(partial, directory)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    @classmethod
    def load(cls, directory: str | Path, training: bool = True) -> "Networks":
        """Read what `save` wrote, bit for bit and in the types it was saved in.

        Args:
            directory: The folder.
            training: Also load GAN head and critic, where the folder has them.

        Raises:
            UserError: A file is missing or damaged, or weights do not fit the configuration.
        """
        directory = Path(directory)
        config = read_config(directory)
        networks = empty_networks(config, training=training)
        for name in ("gan_head", "critic"):
            if not (directory / name).is_dir():
                setattr(networks, name, None)
        parts = networks.trained_parts()
        tensors = {name: read_tensors(directory / name) for name in parts}
        for name, part in parts.items():
            check_tensors(tensors[name], part.state_dict(), str(directory / name))
        for name, part in parts.items():
            assign_tensors(part, tensors[name], keep_dtype=True)
        return networks


def build_networks(config: NetworkConfig, seed: int = 0, training: bool = True) -> Networks:
    """Build all parts with fresh weights, on the CPU and in fp32.

    The same seed gives the same weights, and each layer's depend on its name alone: with or
    without temporal modules or GAN head, the others start alike.

    Args:
        config: Shapes of all parts.
        seed: Of the initialisation.
        training: Also build GAN head and critic.

    Raises:
        UserError: The weights of a frozen part cannot be had.
    """
    networks = empty_networks(config, seed, training)
    initialise_missing(networks, seed)
    return networks


def empty_networks(config: NetworkConfig, seed: int = 0, training: bool = True) -> Networks:
    """Build all parts with the three large ones on the meta device, to load weights into.

    Whatever no file provides is to be filled by `initialise_missing`.
    """
    with torch.device("meta"):
        denoiser = DenoisingUNet(**asdict(config.unet))
        reference_net = ReferenceNet.from_unet_config(config.unet)
        motion_encoder = MotionEncoder(**asdict(config.motion))
    gan_head = critic = None
    if training:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(layer_seed(seed, "gan_head"))
            gan_head = GanHead(**asdict(config.gan))
            torch.manual_seed(layer_seed(seed, "critic"))
            critic = Critic(**asdict(config.critic))
    return Networks(
        config,
        denoiser,
        reference_net,
        motion_encoder,
        gan_head,
        critic,
        make_autoencoder(config.autoencoder),
        make_image_token(config.image_token),
    )


def initialise_missing(networks: Networks, seed: int = 0) -> None:
    """Give fresh values to every weight that is still on the meta device."""
    for name, part in networks.trained_parts().items():
        initialise(part, seed, name)


def read_config(directory: str | Path) -> NetworkConfig:
    """Read the configuration that `Networks.save` wrote.

    Raises:
        UserError: The file is missing, damaged or of another layout.
    """
    path = Path(directory) / CONFIG_FILE
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{directory} has no {CONFIG_FILE}", "give a saved network") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable as JSON", "restore the file") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no configuration", "restore the file")
    return from_dict(NetworkConfig, data)


def _write_part(part: Any, directory: Path) -> None:
    directory.mkdir(parents=True)
    part.save_config(directory)
    # Channels-last weights are not contiguous, which safetensors asks for.
    tensors = {name: t.detach().cpu().contiguous() for name, t in part.state_dict().items()}
    save_file(tensors, directory / WEIGHTS_FILE, metadata={"format": "pt"})
