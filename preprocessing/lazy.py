"""Public names of a package, imported at first use so that importing the package stays light."""

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version

from preprocessing.errors import require_extra


def lazy_names(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return a package's `__getattr__` and `__dir__`.

    Args:
        package: Full name of the package.
        modules: Public names to the modules below the package that define them.
    """

    def find(name: str) -> object:
        if name == "__version__":
            return version("xnemo")
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = importlib.import_module(f"{package}.{modules[name]}")
        except ModuleNotFoundError as error:
            require_extra(error)
            raise
        return getattr(module, name)

    def names() -> list[str]:
        found = vars(sys.modules[package])
        return sorted({*found, *found["__all__"]})

    return find, names
