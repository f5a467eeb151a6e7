"""Clips of different people who make the same motion, for driving frames of another identity."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import UserError
from xnemo.data.clip_table import ClipTable


@dataclass(frozen=True)
class Mate:
    """A clip with the same motion as another, frame for frame."""

    # Row in the clip table.
    row: int
    # Add this to a frame of the other clip to get the frame of this one.
    shift: int

    def usable(self, boxes_T4: NDArray[np.floating], frames: int) -> NDArray[np.bool_]:
        """Return which frames of the other clip have a face here, given this clip's boxes."""
        here = np.arange(frames) + self.shift
        inside = (here >= 0) & (here < len(boxes_T4))
        has_face = np.isfinite(boxes_T4).all(axis=1)
        return inside & has_face[np.clip(here, 0, len(boxes_T4) - 1)]


class MotionGroups:
    """Finds clips of other people with the same motion."""

    def __init__(self, clips: ClipTable) -> None:
        """Group the clips.

        Raises:
            UserError: no two people make the same motion.
        """
        rows = clips.rows
        identities = np.concatenate(clips.identities())
        self._mates: dict[int, NDArray[np.int_]] = {}
        if "motion_group" in rows:
            named = rows["motion_group"].fillna("").to_numpy()
            groups = rows.assign(number=np.arange(len(rows)))[named != ""]
            for _, group in groups.groupby(["root", "motion_group"]):
                numbers = group["number"].to_numpy()
                for number in numbers:
                    others = numbers[identities[numbers] != identities[number]]
                    if len(others):
                        self._mates[int(number)] = others
        if not self._mates:
            raise UserError(
                "data.pairs.matched is above 0 and no two people of the data make the same motion",
                "make such data with `xnemo synthesize --people-per-motion 4`, or set it to 0",
            )
        self._first_frame = np.round(rows["start_ms"].to_numpy() * rows["fps"].to_numpy() / 1000)
        self._frames = rows["frames"].to_numpy()

    def draw(self, row: int, rng: np.random.Generator) -> Mate | None:
        """Return a clip that shares at least half of the frames of clip `row`, or None."""
        others = self._mates.get(row, np.array([], int))
        shifts = (self._first_frame[row] - self._first_frame[others]).astype(int)
        begin = np.maximum(shifts, 0)
        end = np.minimum(self._frames[row] + shifts, self._frames[others])
        fits = np.flatnonzero(end - begin >= self._frames[row] / 2)
        if not len(fits):
            return None
        chosen = int(rng.choice(fits))
        return Mate(int(others[chosen]), int(shifts[chosen]))
