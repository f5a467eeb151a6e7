"""decord as an optional backend, for the few kinds of source that it decodes correctly."""

import io
import os
from typing import Any, ClassVar

import numpy as np

from preprocessing.decode.random_access.array_reader import ArrayReader
from preprocessing.decode.source import Source, open_bytes


class DecordReader(ArrayReader):
    """decord 0.6, one thread. For trusted sources only: damaged ones can hang its native code.

    Refused because decord decodes them wrongly: AV1, stream-copied cuts (wrong and repeated
    frames), rotation, pixel aspect, matrices other than BT.601, full range and deep colour.
    """

    name: ClassVar[str] = "decord"
    codecs: ClassVar[frozenset[str]] = frozenset({"h264", "hevc", "vp9", "libvpx-vp9"})

    def _open_backend(self, source: Source) -> int:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        target: Any = source
        if isinstance(source, os.PathLike):
            target = os.fspath(source)
        elif not isinstance(source, str) or "://" in source:
            stream = open_bytes(source)
            target = io.BytesIO(stream.read())
        self._reader = decord.VideoReader(target, ctx=decord.cpu(0), num_threads=1)
        return len(self._reader)

    def _arrays(self, indices: list[int]) -> np.ndarray:
        images: np.ndarray = self._reader.get_batch(indices).asnumpy()
        return images
