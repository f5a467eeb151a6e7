"""Times of a stream's frames, read from its packets without decoding."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np

if TYPE_CHECKING:
    Packet = av.Packet[av.VideoStream]

# Codecs with packets that show no frame, so that packets do not count frames.
_HIDDEN_FRAMES = frozenset({"vp8", "h261", "h263", "mpeg4", "msmpeg4v3", "rv30", "rv40", "flv1"})
MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Timeline:
    """Presentation times of all packets that show a frame, and which are key frames."""

    # Sorted presentation times in microseconds, [N].
    pts_us: np.ndarray
    # Indices in `pts_us` of key frames, [K].
    key_indices: np.ndarray
    # Whether packets and frames correspond one to one; otherwise only decoding numbers frames.
    is_exact: bool
    # Whether frames shown before a key frame are stored after it and refer to the previous group.
    has_open_groups: bool = False

    def index_at(self, time_us: int) -> int:
        """Return the number of the first frame whose pts is at or after `time_us`."""
        return int(bisect_left(self.pts_us, time_us))

    def index_on_screen(self, time_us: int) -> int:
        """Return the number of the last frame whose pts is at or before `time_us`, at least 0."""
        return max(0, int(bisect_right(self.pts_us, time_us)) - 1)

    def key_before(self, index: int) -> int:
        """Return the number of the last key frame at or before frame `index`, or 0."""
        place = int(np.searchsorted(self.key_indices, index, side="right")) - 1
        return int(self.key_indices[place]) if place >= 0 else 0


def to_us(ticks: int, time_base: Fraction) -> int:
    """Convert stream ticks to whole microseconds, rounding to nearest."""
    return round(ticks * time_base * MICROSECONDS)


def timeline_of(packets: "Iterable[Packet]", time_base: Fraction, codec: str) -> Timeline:
    """Build the timeline from a stream's packets; memory is 16 bytes per packet."""
    times: list[int] = []
    keys: list[int] = []
    has_gaps = open_groups = False
    for packet in packets:
        if packet.is_discard or packet.size == 0:
            continue
        if packet.pts is None:
            has_gaps = True
            continue
        time_us = to_us(packet.pts, time_base)
        times.append(time_us)
        # The first group has no previous one to refer to.
        open_groups = open_groups or (len(keys) > 1 and time_us < keys[-1])
        if packet.is_keyframe:
            keys.append(time_us)
    pts_us = np.array(sorted(times), dtype=np.int64)
    repeats = len(pts_us) > 1 and bool((np.diff(pts_us) <= 0).any())
    return Timeline(
        pts_us=pts_us,
        key_indices=np.searchsorted(pts_us, np.array(sorted(keys), dtype=np.int64)),
        is_exact=not (has_gaps or repeats or codec in _HIDDEN_FRAMES),
        has_open_groups=open_groups,
    )
