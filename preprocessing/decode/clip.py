"""Random access to frames of the clips that preprocessing writes, for the training loader."""

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import av.container
import av.error
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from preprocessing.decode.failure import DecodeError

# Added to every channel with saturation: OpenCV takes one pass, NumPy two that take longer than the
# conversion itself.
_ONE_LEVEL = (1, 1, 1, 1)


class ClipReader:
    """Reads frames by number from one encoded clip: constant rate, closed short GOPs, no B-frames.

    Frame k of such a clip is sample k, and decoding starts at the key frame before it. For other
    videos use `open_video`.

    Raises:
        DecodeError: The bytes are not such a clip.
    """

    def __init__(self, mp4: bytes) -> None:
        # Frames decoded so far, requested or not: the real cost of random access.
        self.frames_decoded = 0
        self._reformatter = VideoReformatter()
        try:
            self._container = av.open(
                io.BytesIO(mp4),
                "r",
                format="mp4",
                # Options of container and streams. Probing by decoding costs as much as three
                # frames and yields only what the index already holds. Only the probe skips frames,
                # not the decoder used afterwards.
                options={
                    "fflags": "nobuffer",
                    "probesize": "32",
                    "analyzeduration": "0",
                    "skip_frame": "all",
                },
                buffer_size=1 << 16,
            )
        except (av.error.FFmpegError, ValueError) as error:
            raise DecodeError("corrupt", f"not a clip: {error}") from error
        if not self._container.streams.video:
            self._container.close()
            raise DecodeError("no_video_stream", "the clip has no video stream")
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.options = {"err_detect": "explode"}
        entries = self._stream.index_entries
        self._times = [entry.timestamp for entry in entries]
        self._keys = [number for number, entry in enumerate(entries) if entry.is_keyframe]
        if not self._times or self._keys[:1] != [0]:
            self.close()
            raise DecodeError(
                "corrupt", "the clip has no frames or does not start with a key frame"
            )

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._times)

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(self._stream.average_rate or Fraction(25))

    def frames_at(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Return frames by number, in the given order, as RGB uint8 [T, H, W, 3].

        Args:
            indices: Frame numbers; None for all frames.

        Raises:
            IndexError: A number is outside the clip.
            DecodeError: The clip is damaged.
        """
        order = range(len(self)) if indices is None else [int(index) for index in indices]
        wanted = sorted(set(order))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < len(self):
            raise IndexError(f"frame numbers {wanted[0]}..{wanted[-1]} of a clip of {len(self)}")
        codec = self._stream.codec_context
        images = np.empty((len(order), codec.height, codec.width, 3), dtype=np.uint8)
        places: dict[int, list[int]] = {index: [] for index in wanted}
        for place, index in enumerate(order):
            places[index].append(place)
        try:
            for run in self._runs(wanted):
                self._decode_run(run, places, images)
        except (av.error.FFmpegError, ValueError) as error:
            raise DecodeError("corrupt", f"the clip is damaged: {error}") from error
        return images

    def close(self) -> None:
        """Close the decoder."""
        self._container.close()

    def __enter__(self) -> "ClipReader":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _key_at(self, index: int) -> int:
        return max(key for key in self._keys if key <= index)

    def _runs(self, wanted: list[int]) -> list[list[int]]:
        """Split frame numbers where seeking to a key frame in between decodes fewer frames."""
        runs: list[list[int]] = []
        for index in wanted:
            if runs and self._key_at(index) <= runs[-1][-1] + 1:
                runs[-1].append(index)
            else:
                runs.append([index])
        return runs

    def _decode_run(self, run: list[int], places: dict[int, list[int]], images: np.ndarray) -> None:
        number = self._key_at(run[0])
        self._container.seek(self._times[number], stream=self._stream)
        left = set(run)
        for packet in self._container.demux(self._stream):
            for frame in self._stream.codec_context.decode(packet):
                self.frames_decoded += 1
                if number in left:
                    self._store(frame, places[number], images)
                    left.discard(number)
                number += 1
            if not left:
                return
        raise ValueError(f"frame {min(left)} does not decode")

    def _store(self, frame: av.VideoFrame, places: list[int], images: np.ndarray) -> None:
        rgb = self._reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace="itu709",  # type: ignore[arg-type]
            src_color_range=1,
            dst_color_range=2,
            interpolation=Interpolation.BILINEAR | Interpolation.BITEXACT,
            threads=1,
        ).to_ndarray()
        if rgb.shape != images.shape[1:]:
            raise ValueError("the frame size changes inside the clip")
        # libswscale's fast path is twenty times as fast as its exact one but rounds down, by one
        # level on average; adding it back leaves half a level of error.
        first, *others = places
        cv2.add(rgb, _ONE_LEVEL, dst=images[first])  # type: ignore[call-overload]
        for place in others:
            images[place] = images[first]


def decode_clip(mp4: bytes, indices: Sequence[int] | None = None) -> np.ndarray:
    """Decode frames of an encoded clip as RGB uint8 [T, H, W, 3]; see `ClipReader`."""
    with ClipReader(mp4) as clip:
        return clip.frames_at(indices)
