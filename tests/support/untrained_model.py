"""A bundle without training, and a driving video: enough to animate something with."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import skimage.data

from xnemo.model.config import tiny
from xnemo.model.networks import build_networks
from xnemo.training.checkpoint.bundle import save_bundle
from xnemo.training.config import TrainConfig


def write_bundle(folder: Path, *, averaged: bool = False) -> Path:
    """Save freshly made networks of the tiny recipe; their weights as averaged ones as well."""
    config = TrainConfig(network=tiny())
    networks = build_networks(config.network)
    raw = {
        f"{part}.{name}": tensor
        for part, module in networks.trained_parts().items()
        for name, tensor in module.state_dict().items()
    }
    save_bundle(folder, config, {"samples_seen": 0}, raw=raw, ema=raw if averaged else None)
    return folder


def write_video(path, frames=10, fps=30, codec="aac", seconds=1.0, delay=0):
    """The astronaut sliding by, 256², with a rising tone unless `codec` is None."""
    picture = skimage.data.astronaut()
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=Fraction(fps))
        video.width = video.height = 256
        video.pix_fmt = "yuv420p"
        sound = out.add_stream(codec, rate=44100) if codec else None
        for i in range(frames):
            frame = np.ascontiguousarray(picture[i : 256 + i, 90 + 2 * i : 346 + 2 * i])
            picture_frame = av.VideoFrame.from_ndarray(frame)
            picture_frame.pts = i + delay
            out.mux(video.encode(picture_frame))
        out.mux(video.encode(None))
        if sound:
            wave = np.sin(np.cumsum(np.linspace(0, 0.3, int(44100 * seconds)))) * 0.5
            for start in range(0, len(wave) - 1024, 1024):
                piece = wave[None, start : start + 1024].astype(np.float32)
                frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 44100, start
                out.mux(sound.encode(frame))
            out.mux(sound.encode(None))
    return path
