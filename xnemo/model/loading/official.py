"""Loading and exporting the four checkpoint files of the official X-NeMo release."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from preprocessing.errors import UserError
from preprocessing.paths import user_path
from xnemo.model.networks import TEMPORAL, Networks
from xnemo.model.weights.check import assign_tensors, check_tensors
from xnemo.model.weights.files import atomic_folder, read_tensors

POSITIONS = ".pos_encoder.pe"


@dataclass(frozen=True)
class OfficialFiles:
    """Paths of the released checkpoints."""

    motion_encoder: Path
    reference_unet: Path
    # Base network and motion modules.
    denoising_unet: Path
    # Temporal modules; None where they are in `denoising_unet`, or the network has none.
    temporal_module: Path | None = None


def find_official_files(directory: str | Path) -> OfficialFiles:
    """Find the four files by their released names.

    Raises:
        UserError: Files are missing; the message names all of them.
    """
    folder = user_path(directory)
    names = ("motion_encoder", "reference_unet", "denoising_unet", "temporal_module")
    paths = {name: folder / f"xnemo_{name}.pth" for name in names}
    absent = [path.name for path in paths.values() if not path.is_file()]
    if absent:
        raise UserError(f"{folder} lacks {', '.join(absent)}", "put the released files there")
    return OfficialFiles(**paths)


def load_official(networks: Networks, files: OfficialFiles) -> None:
    """Load the released weights into motion encoder, reference network and denoiser.

    All tensors of all files are checked before the first is loaded. The two files of the denoiser
    form one state dict; only its position tables, which are fixed, may be missing. Networks from
    `empty_networks` use the mapped files without a copy; to keep the half precision of files, cast
    such networks first.

    Args:
        networks: Of the released shape; GAN head and discriminator, which were not released, keep
            their weights.
        files: Paths of the checkpoints.

    Raises:
        UserError: Tensors are missing, surplus or mis-shaped; nothing is loaded.
    """
    denoiser = networks.denoiser.state_dict()
    tensors = read_tensors(files.denoising_unet)
    source = str(files.denoising_unet)
    if files.temporal_module is not None and any(TEMPORAL in name for name in denoiser):
        temporal = read_tensors(files.temporal_module)
        strays = {name: t for name, t in temporal.items() if TEMPORAL not in name}
        check_tensors(strays, {}, str(files.temporal_module))
        tensors |= temporal
        source = f"{source} with {files.temporal_module.name}"
    plan: list[tuple[nn.Module, dict[str, torch.Tensor], str]] = [
        (networks.denoiser, tensors, source)
    ]
    parts = (
        (networks.reference_net, files.reference_unet),
        (networks.motion_encoder, files.motion_encoder),
    )
    plan += [(part, read_tensors(path), str(path)) for part, path in parts]
    for part, found, name in plan:
        expected = part.state_dict()
        tables = [key for key in expected if key.endswith(POSITIONS)]
        check_tensors(found, expected, name, optional=tables)
    for part, found, _ in plan:
        assign_tensors(part, found, keep_dtype=False)


def export_official(networks: Networks, directory: str | Path) -> None:
    """Write the weights as files that the official code can load.

    Raises:
        UserError: The folder exists and is not empty.
    """
    denoiser = _plain(networks.denoiser)
    temporal = {name: denoiser.pop(name) for name in list(denoiser) if TEMPORAL in name}
    contents = {
        "motion_encoder": _plain(networks.motion_encoder),
        "reference_unet": _plain(networks.reference_net),
        "denoising_unet": denoiser,
        "temporal_module": temporal,
    }
    with atomic_folder(directory) as folder:
        for name, tensors in contents.items():
            _save(tensors, folder / f"xnemo_{name}.pth")


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    # Given a path instead of a file, torch would hide the OSError of a full disk.
    with path.open("wb") as file:
        try:
            torch.save(tensors, file)
        except RuntimeError as error:
            # Raised by the archive writer after the file itself failed.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _plain(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}
