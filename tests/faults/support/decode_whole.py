"""What the isolated tests do to a file, importable in a fresh process."""

from dataclasses import dataclass

from preprocessing.decode import DamagedSpan, open_video, resample
from preprocessing.heartbeat import heartbeat


@dataclass(frozen=True)
class Decoded:
    times_us: list[int]
    start_us: int
    damage: tuple[DamagedSpan, ...]
    # Beats of a 25 fps clock over it.
    ticks: int


def decode_whole(path: str) -> Decoded:
    with open_video(path) as reader:
        times: list[int] = []

        def counted():
            for frame in reader.frames():
                heartbeat()
                times.append(frame.pts_us)
                yield frame

        ticks = sum(1 for _ in resample(counted()))
        return Decoded(times, reader.info.start_us, tuple(reader.damage), ticks)
