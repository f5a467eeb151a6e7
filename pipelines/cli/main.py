"""The command line: `xnemo COMMAND`, one line of error for anything a person can mend."""

import difflib
import errno
import signal
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

import pipelines.cli.animation as animation
import pipelines.cli.data as data
import pipelines.cli.machine as machine
import pipelines.cli.training as training
from pipelines.terminal.report import EXIT_INTERRUPTED
from preprocessing.errors import UserError

#: Exit status for input a person can mend; 1 is left to jobs that ran and found something wrong.
EXIT_BAD_INPUT = 2

# Commands that go on where they were interrupted; the others write at their end or not at all.
_RESUMABLE = ("demo", "preprocess", "train", "tune", "sync")

# What the system says of a path that a person chose badly.
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


class _Commands(TyperGroup):
    """Commands in the order a person meets them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names as registered, which is the order of the work."""
        return list(self.commands)


app = typer.Typer(
    name="xnemo",
    cls=_Commands,
    help="Portrait animation with X-NeMo: raw talking-head videos in, a trained model and an "
    "animated portrait out. The same commands run on a laptop and on a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"xnemo {version('xnemo')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version."),
    ] = False,
) -> None:
    """Take the options that belong to no command; each is done with when it is read."""


for group in (machine, data, training, animation):
    group.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a job found fault, 2 bad input, 130 interrupted."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    try:
        status: int = app(arguments, prog_name="xnemo", standalone_mode=False) or 0
        # Typer turns an interrupt into this status in silence, and training that was asked to stop.
        return _interrupted(arguments) if status == EXIT_INTERRUPTED else status
    except UserError as error:
        return _refuse(str(error))
    except TyperException as error:
        return _refuse(_told_in_one_line(error, arguments))
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(arguments)
    except SystemExit as error:
        # Typer's own answer to a reader (head, less) that has what it wanted.
        if isinstance(error.__context__, BrokenPipeError):
            return 0
        # Ray's answer to SIGTERM.
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
            return _refuse(f"may not write or read {error.filename}; choose another place")
        if error.errno in _WRONG_PATH:
            return _refuse(f"{error.filename}: {error.strerror}; choose another path")
        raise


def _interrupted(arguments: list[str]) -> int:
    goes_on = any(word in _RESUMABLE for word in arguments[:1])
    then = "run the same command again to go on" if goes_on else "nothing was written"
    print(f"interrupted; {then}", file=sys.stderr)
    return EXIT_INTERRUPTED


def _refuse(line: str) -> int:
    print(f"error: {line}", file=sys.stderr)
    return EXIT_BAD_INPUT


def _told_in_one_line(error: TyperException, arguments: list[str]) -> str:
    """Return the parser's complaint with a near miss and where to read more."""
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
