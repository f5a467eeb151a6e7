"""The small model that comes with the package."""

from pathlib import Path

from preprocessing.paths import user_path

#: Names the model wherever a path of a model is given.
BUILTIN = "builtin"
_BUNDLE = Path(__file__).parent / "animator"


def model_folder(path: str | Path) -> Path:
    """Return the folder of a model by its path, or by the name "builtin"."""
    return _BUNDLE if str(path) == BUILTIN else user_path(path)
