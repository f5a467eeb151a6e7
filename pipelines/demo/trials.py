"""Held-out portraits and driving videos with their ground truth, which `render` computes."""

from collections.abc import Sequence

import numpy as np

from pipelines.demo.faces import load_portrait
from pipelines.demo.videos import DemoClip, read_frames
from pipelines.demo.warp import render
from xnemo.evaluation.motion_correlation import Trial


def make_trial(identity: str, clip: DemoClip, every: int = 1) -> Trial:
    """Return a trial: a portrait and the motion of every `every`-th frame of a clip.

    Clips start at rest, so the first frame of the ground truth is the portrait.
    """
    driving, (_, motion) = read_frames(clip.path), clip.read_motion()
    if len(driving) != len(motion):
        raise RuntimeError(f"{clip.path} has {len(driving)} frames, {len(motion)} were written")
    portrait = load_portrait(identity)
    driving_name = "their own clip" if clip.identity == identity else clip.identity
    return Trial(
        name=f"{identity} driven by {driving_name}",
        portrait=portrait.image,
        driving=np.stack(driving[::every]),
        truth=np.stack(list(render(portrait, motion[::every]))),
    )


def held_out_trials(
    clips: Sequence[DemoClip], identities: Sequence[str], driving_identity: str, every: int = 1
) -> list[Trial]:
    """Return a cross-identity trial, then a trial of each held-out identity with its own clip.

    Args:
        clips: result of `make_demo_videos`.
        identities: held-out identities; the first is also driven by `driving_identity`.
        driving_identity: identity of the cross-identity driving video.
        every: use every N-th frame.
    """
    held_out = {clip.identity: clip for clip in clips if clip.split == "held_out"}
    own = [make_trial(name, held_out[name], every) for name in identities]
    return [make_trial(identities[0], held_out[driving_identity], every), *own]
