"""Random access into the clips this project writes, for the training loader."""

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

# Added to every channel, saturating: OpenCV does it in one pass, NumPy in two that take longer than
# the conversion itself.
_ONE_LEVEL = (1, 1, 1, 1)


class ClipReader:
    """Reads frames by number from one MP4 member: constant rate, closed short GOPs, no B-frames.

    Such a clip needs no search: frame k is sample k, and decoding starts at the key frame before
    it. Not for foreign videos; `open_video` is. Raises DecodeError for bytes that are not such a
    clip.
    """

    def __init__(self, mp4: bytes) -> None:
        # Frames decoded so far, wanted or not: what random access really costs.
        self.frames_decoded = 0
        self._reformatter = VideoReformatter()
        try:
            self._container = av.open(
                io.BytesIO(mp4),
                "r",
                format="mp4",
                # Container's and streams' alike. All that opening would learn from decoding a frame
                # is in the index: it costs as much as three frames. Only this probe skips them; the
                # decoder used afterwards does not.
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
        """Return frames by number, in the order asked for, as RGB uint8 [T, H, W, 3].

        None asks for all of them.

        Raises IndexError for a number outside the clip, DecodeError where the bytes are damaged.
        """
        order = range(len(self)) if indices is None else [int(index) for index in indices]
        wanted = sorted(set(order))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < len(self):
            raise IndexError(f"frame numbers {wanted[0]}..{wanted[-1]} of a clip of {len(self)}")
        codec = self._stream.codec_context
        pictures = np.empty((len(order), codec.height, codec.width, 3), dtype=np.uint8)
        places: dict[int, list[int]] = {index: [] for index in wanted}
        for place, index in enumerate(order):
            places[index].append(place)
        try:
            for run in self._runs(wanted):
                self._decode_run(run, places, pictures)
        except (av.error.FFmpegError, ValueError) as error:
            raise DecodeError("corrupt", f"the clip is damaged: {error}") from error
        return pictures

    def close(self) -> None:
        """Let go of the decoder."""
        self._container.close()

    def __enter__(self) -> "ClipReader":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _key_at(self, index: int) -> int:
        return max(key for key in self._keys if key <= index)

    def _runs(self, wanted: list[int]) -> list[list[int]]:
        """Split where a key frame lies between two wanted frames: jumping there decodes fewer."""
        runs: list[list[int]] = []
        for index in wanted:
            if runs and self._key_at(index) <= runs[-1][-1] + 1:
                runs[-1].append(index)
            else:
                runs.append([index])
        return runs

    def _decode_run(
        self, run: list[int], places: dict[int, list[int]], pictures: np.ndarray
    ) -> None:
        number = self._key_at(run[0])
        self._container.seek(self._times[number], stream=self._stream)
        left = set(run)
        for packet in self._container.demux(self._stream):
            for frame in self._stream.codec_context.decode(packet):
                self.frames_decoded += 1
                if number in left:
                    self._store(frame, places[number], pictures)
                    left.discard(number)
                number += 1
            if not left:
                return
        raise ValueError(f"frame {min(left)} does not decode")

    def _store(self, frame: av.VideoFrame, places: list[int], pictures: np.ndarray) -> None:
        rgb = self._reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace="itu709",  # type: ignore[arg-type]
            src_color_range=1,
            dst_color_range=2,
            interpolation=Interpolation.BILINEAR | Interpolation.BITEXACT,
            threads=1,
        ).to_ndarray()
        if rgb.shape != pictures.shape[1:]:
            raise ValueError("the picture size changes inside the clip")
        # libswscale's quick path is twenty times quicker than its exact one but rounds down, by
        # one level in the mean; putting that back leaves half a level of error (the tests hold it
        # there).
        first, *others = places
        cv2.add(rgb, _ONE_LEVEL, dst=pictures[first])  # type: ignore[call-overload]
        for place in others:
            pictures[place] = pictures[first]


def decode_clip(mp4: bytes, indices: Sequence[int] | None = None) -> np.ndarray:
    """Decode frames of one of our own clips as RGB uint8 [T, H, W, 3]; see `ClipReader`."""
    with ClipReader(mp4) as clip:
        return clip.frames_at(indices)
