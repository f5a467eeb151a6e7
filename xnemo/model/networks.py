"""All parts of the network: building, saving and loading them together."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import save_file
from torch import Tensor, nn

from preprocessing.errors import UserError
from xnemo.config import from_dict, to_dict
from xnemo.data.motion_numbers import READOUT_COLUMNS
from xnemo.model.config import FrozenPaths, NetworkConfig
from xnemo.model.frozen.autoencoder import make_autoencoder
from xnemo.model.frozen.autoencoder_kinds import Autoencoder
from xnemo.model.frozen.image_embedding import ImageEmbedding, make_image_embedding
from xnemo.model.gan.discriminator import Discriminator
from xnemo.model.gan.gan_head import GanHead
from xnemo.model.motion.encoder import MotionEncoder
from xnemo.model.motion.motion_readout import MotionReadout
from xnemo.model.unet.denoising_unet import DenoisingUNet
from xnemo.model.unet.reference_copy import init_reference_copy
from xnemo.model.unet.reference_net import ReferenceNet
from xnemo.model.weights.check import assign_tensors, check_tensors
from xnemo.model.weights.files import atomic_folder, read_tensors
from xnemo.model.weights.initialise import initialise, layer_seed

CONFIG_FILE = "network.json"
TEMPORAL = ".temporal_modules."
# Parts that are used in training only.
TRAINING_PARTS = ("gan_head", "discriminator", "motion_readout")
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


@dataclass
class Networks:
    """The parts of X-NeMo."""

    config: NetworkConfig
    denoiser: DenoisingUNet
    reference_net: ReferenceNet
    motion_encoder: MotionEncoder
    # Frozen: loaded from elsewhere, not trained, not saved.
    autoencoder: Autoencoder
    image_embedding: ImageEmbedding
    # For training only.
    gan_head: GanHead | None = None
    discriminator: Discriminator | None = None
    motion_readout: MotionReadout | None = None

    def trained_parts(self) -> dict[str, ModelMixin]:
        """Return the parts that are trained and saved, by name."""
        names = ("denoiser", "reference_net", "motion_encoder", *TRAINING_PARTS)
        parts = {name: getattr(self, name) for name in names}
        return {name: part for name, part in parts.items() if part is not None}

    def modules(self) -> dict[str, nn.Module]:
        """Return all parts by name, including the frozen ones."""
        frozen = {"autoencoder": self.autoencoder, "image_embedding": self.image_embedding}
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

        The folder is written atomically. Each part's folder also loads separately, with the
        `from_pretrained` of its class.

        Raises:
            UserError: The folder exists and is not empty.
        """
        with atomic_folder(directory) as folder:
            for name, part in self.trained_parts().items():
                _write_part(part, folder / name)
            text = json.dumps(to_dict(self.config), indent=2) + "\n"
            (folder / CONFIG_FILE).write_text(text)

    @classmethod
    def load(
        cls,
        directory: str | Path,
        training: bool = True,
        config: NetworkConfig | None = None,
        seed: int = 0,
        paths: FrozenPaths | None = None,
    ) -> "Networks":
        """Load what `save` wrote, bit for bit and in the saved dtypes.

        Args:
            directory: The folder.
            training: Also load the parts for training, where the folder has them.
            config: Replaces the saved configuration, to go from one training stage to the next. It
                may add temporal modules, which are then initialised, or drop them; all other
                weights must fit it. Parts that the folder lacks (GAN head, discriminator) are
                initialised too.
            seed: Of the initialisation.
            paths: Locations of the frozen parts, instead of the configuration's.

        Raises:
            UserError: A file is missing or damaged, or weights do not fit the configuration.
        """
        directory = Path(directory)
        shape = config or read_config(directory)
        networks = empty_networks(paths.apply_to(shape) if paths else shape, seed, training)
        parts = networks.trained_parts()
        for name in TRAINING_PARTS:
            if name in parts and not (directory / name).is_dir():
                del parts[name]
                if config is None:
                    setattr(networks, name, None)
        tensors = {name: read_tensors(directory / name) for name in parts}
        for name, part in parts.items():
            expected = part.state_dict()
            optional: list[str] = []
            if name == "denoiser" and config is not None:
                optional = _adapt_temporal(tensors[name], expected)
            check_tensors(tensors[name], expected, str(directory / name), optional)
        for name, part in parts.items():
            assign_tensors(part, tensors[name], keep_dtype=True)
        initialise_missing(networks, seed)
        return networks


