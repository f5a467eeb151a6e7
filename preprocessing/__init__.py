"""Raw talking-head videos in, WebDataset shards with a Parquet index out. No Ray, no torch."""

import os
from typing import TYPE_CHECKING

# ONNX Runtime sends telemetry since 1.29 from a thread that occasionally aborts a finished process.
# It reads this variable when it is first imported, by whichever library, so it is set here; a
# user's own setting wins.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from preprocessing.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
