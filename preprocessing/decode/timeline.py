"""Where a stream's frames lie in time, read from its packets without decoding one."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

# Codecs in which a packet may carry no picture to show, so that counting packets is not counting
# frames.
_HIDDEN_PICTURES = frozenset({"vp8", "h261", "h263", "mpeg4", "msmpeg4v3", "rv30", "rv40", "flv1"})
MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Timeline:
    """Presentation times of all packets that show a picture, and which are key frames."""

    # Sorted presentation times in microseconds, [N].
    pts_us: np.ndarray
    # Positions in `pts_us` of key frames, [K].
    key_indices: np.ndarray
    # False where packets and frames need not agree one to one; then only decoding can number
    # frames.
    is_exact: bool
    # True where frames shown before a key frame are stored after it and lean on the group before.
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


def timeline_of(packets: Iterable[av.Packet], time_base: Fraction, codec: str) -> Timeline:
    """Collect the time line of a stream's packets (16 bytes a packet; nothing is decoded)."""
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
        # The very first group has nothing before it to lean on.
        open_groups = open_groups or (len(keys) > 1 and time_us < keys[-1])
        if packet.is_keyframe:
            keys.append(time_us)
    pts_us = np.array(sorted(times), dtype=np.int64)
    repeats = len(pts_us) > 1 and bool((np.diff(pts_us) <= 0).any())
    return Timeline(
        pts_us=pts_us,
        key_indices=np.searchsorted(pts_us, np.array(sorted(keys), dtype=np.int64)),
        is_exact=not (has_gaps or repeats or codec in _HIDDEN_PICTURES),
        has_open_groups=open_groups,
    )
