"""Long videos made quickly: a short one encoded once and its packets copied again and again."""

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "faults" / "support"))

from footage import astronaut_footage

FPS = 25


def base_video(path: Path, seconds: int, width: int, height: int, seed: int = 0) -> Path:
    """Write a talking head of `seconds` that begins and ends a group of pictures."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "23", "g": "50", "bf": "0"}
        rng = np.random.default_rng(seed)
        for number, picture in enumerate(astronaut_footage(seed, seconds * FPS, width, height)):
            # Grain, as cameras have it: flat pictures decode unrealistically fast.
            grain = rng.integers(-3, 4, (height // 2, width // 2, 1)).repeat(2, 0).repeat(2, 1)
            noisy = np.clip(picture[: grain.shape[0], : grain.shape[1]] + grain, 0, 255)
            frame = av.VideoFrame.from_ndarray(noisy.astype(np.uint8), format="rgb24")
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def repeated(base: Path, path: Path, seconds: float, name: str = "") -> Path:
    """Copy the packets of `base` until the video lasts `seconds`; `name` makes the bytes its
    own.
    """
    with av.open(str(base)) as source, av.open(str(path), "w") as output:
        stream = source.streams.video[0]
        assert stream.time_base is not None
        copy = output.add_stream_from_template(stream)
        output.metadata["title"] = name
        step = round(Fraction(1, FPS) / stream.time_base)
        packets = [bytes(packet) for packet in source.demux(stream) if packet.size]
        source.seek(0)
        keys = [packet.is_keyframe for packet in source.demux(stream) if packet.size]
        for number in range(round(seconds * FPS)):
            place = number % len(packets)
            packet = av.Packet(packets[place])
            packet.pts = packet.dts = number * step
            packet.duration = step
            packet.time_base = stream.time_base
            packet.is_keyframe = keys[place]
            packet.stream = copy
            output.mux(packet)
    return path
