"""`xnemo preprocess` and `xnemo inspect`: from videos to shards, and what is in them."""

from typing import Annotated

import typer

from pipelines.cli.options import (
    Address,
    ConfigFile,
    DetectorName,
    FacesPack,
    Overrides,
    configure,
    detector_settings,
)
from pipelines.terminal.report import console, quoted, show_facts, show_next


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("preprocess")(preprocess)
    app.command("inspect")(inspect)


def preprocess(
    videos: Annotated[
        str, typer.Argument(help="Folder, file, list (.txt, .csv, .jsonl) or fsspec URL of videos.")
    ],
    out: Annotated[str, typer.Argument(help="Folder or fsspec URL for shards, index and report.")],
    overrides: Overrides = None,
    detector: DetectorName = None,
    faces_pack: FacesPack = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Chunks at once; left out, one a core.")
    ] = None,
    address: Address = None,
    config: ConfigFile = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Forecast clips, core-hours and bytes; write nothing.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only compare a finished data set with its checksums.")
    ] = False,
    retry_quarantine: Annotated[
        bool, typer.Option("--retry-quarantine", help="Look again into sources that were bad.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with status 1 when any source was bad.")
    ] = False,
) -> int:
    """Turn talking-head videos into face-cropped WebDataset shards with a Parquet index.

    Running the same command again goes on where it stopped; new or changed videos and settings redo
    only what they touch.
    """
    from pipelines.preprocess import job
    from pipelines.preprocess.result import Forecast, PreprocessResult, Verification
    from pipelines.preprocess.verify import verify as verify_job
    from preprocessing.config import PreprocessConfig

    named = detector_settings(detector, faces_pack, name="detect.name", pack="detect.model_dir")
    settings = configure(PreprocessConfig(), config, overrides, named)
    result: PreprocessResult | Forecast | Verification
    if verify:
        result = verify_job(out)
    elif dry_run:
        result = job.forecast(videos, out, settings, address=address, concurrency=workers)
    else:
        result = job.preprocess(
            videos,
            out,
            settings,
            address=address,
            concurrency=workers,
            retry_quarantine=retry_quarantine,
            strict=strict,
        )
    show_facts(result.title, result.facts())
    if dry_run:
        options = {
            "--detector": detector,
            "--faces-pack": faces_pack,
            "--workers": workers,
            "--address": address,
            "--config": config,
        }
        given = [word for option, value in options.items() if value for word in (option, value)]
        show_next(quoted("xnemo", "preprocess", videos, out, *(overrides or ()), *given))
    elif not verify:
        show_next(
            quoted("xnemo", "inspect", out),
            quoted("xnemo", "train", "tiny", "--data", out, "--run", "first"),
        )
    return result.exit_code


def inspect(
    path: Annotated[
        str, typer.Argument(help="Shards, a bundle, a run, a tar, a video, a picture.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what is in a folder of shards, a bundle, a tar or a video."""
    from pipelines.inspect.examine import inspect as run

    console.print(run(path, as_json=as_json))
