"""Options that several commands share, so that they read and mean the same everywhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml

from preprocessing.errors import UserError
from xnemo.config import override

C = TypeVar("C")

Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Ray cluster to run on, or auto; left out, this machine, in a Ray of its own.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML file of settings, by the same names."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME=VALUE]...", help="Settings to change, by dotted name."),
]
DetectorName = Annotated[str | None, typer.Option(help="Face detector: centerface or insightface.")]
FacesPack = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Folder of an insightface model pack (*.onnx), to detect by."),
]
RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Recipe to start from; see `xnemo recipes`.")
]
Shards = Annotated[
    list[str],
    typer.Option("--data", metavar="SHARDS", help="Folder or URL of shards; may be repeated."),
]
RunsFolder = Annotated[Path, typer.Option(help="Folder of all runs; shared by all nodes.")]
TrackingUri = Annotated[
    str | None,
    typer.Option(metavar="URI", help="MLflow; left out, SQLite beside the runs."),
]

#: Where runs lie unless a person says otherwise.
RUNS = Path("runs")


def detector_settings(
    detector: str | None,
    faces_pack: str | None,
    *,
    name: str = "detector",
    pack: str = "faces_pack",
) -> dict[str, str | None]:
    """Return the options of the detector as settings: who names a pack means what reads packs."""
    return {name: detector or ("insightface" if faces_pack else None), pack: faces_pack}


def _folder_name(name: str) -> str:
    """Refuse what would put a run's folder elsewhere than into the folder of all runs."""
    if not name or name != Path(name).name or name.startswith(".") or not name.isprintable():
        raise UserError(f"--run {name!r} is no name for a folder", "give a word, such as first")
    return name


RunName = Annotated[
    str,
    typer.Option(
        "--run",
        metavar="NAME",
        callback=_folder_name,
        help="Name of the run; the same name goes on where it stopped.",
    ),
]


def configure(
    config: C,
    file: Path | None,
    assignments: Sequence[str] | None,
    named: Mapping[str, Any] | None = None,
) -> C:
    """Return the config with a YAML file's settings, then the command line's, put over it.

    Args:
        config: what a recipe or the defaults give.
        file: YAML file of settings; None for none.
        assignments: NAME=VALUE words.
        named: settings that have an option of their own, by dotted name; None counts as not given.

    Raises:
        UserError: the file is missing or no mapping, or a setting is unknown or of the wrong type.
    """
    if file is not None:
        config = override(config, read_settings(file))
    config = override(config, assignments or [])
    given = {name: value for name, value in (named or {}).items() if value is not None}
    return override(config, given)


def read_settings(file: Path) -> dict[str, Any]:
    """Read a YAML file of settings, nested or by dotted names."""
    try:
        settings = yaml.safe_load(file.read_text())
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}", "give an existing file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not YAML: {error}", "write NAME: VALUE lines") from error
    if not isinstance(settings, dict):
        raise UserError(f"{file} holds no settings", "write NAME: VALUE lines")
    return settings
