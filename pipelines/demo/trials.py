"""Portraits and drivers that were held out of training, with the frames a perfect model would make.

The demo's motion is known, so what a held-out portrait looks like under a held-out motion is known
too: `render` shows it.
"""

from collections.abc import Sequence

import numpy as np

from pipelines.demo.faces import load_portrait
from pipelines.demo.videos import DemoClip, read_frames
from pipelines.demo.warp import render
from xnemo.evaluation.motion_correlation import Trial


def make_trial(identity: str, clip: DemoClip, every: int = 1) -> Trial:
    """Return one trial: a portrait under the motion of every `every`-th frame of a clip.

    The clip begins at rest, so the truth begins with the portrait itself.
    """
    driving, (_, motion) = read_frames(clip.path), clip.read_motion()
    if len(driving) != len(motion):
        raise RuntimeError(f"{clip.path} has {len(driving)} frames, {len(motion)} were written")
    portrait = load_portrait(identity)
    driver = "their own clip" if clip.identity == identity else clip.identity
    return Trial(
        name=f"{identity} driven by {driver}",
        portrait=portrait.image,
        driving=np.stack(driving[::every]),
        truth=np.stack(list(render(portrait, motion[::every]))),
    )


def held_out_trials(
    clips: Sequence[DemoClip], identities: Sequence[str], driver: str, every: int = 1
) -> list[Trial]:
    """Return a trial of each held-out identity with its own clip, after one with another's.

    Args:
        clips: what `make_demo_videos` made.
        identities: who was held out; the first is also driven by `driver`.
        driver: whose held-out clip drives the first.
        every: goes by every so many frames.
    """
    held_out = {clip.identity: clip for clip in clips if clip.split == "held_out"}
    own = [make_trial(name, held_out[name], every) for name in identities]
    return [make_trial(identities[0], held_out[driver], every), *own]
