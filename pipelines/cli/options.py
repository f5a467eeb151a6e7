"""Options that several commands share, and the parser of commands that take settings."""

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from pipelines.cli.settings import SETTINGS_CLASSES, settings_class
from pipelines.promote import Metric
from preprocessing.errors import UserError

Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Ray cluster to run on, or auto. Default: a local Ray on this machine.",
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="YAML file of settings.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME=VALUE]...",
        help="Settings by dotted name; --NAME=VALUE works as well.",
    ),
]
PrintConfig = Annotated[
    bool,
    typer.Option("--print-config", help="Print the resolved settings as YAML and exit."),
]
DetectorName = Annotated[
    str | None, typer.Option("--detector", help="Face detector: centerface or insightface.")
]
FaceModelDir = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="Folder of an insightface model pack (*.onnx); selects insightface."
    ),
]
DrivingFace = Annotated[
    str | None,
    typer.Option(
        metavar="N|BOX",
        help="Person of the driving video: 1 for who is seen longest and largest, 2 for the next, "
        "or a box x0,y0,x1,y1.",
    ),
]
ReferenceFrame = Annotated[
    str | None,
    typer.Option(
        metavar="N|TIME",
        help="Driving frame whose face counts as at rest: a number, or a time as in 1.5s. "
        "Default: the most frontal and neutral one of each shot.",
    ),
]
Device = Annotated[
    str | None, typer.Option(help="Device of the networks: auto, cpu, cuda or cuda:N.")
]
MaxFrames = Annotated[int | None, typer.Option(min=1, help="Use at most N driving frames.")]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="See `xnemo recipes`.")]
Model = Annotated[
    Path, typer.Argument(help="Bundle, folder of the official checkpoint files, or saved pipeline.")
]
AnyModel = Annotated[
    str,
    typer.Option(
        help="Bundle, folder of the official checkpoint files, or saved pipeline; builtin is the "
        "small one of this package."
    ),
]
Shards = Annotated[
    list[str],
    typer.Option("--data", metavar="SHARDS", help="Folder or URL of shards; may be repeated."),
]
RunsDir = Annotated[
    Path, typer.Option(help="Folder of all runs; on a cluster, shared by all nodes.")
]
TrackingUri = Annotated[
    str | None,
    typer.Option(metavar="URI", help="MLflow tracking URI. Default: SQLite in the runs folder."),
]

PromotionMetric = Annotated[
    Metric,
    typer.Option("--metric", help="What decides which bundle is better, on held-out clips."),
]

#: Default folder of all runs.
RUNS_DIR = Path("runs")


def detector_settings(
    detector: str | None,
    face_model_dir: str | None,
    *,
    name: str = "detector",
    model_dir: str = "face_model_dir",
) -> dict[str, str | None]:
    """Return the detector options as settings; a model folder selects insightface."""
    return {
        name: detector or ("insightface" if face_model_dir else None),
        model_dir: face_model_dir,
    }


def _folder_name(name: str | None) -> str | None:
    """Refuse run names that would leave the folder of all runs."""
    if name is None:
        # Not given, which only --print-config allows.
        return None
    if not name or name != Path(name).name or name.startswith(".") or not name.isprintable():
        raise UserError(f"--run {name!r} is not a folder name", "give a word, such as first")
    return name


RunName = Annotated[
    str,
    typer.Option(
        "--run",
        metavar="NAME",
        callback=_folder_name,
        help="Name of the run; the same name resumes it.",
    ),
]


class SettingsCommand(TyperCommand):
    """Command whose settings are read from NAME=VALUE and --NAME=VALUE words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Collect settings into the parameter `overrides` and parse the other words."""
        words, settings = self._split(args)
        if "--print-config" in words:
            # Settings can be printed before there are files to work on.
            settings = [word for word in words if _ASSIGNMENT.match(word)] + settings
            words = [word for word in words if not _ASSIGNMENT.match(word)]
            for parameter in self.params:
                parameter.required = parameter.name == "recipe" and parameter.required
        rest: list[str] = super().parse_args(ctx, words)
        ctx.params["overrides"] = [*(ctx.params.get("overrides") or ()), *settings]
        return rest

    def _split(self, args: list[str]) -> tuple[list[str], list[str]]:
        """Return the words that typer parses, and --NAME=VALUE words as NAME=VALUE."""
        options = {option for parameter in self.params for option in parameter.opts}
        words: list[str] = []
        settings: list[str] = []
        for word in args:
            option, equals, _ = word.partition("=")
            name = option.removeprefix("--")
            if name == option or option in options:
                words.append(word)
            elif "." in name and not equals:
                raise UserError(f"{word} has no value", f"write {word}=VALUE")
            elif equals and ("." in name or self._is_setting(name)):
                settings.append(word.removeprefix("--"))
            else:
                words.append(word)
        return words, settings

    def _is_setting(self, name: str) -> bool:
        """Return whether a word without a dot names a setting, also if written with hyphens."""
        if self.name not in SETTINGS_CLASSES:
            return False
        fields = dataclasses.fields(settings_class(self.name))
        return name.replace("-", "_") in {field.name for field in fields}


_ASSIGNMENT = re.compile(r"[A-Za-z_][\w.]*=")
