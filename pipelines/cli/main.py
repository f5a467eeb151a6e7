"""The command line `xnemo COMMAND`; bad input ends in one line of error."""

import difflib
import errno
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from pipelines.cli.animate import animate
from pipelines.cli.demo import demo
from pipelines.cli.doctor import doctor
from pipelines.cli.encode_motion import encode_motion
from pipelines.cli.evaluate import evaluate
from pipelines.cli.export import export
from pipelines.cli.inspect import inspect
from pipelines.cli.options import SettingsCommand
from pipelines.cli.preprocess import preprocess
from pipelines.cli.promote import promote
from pipelines.cli.recipes import recipes
from pipelines.cli.settings import SETTINGS_CLASSES
from pipelines.cli.sync import sync
from pipelines.cli.synthesize import synthesize
from pipelines.cli.train import train
from pipelines.cli.tune import tune
from pipelines.cli.ui import ui
from pipelines.cli.verify import verify
from pipelines.terminal import EXIT_INTERRUPTED
from preprocessing.errors import UserError, require_extra

#: Exit status of bad input; 1 means that a job ran and found something wrong.
EXIT_BAD_INPUT = 2

# In the order of the work.
_COMMANDS: tuple[Callable[..., int | None], ...] = (
    demo,
    doctor,
    synthesize,
    preprocess,
    verify,
    inspect,
    recipes,
    train,
    tune,
    sync,
    animate,
    encode_motion,
    ui,
    evaluate,
    promote,
    export,
)

# The other commands write at their end or not at all.
_RESUMABLE = ("demo", "synthesize", "preprocess", "train", "tune", "sync", "promote")

# What a command needs beside the base installation; another names the missing library's own extra.
_EXTRAS = {
    "demo": "demo",
    "synthesize": "synthetic",
    "train": "train",
    "tune": "tune",
    "promote": "train",
}

# Errors of the operating system about a path that was given.
_WRONG_PATH = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EIO,
)


class _Group(TyperGroup):
    """Commands listed in the order they are registered."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        return list(self.commands)


app = typer.Typer(
    name="xnemo",
    cls=_Group,
    help="Portrait animation with X-NeMo: raw talking-head videos in, a trained model and an "
    "animated portrait out. The same commands run on a laptop and on a Ray cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"xnemo {version('xnemo')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version."),
    ] = False,
) -> None:
    """Declare the options that belong to no command."""


for _command in _COMMANDS:
    _name = _command.__name__.replace("_", "-")
    _cls = SettingsCommand if _name in SETTINGS_CLASSES else TyperCommand
    app.command(_name, cls=_cls)(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 job failed, 2 bad input, 130 interrupted."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    try:
        return _run(arguments)
    except UserError as error:
        return _refuse(str(error))


def _run(arguments: list[str]) -> int:
    try:
        status: int = app(arguments, prog_name="xnemo", standalone_mode=False) or 0
        # Typer returns this status for an interrupt; `train` does for a stopped run.
        return _interrupted(arguments) if status == EXIT_INTERRUPTED else status
    except ModuleNotFoundError as error:
        require_extra(error, _EXTRAS.get(next(iter(arguments), "")))
        raise
    except TyperException as error:
        return _refuse(_parser_message(error, arguments))
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(arguments)
    except SystemExit as error:
        # Typer exits so when the reader of a pipe (head, less) closes it.
        if isinstance(error.__context__, BrokenPipeError):
            return 0
        # Ray exits so on SIGTERM.
        if error.code == signal.SIGTERM:
            return _interrupted(arguments)
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" for {error.filename}" if error.filename else ""
            return _refuse(f"no space left{where}; free some and run again")
        if error.filename is None:
            raise
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            return _refuse(f"no permission for {error.filename}; choose another path")
        if error.errno in _WRONG_PATH:
            return _refuse(f"{error.filename}: {error.strerror}; choose another path")
        raise


def _interrupted(arguments: list[str]) -> int:
    resumable = any(word in _RESUMABLE for word in arguments[:1]) or "--list" in arguments
    then = "run the same command again to resume" if resumable else "nothing was written"
    print(f"interrupted; {then}", file=sys.stderr)
    return EXIT_INTERRUPTED


def _refuse(line: str) -> int:
    print(f"error: {line}", file=sys.stderr)
    return EXIT_BAD_INPUT


def _parser_message(error: TyperException, arguments: list[str]) -> str:
    """Return the parser's message in one line, with the nearest command and where to read more."""
    message = " ".join(error.format_message().split()).rstrip(".")
    command = next((word for word in arguments if not word.startswith("-")), "")
    known = [info.name or "" for info in app.registered_commands]
    if command in known:
        return f"{message}; see: xnemo {command} --help"
    near = difflib.get_close_matches(command, known, n=1)
    if near and "Did you mean" not in message:
        message += f"; did you mean {near[0]!r}?"
    return f"{message}; see: xnemo --help"


if __name__ == "__main__":
    main()
