"""Raw talking-head videos in, WebDataset shards with a Parquet index out. No Ray, no torch."""

import importlib
import os
from typing import TYPE_CHECKING

# ONNX Runtime sends telemetry since 1.29 from a thread that occasionally aborts a finished process.
# It reads this variable when it is first imported, by whichever library, so it is set here; a
# user's own setting wins.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from preprocessing.config import PreprocessConfig
    from preprocessing.dataset.verify import verify
    from preprocessing.decode.backends import open_video
    from preprocessing.faces import make_detector
    from preprocessing.storage.index import read_index

    __version__: str

__all__ = [
    "PreprocessConfig",
    "__version__",
    "make_detector",
    "open_video",
    "read_index",
    "verify",
]

_MODULES = {
    "PreprocessConfig": "config",
    "make_detector": "faces",
    "open_video": "decode",
    "read_index": "storage.index",
    "verify": "dataset.verify",
}


def __getattr__(name: str) -> object:
    """Import public names on first use, so that `import preprocessing` stays light."""
    if name == "__version__":
        from importlib.metadata import version

        return version("xnemo")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
