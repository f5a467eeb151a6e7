"""Evaluation on a list of portraits and driving videos."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipelines.animate.portrait import read_portrait
from pipelines.evaluate.settings import Row, Run, cross_row, with_mean
from preprocessing.errors import UserError
from xnemo.animation.animator import Animator
from xnemo.animation.driving_video import DrivingVideo


def evaluate_pairs(run: Run, file: Path) -> dict[str, list[Row]]:
    """Return the table of a list file.

    Raises:
        UserError: The list, a portrait or a driving video is unusable.
    """
    options = run.options
    pairs = read_pairs(file)[: options.limit]
    bundle = run.bundle
    animator = Animator(
        bundle.networks, run.detector, bundle.config.diffusion, window=bundle.window
    )
    config = replace(options, box="relative")
    rows: list[Row] = []
    for number, (portrait, driving) in enumerate(pairs):
        run.report(f"{portrait.name} driven by {driving.name}", number, len(pairs))
        image = read_portrait(portrait)
        video = DrivingVideo(driving, max_frames=options.frames * options.stride)
        frames = np.stack([x for n, x in enumerate(video) if n % options.stride == 0])
        try:
            row = cross_row(animator, (str(portrait), image), (str(driving), frames), config)
        except UserError as error:
            pair = f"{portrait}, {driving}"
            raise UserError(f"{file}: {pair}: {error.what}", error.remedy) from None
        rows.append(row)
    return {"cross-reenactment": with_mean(rows)}


def read_pairs(file: Path) -> list[tuple[Path, Path]]:
    """Read a list file; empty lines and lines that begin with # are ignored.

    Raises:
        UserError: A line has another form or names a missing file, or there is no line.
    """
    pairs = []
    try:
        lines = list(csv.reader(file.read_text().splitlines(), skipinitialspace=True))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as a list", "give a text file") from error
    for number, line in enumerate(lines, 1):
        if not line or line[0].startswith("#"):
            continue
        if len(line) != 2:
            raise UserError(f"{file}, line {number}: {','.join(line)!r}", "write portrait,driving")
        portrait, driving = (file.parent / part.strip() for part in line)
        for path in (portrait, driving):
            if not path.is_file():
                raise UserError(f"{file}, line {number}: {path} is missing", "correct the path")
        pairs.append((portrait, driving))
    if not pairs:
        raise UserError(f"{file} lists nothing", "write lines of portrait,driving")
    return pairs
