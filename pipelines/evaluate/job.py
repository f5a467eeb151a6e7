"""Evaluate a bundle on held-out clips, listed pairs, or synthetic strangers."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.animate.contact_sheet import save_sheet
from pipelines.animate.job import place_networks
from pipelines.evaluate.dataset import evaluate_dataset
from pipelines.evaluate.pairs import evaluate_pairs
from pipelines.evaluate.settings import EvaluateOptions, Row, Run
from pipelines.evaluate.strangers import evaluate_strangers
from preprocessing.errors import UserError
from preprocessing.faces import make_detector
from xnemo.animation.animator import Progress
from xnemo.evaluation.lpips import load_lpips
from xnemo.model.builtin import model_folder
from xnemo.training.checkpoint.bundle import load_bundle


@dataclass(frozen=True)
class EvaluateResult:
    """Metrics of a bundle; None stands for a number that could not be measured."""

    # Rows of a table under each title.
    tables: Mapping[str, Sequence[Row]]
    # The bundle, the source, and what was not measured and why.
    facts: Mapping[str, Any]
    # JSON file with the same content.
    path: Path | None


def evaluate(
    bundle: str | Path,
    source: str | Path | None = None,
    *,
    output: str | Path | None = None,
    options: EvaluateOptions | None = None,
    on_progress: Progress | None = None,
) -> EvaluateResult:
    """Evaluate a bundle.

    Args:
        bundle: Folder of a trained model.
        source: A data set of `xnemo preprocess`, or a list file with a line ``portrait,driving``
            per pair, paths relative to the list. None renders synthetic strangers, whose truth is
            known.
        output: JSON file to write; None writes none. Pictures of the strangers are written beside
            it, as PNG.
        options: Settings.
        on_progress: Receives the current animation, the number done and the number in all.

    Raises:
        UserError: The bundle, the source or a weight file is unusable.
    """
    started = time.monotonic()
    options = options or EvaluateOptions()
    path = _check_output(Path(output)) if output is not None else None
    loaded = load_bundle(model_folder(bundle), options.weights)
    place_networks(loaded.networks)
    run = Run(
        loaded,
        options,
        make_detector(options.detector, options.face_model_dir),
        load_lpips(options.lpips) if options.lpips else None,
        on_progress or (lambda stage, done, total: None),
    )
    if run.lpips is None:
        run.notes.append("lpips not measured: no folder of its weights was given")
    if not run.detector.recognises:
        run.notes.append("identity not measured: the detector has no recognition network")
    sheet = None
    if source is None:
        tables, sheet = evaluate_strangers(run)
    elif Path(source).is_file():
        tables = evaluate_pairs(run, Path(source))
    else:
        tables = evaluate_dataset(run, str(source))
    facts = {
        "bundle": str(bundle),
        "samples_seen": loaded.meta.get("samples_seen"),
        "weights": options.weights,
        "source": "synthetic strangers" if source is None else str(source),
        "notes": run.notes,
        "seconds": round(time.monotonic() - started, 1),
    }
    if path is not None:
        _write({"facts": facts, "tables": tables, "options": asdict(options)}, path)
        if sheet is not None:
            save_sheet(sheet, path.with_suffix(".png"))
    return EvaluateResult(tables, facts, path)


def _check_output(path: Path) -> Path:
    """Refuse an unwritable output before minutes of work."""
    if path.suffix.lower() != ".json":
        raise UserError(f"the output {path} is not a .json", "end its name with .json")
    if path.is_dir():
        raise UserError(f"the output {path} is a folder", "give the name of a file")
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"nothing can be written in {parent}", "choose another folder")
    return path


def _write(content: dict[str, Any], path: Path) -> None:
    text = json.dumps(content, indent=1, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