def build_networks(config: NetworkConfig, seed: int = 0, training: bool = True) -> Networks:
    """Build all parts with initial weights, on the CPU and in fp32.

    Each layer's weights depend only on the seed and its name: they are the same with and without
    temporal modules or GAN head.

    Args:
        config: Shapes of all parts.
        seed: Of the initialisation.
        training: Also build the parts for training.

    Raises:
        UserError: The weights of a frozen part cannot be loaded.
    """
    networks = empty_networks(config, seed, training)
    initialise_missing(networks, seed)
    return networks


def empty_networks(config: NetworkConfig, seed: int = 0, training: bool = True) -> Networks:
    """Build all parts, the three large ones on the meta device, to load weights into.

    `initialise_missing` must initialise what no file provides.
    """
    with torch.device("meta"):
        denoiser = DenoisingUNet(**asdict(config.unet))
        reference_net = ReferenceNet.from_unet_config(config.unet)
        motion_encoder = MotionEncoder(**asdict(config.motion))
    gan_head = discriminator = motion_readout = None
    if training:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(layer_seed(seed, "gan_head"))
            gan_head = GanHead(**asdict(config.gan))
            # The name in the seed is not "discriminator", so that initial weights stay the same.
            torch.manual_seed(layer_seed(seed, "critic"))
            discriminator = Discriminator(**asdict(config.discriminator))
            torch.manual_seed(layer_seed(seed, "motion_readout"))
            motion_readout = MotionReadout(config.motion.latent_width, len(READOUT_COLUMNS))
    return Networks(
        config,
        denoiser,
        reference_net,
        motion_encoder,
        make_autoencoder(config.autoencoder),
        make_image_embedding(config.image_embedding),
        gan_head,
        discriminator,
        motion_readout,
    )


def initialise_missing(networks: Networks, seed: int = 0) -> None:
    """Initialise every weight that is still on the meta device.

    The reference network gets the denoiser's weights, as it does from pretrained files. Without
    pretrained files and with `use_2d_rope` both get the reference copy initialisation.
    """
    fresh = {
        name: initialise(part, seed, "denoiser" if name == "reference_net" else name)
        for name, part in networks.trained_parts().items()
    }
    is_untrained = all("conv_in" in fresh[name] for name in ("denoiser", "reference_net"))
    if networks.config.unet.use_2d_rope and is_untrained:
        init_reference_copy(networks.denoiser, networks.reference_net, seed)


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
        raise UserError(f"{path} contains no configuration", "restore the file")
    return from_dict(NetworkConfig, data)


def _adapt_temporal(found: dict[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Drop unexpected temporal modules from `found`; return the names of those to initialise."""
    if not any(TEMPORAL in name for name in expected):
        for name in [name for name in found if TEMPORAL in name]:
            del found[name]
    if any(TEMPORAL in name for name in found):
        return []
    return [name for name in expected if TEMPORAL in name]


def _write_part(part: ModelMixin, directory: Path) -> None:
    directory.mkdir(parents=True)
    part.save_config(directory)
    # Channels-last weights are not contiguous, which safetensors requires.
    tensors = {name: t.detach().cpu().contiguous() for name, t in part.state_dict().items()}
    save_file(tensors, directory / WEIGHTS_FILE, metadata={"format": "pt"})
