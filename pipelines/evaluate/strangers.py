"""Evaluation on synthetic strangers, whose true motion and pictures are known exactly."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.evaluate.settings import Row, Run, plain
from preprocessing.geometry import resize
from xnemo.animation.animator import Animator
from xnemo.evaluation.strangers import (
    SHOWN,
    CrossResult,
    LatentScores,
    LinearReader,
    make_reader_people,
    make_strangers,
    score_following,
    score_latents,
)
from xnemo.training.checkpoint.bundle import load_bundle

_CELL, _GAP = 112, 4
_PEOPLE_SHOWN, _MOTIONS_SHOWN = 6, 8


def evaluate_strangers(run: Run) -> tuple[dict[str, list[Row]], Image.Image]:
    """Render strangers, and return the tables and a sheet of portraits, drivers, results, truth.

    Raises:
        UserError: The renderer is not installed, or the reader's bundle is unusable.
    """
    options = run.options

    people, motions = options.limit or options.people, options.motions
    strangers = make_strangers(
        people,
        motions,
        run.detector,
        on_person=partial(run.report, "rendering strangers"),
    )
    others = make_reader_people(
        options.reader_people,
        motions // 2,
        run.detector,
        first=people,
        on_person=partial(run.report, "rendering other people"),
    )
    encoder = run.bundle.networks.motion_encoder
    own = LinearReader(encoder, others)
    latents = score_latents(own, strangers)
    reader = own
    if options.reader is not None:
        reader = LinearReader(load_bundle(options.reader).networks.motion_encoder, others)
    else:
        run.notes.append("motion is read back by the model's own encoder: give reader=BUNDLE")
    bundle = run.bundle
    animator = Animator(
        bundle.networks, run.detector, bundle.config.diffusion, window=bundle.window
    )
    cross = score_following(animator, strangers, reader, options, run.report)
    return _tables(latents, cross), _sheet(cross.pictures)


def _tables(latents: LatentScores, cross: CrossResult) -> dict[str, list[Row]]:
    shown = [name for name in SHOWN if name in latents.r2]
    others = [name for name in latents.r2 if name not in SHOWN]
    motion: list[Row] = [
        {
            "motion": name,
            "R² from the latent": latents.r2[name],
            "read from results": cross.read_back.get(name),
            "read from true frames": cross.read_true.get(name),
        }
        for name in [*shown, *others]
    ]
    identity: list[Row] = [
        {"measure": "share of the latent's variance", "value": latents.identity_share},
        {"measure": "nearest latent is the same person's", "value": latents.identity_accuracy},
        {"measure": "the same by chance", "value": latents.identity_chance},
    ]
    return {
        "motion of strangers: R² from the latent, and correlation read from frames": [
            plain(row) for row in motion
        ],
        "identity in the latent": identity,
        "strangers driven by strangers, against the truth": [
            plain(asdict(score)) for score in cross.scores
        ],
    }


def _sheet(
    pictures: Sequence[tuple[NDArray[np.uint8], ...]],
) -> Image.Image:
    """Three rows for each stranger, driver, result and truth, with the portrait at the left."""
    rows = []
    blank = np.full((_CELL, _CELL, 3), 255, np.uint8)
    for portrait, *clips in pictures[:_PEOPLE_SHOWN]:
        count = len(clips[0])
        picked = np.linspace(0, count - 1, min(_MOTIONS_SHOWN, count)).round().astype(int)
        for number, clip in enumerate(clips):
            first = resize(portrait, _CELL) if number == 1 else blank
            cells = [first, *(resize(clip[k], _CELL) for k in picked)]
            rows.append(np.concatenate(cells, axis=1))
        rows.append(np.full((_GAP, rows[-1].shape[1], 3), 255, np.uint8))
    return Image.fromarray(np.concatenate(rows, axis=0))
