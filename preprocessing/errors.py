"""The one error a person is meant to read, and what to tell in it of a library's."""


class UserError(Exception):
    """Bad input, told in one line: what is wrong, and what mends it.

    The command line prints it without a traceback and exits with status 2, so raise it for
    everything a person can cause (a missing folder, a misspelt option, a damaged file) and for
    nothing else: a defect of the program keeps its traceback.
    """

    def __init__(self, what: str, remedy: str) -> None:
        # A file name may hold newlines; the promise is one line.
        self.what = " ".join(what.split())
        self.remedy = " ".join(remedy.split())
        super().__init__(f"{self.what}; {self.remedy}")

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str]]:
        """Rebuild from both parts, so that the error survives the trip between processes."""
        return (type(self), (self.what, self.remedy))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, at most 200 characters, or its class without one.

    For a library's error, whose text may run over pages.
    """
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
