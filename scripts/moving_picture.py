"""Make README's moving picture with the model of the package.

python scripts/moving_picture.py [docs/images/animation.webp]

At the left a rendered stranger drives; beside them portraits of other strangers, above as they are,
below as they are animated.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from preprocessing.faces import make_detector
from preprocessing.geometry import resize
from preprocessing.synthetic import make_motion, render, sample_motion, sample_person
from xnemo.animation.animator import Animator
from xnemo.animation.config import AnimateConfig
from xnemo.animation.load_model import load_model

# People of no data set of `xnemo synthesize`, whose seeds count up from 0.
_DRIVER, _PORTRAITS = 2**32 - 500, (2**32 - 501, 2**32 - 502, 2**32 - 503)
_MOTION, _FRAMES, _FPS, _SIDE, _CELL = 5, 60, 12.5, 256, 160


def main() -> None:
    """Render, animate and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", nargs="?", type=Path, default=Path("docs/images/animation.webp"))
    output = parser.parse_args().output
    motion = sample_motion(_MOTION, np.arange(_FRAMES) / _FPS)
    motion[0] = 0
    driving = render(sample_person(_DRIVER), motion, _SIDE)
    model = load_model("builtin")
    animator = Animator(model.networks, make_detector(), model.diffusion)
    # The sampling rate is half of training's, so positions are smoothed over half as many frames.
    config = AnimateConfig(steps=20, guidance=1.0, box_sigma=1.0)
    columns = []
    for seed in _PORTRAITS:
        portrait = render(sample_person(seed), make_motion(), _SIDE)[0]
        wide = animator.prepare_portrait(portrait, config).wide
        columns.append((wide, list(animator.animate(portrait, driving, config))))
    white = np.full((_CELL // 2, _CELL, 3), 255, np.uint8)
    pictures = []
    for number in range(_FRAMES):
        left = np.concatenate([white, resize(driving[number], _CELL), white])
        others = [
            np.concatenate([resize(wide, _CELL), resize(frames[number], _CELL)])
            for wide, frames in columns
        ]
        pictures.append(Image.fromarray(np.concatenate([left, *others], axis=1)))
    pictures[0].save(
        output,
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 / _FPS),
        loop=0,
        quality=80,
    )
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
