"""`xnemo synthesize`: videos of people who never lived, whose motion is known exactly."""

from typing import Annotated

import typer

from pipelines.cli.options import Address


def synthesize(
    out: Annotated[str, typer.Argument(help="Folder or fsspec URL for videos and truth files.")],
    people: Annotated[int, typer.Option(help="Number of people; one video for each.")],
    seconds: Annotated[float, typer.Option(help="Length of each video.")],
    size: Annotated[int, typer.Option(help="Side in pixels, a multiple of 16.")] = 256,
    fps: Annotated[float, typer.Option(help="Frames per second.")] = 25.0,
    people_per_motion: Annotated[
        int, typer.Option(help="People who make the same motion, frame for frame.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Other seeds give other people and motions.")] = 0,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Clips made in parallel. Default: one per CPU.")
    ] = None,
    address: Address = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate core-hours and bytes; write nothing.")
    ] = False,
) -> None:
    """Render talking-head videos of synthetic people with the exact motion of every frame.

    The same command again resumes. `xnemo preprocess OUT SHARDS` takes the videos as any others
    and keeps their motion in the shards.
    """
    from pipelines.synthesize import job
    from pipelines.synthesize.plan import SynthesisConfig
    from pipelines.terminal.report import quoted, show_facts, show_next

    config = SynthesisConfig(people, seconds, size, fps, people_per_motion, seed)
    if dry_run:
        expected = job.forecast(out, config)
        show_facts(expected.title, expected.facts())
        return
    result = job.synthesize(out, config, address=address, concurrency=concurrency)
    show_facts(result.title, result.facts())
    show_next(quoted("xnemo", "preprocess", out, f"{out.rstrip('/')}-shards"))
