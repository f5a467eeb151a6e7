"""Held-out portraits and driving videos with their ground truth, rendered from the same motion."""

from collections.abc import Sequence

import numpy as np

from pipelines.demo.videos import DemoClip, read_frames
from preprocessing.synthetic import make_motion, render, sample_person
from xnemo.evaluation.reenactment import Trial


def make_trial(portrait: DemoClip, clip: DemoClip, every: int = 1) -> Trial:
    """Return a trial: a portrait at rest, and every `every`-th frame of a driving clip.

    Args:
        portrait: clip of the person of the portrait.
        clip: driving clip.
        every: use every N-th frame.
    """
    driving, motion = read_frames(clip.path), clip.read_truth().motion
    if len(driving) != len(motion):
        raise RuntimeError(f"{clip.path} has {len(driving)} frames, {len(motion)} were written")
    person, size = sample_person(portrait.spec.person), portrait.spec.size
    same = portrait.spec.person == clip.spec.person
    return Trial(
        name=f"{portrait.identity} driven by {'their own clip' if same else clip.identity}",
        portrait=render(person, make_motion(), size)[0],
        driving=np.stack(driving[::every]),
        truth=render(person, motion[::every], size),
    )


def held_out_trials(clips: Sequence[DemoClip], every: int = 1) -> list[Trial]:
    """Return a cross-identity trial, then a trial of each held-out person with their own clip.

    Args:
        clips: result of `plan_demo_videos`; the first held-out one, of a person trained on, drives
            the first trial.
        every: use every N-th frame.
    """
    held_out = [clip for clip in clips if clip.split == "held_out"]
    trained_on = {clip.spec.person for clip in clips if clip.split == "train"}
    strangers = [clip for clip in held_out if clip.spec.person not in trained_on]
    own = [make_trial(clip, clip, every) for clip in strangers]
    return [make_trial(strangers[0], held_out[0], every), *own]
