"""torchcodec as an optional backend; it requires FFmpeg's shared libraries on the system."""

import os
from typing import Any, ClassVar

import numpy as np

from preprocessing.decode.failure import BackendRefusalError
from preprocessing.decode.random_access.array_reader import ArrayReader
from preprocessing.decode.source import Source, is_url, open_bytes


class TorchcodecReader(ArrayReader):
    """torchcodec 0.13 on the CPU, one thread, exact seeking."""

    name: ClassVar[str] = "torchcodec"
    codecs: ClassVar[frozenset[str]] = frozenset(
        {"h264", "hevc", "vp9", "libvpx-vp9", "av1", "libdav1d"}
    )
    matrices: ClassVar[frozenset[str]] = frozenset({"601", "709"})

    def _open_backend(self, source: Source) -> int:
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, OSError, RuntimeError) as error:
            raise BackendRefusalError(
                "unsupported", f"torchcodec cannot be loaded: {error}"
            ) from error
        target: Any = source
        if isinstance(source, os.PathLike):
            target = os.fspath(source)
        elif not isinstance(source, (str, bytes)) or is_url(source):
            target = open_bytes(source).read()
        self._decoder = VideoDecoder(
            target, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
        )
        return len(self._decoder)

    def _arrays(self, indices: list[int]) -> np.ndarray:
        images: np.ndarray = self._decoder.get_frames_at(indices).data.numpy()
        return images
