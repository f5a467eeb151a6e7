"""`xnemo preprocess`: videos to shards."""

from typing import Annotated

import typer

from pipelines.cli import options as opt
from pipelines.cli.settings import configure


def preprocess(
    videos: Annotated[
        str, typer.Argument(help="Folder, file, list (.txt, .csv, .jsonl) or fsspec URL of videos.")
    ],
    out: Annotated[str, typer.Argument(help="Folder or fsspec URL for shards, index and report.")],
    overrides: opt.Overrides = None,
    detector: opt.DetectorName = None,
    face_model_dir: opt.FaceModelDir = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Chunks processed in parallel. Default: one per CPU.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Process only the first N sources.")
    ] = None,
    address: opt.Address = None,
    config: opt.ConfigFile = None,
    print_config: opt.PrintConfig = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate clips, core-hours and bytes; write nothing.")
    ] = False,
    retry_quarantine: Annotated[
        bool, typer.Option("--retry-quarantine", help="Process quarantined sources again.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with status 1 if any source is quarantined.")
    ] = False,
) -> int:
    """Turn talking-head videos into face-cropped WebDataset shards with a Parquet index.

    The same command again resumes; new or changed videos and settings redo only what they affect.
    """
    from pipelines.preprocess import job
    from pipelines.preprocess.forecast import forecast
    from pipelines.terminal.report import quoted, show_facts, show_next
    from preprocessing.config import PreprocessConfig

    named = opt.detector_settings(
        detector, face_model_dir, name="detect.name", model_dir="detect.model_dir"
    )
    settings = configure(PreprocessConfig(), config, overrides, named, print_config=print_config)
    if dry_run:
        expected = forecast(
            videos, out, settings, address=address, concurrency=concurrency, limit=limit
        )
        show_facts(expected.title, expected.facts())
        options = {
            "--detector": detector,
            "--face-model-dir": face_model_dir,
            "--concurrency": concurrency,
            "--limit": limit,
            "--address": address,
            "--config": config,
        }
        given = [word for option, value in options.items() if value for word in (option, value)]
        show_next(quoted("xnemo", "preprocess", videos, out, *(overrides or ()), *given))
        return 0
    result = job.preprocess(
        videos,
        out,
        settings,
        address=address,
        concurrency=concurrency,
        limit=limit,
        retry_quarantine=retry_quarantine,
        strict=strict,
    )
    show_facts(result.title, result.facts())
    train = [quoted("xnemo", "train", "tiny", "--data", out, "--run", "first")]
    show_next(quoted("xnemo", "inspect", out), *(train if result.kept else []))
    return result.exit_code
