"""The authors' four checkpoint files, in and out."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from preprocessing.errors import UserError
from xnemo.model.networks import Networks
from xnemo.model.weights.atomic_folder import whole_folder
from xnemo.model.weights.check import assign_tensors, check_tensors
from xnemo.model.weights.files import read_tensors

TEMPORAL = ".temporal_modules."
POSITIONS = ".pos_encoder.pe"


@dataclass(frozen=True)
class OfficialFiles:
    """Paths of the released checkpoints."""

    motion_encoder: Path
    reference_unet: Path
    # Base network and motion modules.
    denoising_unet: Path
    # Temporal modules; None where all are in `denoising_unet`, or the network has none.
    temporal_module: Path | None = None


def find_official_files(directory: str | Path) -> OfficialFiles:
    """Find the four files by the names they were released under.

    Raises:
        UserError: One line that names every file that is not there.
    """
    folder = Path(directory).expanduser()
    names = ("motion_encoder", "reference_unet", "denoising_unet", "temporal_module")
    paths = {name: folder / f"xnemo_{name}.pth" for name in names}
    absent = [path.name for path in paths.values() if not path.is_file()]
    if absent:
        raise UserError(f"{folder} lacks {', '.join(absent)}", "put the released files there")
    return OfficialFiles(**paths)


def load_official(networks: Networks, files: OfficialFiles) -> None:
    """Load the released weights into motion encoder, reference network and denoiser.

    Every tensor of every file is checked before the first is loaded. The two files of the denoiser
    are one state dict in two halves; only its position tables, which are fixed, may be missing.
    Networks from `empty_networks` take the mapped files as they are, without a copy; to keep half
    precision of half-precision files, cast such networks first.

    Args:
        networks: Of the released shape; GAN head and discriminator, which were not released, stay.
        files: Where the checkpoints are.

    Raises:
        UserError: One line that names what is missing, surplus or mis-shaped.
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
    """Write the weights as the authors' files, which their own code can load.

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
    with whole_folder(directory) as folder:
        for name, tensors in contents.items():
            _save(tensors, folder / f"xnemo_{name}.pth")


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    # Given a path, torch would tell of a full disk in words of its own.
    with path.open("wb") as file:
        try:
            torch.save(tensors, file)
        except RuntimeError as error:
            # What its archive says when the file failed first.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _plain(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}
