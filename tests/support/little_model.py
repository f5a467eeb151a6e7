"""A network of all parts at 32 pixels, and pictures whose faces a detector cannot miss."""

from dataclasses import replace

import numpy as np
import torch
from tiny_run import nano_network

from preprocessing.faces.detector import Face
from xnemo.model.networks import Networks, build_networks

_NANO = nano_network(temporal=True)
CONFIG = replace(_NANO, image_size=32, autoencoder=replace(_NANO.autoencoder, decode_chunk=4))


class BrightSquares:
    """Takes every bright square of a colour for a face."""

    name, recognises, model_sha256 = "bright", False, {}

    def detect(self, rgb_HWC):
        found = []
        for channel, score in ((0, 0.95), (1, 0.9)):
            ys, xs = np.nonzero(rgb_HWC[..., channel] > 240)
            if len(xs):
                box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32)
                found.append(Face(box, score, np.zeros((5, 2), np.float32)))
        return found


def picture(x=40, y=30, side=30, channel=0, size=(96, 128), background=0):
    rng = np.random.default_rng(background)
    frame = rng.integers(0, 200, (*size, 3), dtype=np.uint8)
    if x is not None:
        frame[y : y + side, x : x + side, channel] = 255
    return frame


def driving(count=9):
    return [picture(40 + i, 30 + i % 3, background=i) for i in range(count)]


def little_networks() -> Networks:
    networks = build_networks(CONFIG, training=False).eval()
    torch.manual_seed(0)
    for parameter in networks.denoiser.parameters():
        # Zero-initialised output layers would hide the motion from the result.
        parameter.data += 0.05 * torch.randn_like(parameter)
    return networks
