"""Errors that a user can fix, and checks of settings that raise them."""


class UserError(Exception):
    """Bad input, reported in one line: what is wrong and how to fix it.

    The command line prints it without a traceback and exits with status 2. Raise it for everything
    a user can cause (a missing folder, a misspelt option, a damaged file) and for nothing else: a
    defect of the program keeps its traceback.
    """

    def __init__(self, what: str, remedy: str) -> None:
        # A file name may hold newlines; the message must stay one line.
        self.what = " ".join(what.split())
        self.remedy = " ".join(remedy.split())
        super().__init__(f"{self.what}; {self.remedy}")

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str]]:
        """Pickle by both parts, so that the error passes between processes."""
        return (type(self), (self.what, self.remedy))


class Diverged(UserError):  # noqa: N818 - an outcome of training
    """Training cannot go on: its losses, gradients or measurements are not finite."""


#: Extra of the installation that each optional library belongs to.
EXTRAS = {
    "bitsandbytes": "eight-bit",
    "c2pa": "credentials",
    "decord": "preprocess",
    "deepspeed": "train",
    "insightface": "preprocess",
    "matplotlib": "demo",
    "mlflow": "train",
    "optuna": "tune",
    "ray": "preprocess",
    "s3fs": "s3",
    "skimage": "demo",
    "torchcodec": "torchcodec",
    "warp": "synthetic",
    "webdataset": "preprocess",
}


def require_extra(error: ModuleNotFoundError, extra: str | None = None) -> None:
    """Raise UserError if `error` is about a library of an extra; any other is a defect.

    Args:
        error: What an import raised.
        extra: Extra to name instead of the library's own, such as that of a command.
    """
    library = (error.name or "").partition(".")[0]
    if library in EXTRAS:
        raise UserError(
            f"{library} is not installed", f"run: pip install 'xnemo[{extra or EXTRAS[library]}]'"
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, at most 200 characters, or else its class name.

    For errors of libraries, whose text may run over pages.
    """
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def require_at_least(section: str, config: object, **least: float) -> None:
    """Check lower bounds of fields, given as keywords; a field that is None passes.

    Args:
        section: Prefix of the fields in messages, such as `"decode."`.
        config: Object that holds the fields.
        **least: Least value of each field.

    Raises:
        UserError: A field is below its bound.
    """
    for name, bound in least.items():
        value = getattr(config, name)
        if value is not None and not value >= bound:
            raise UserError(f"{section}{name} is {value}", f"set it to {bound:g} or more")


def require_between(section: str, config: object, **bounds: tuple[float, float]) -> None:
    """Check that fields, given as keywords, lie in [least, most]; see `require_at_least`."""
    for name, (least, most) in bounds.items():
        value = getattr(config, name)
        if not least <= value <= most:
            raise UserError(f"{section}{name} is {value}", f"set it to {least:g} to {most:g}")
