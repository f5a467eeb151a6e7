"""`xnemo animate`: a portrait animated with the motion of a video."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import options as opt
from pipelines.cli.settings import configure
from preprocessing.errors import UserError

# Failed pairs that are printed; all are in the table.
_SHOWN = 10


def animate(
    portrait: Annotated[
        str | None, typer.Argument(help="Image with a face.", show_default=False)
    ] = None,
    driving: Annotated[
        str | None,
        typer.Argument(
            help="Video whose motion is transferred, or a file of encode-motion.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="MP4 to write; with --list, a folder."),
    ] = None,
    overrides: opt.Overrides = None,
    model: opt.AnyModel = "builtin",
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; 1 is off.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the noise.")] = None,
    portrait_face: Annotated[
        str | None,
        typer.Option(
            metavar="N|BOX",
            help="Face of the portrait: 1 for the largest, 2 for the next, or its box x0,y0,x1,y1, "
            "also of a drawn face.",
        ),
    ] = None,
    driving_face: opt.DrivingFace = None,
    reference_frame: opt.ReferenceFrame = None,
    strength: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=2,
            help="Strength of the motion: 1 as in the driving video, 0 none, 2 twice. Expression, "
            "head pose and position change together.",
        ),
    ] = None,
    paste_back: Annotated[
        bool,
        typer.Option("--paste-back", help="Put the face back into the whole portrait."),
    ] = False,
    device: opt.Device = None,
    decode_chunk: Annotated[
        int | None, typer.Option(min=1, help="Frames the autoencoder decodes at once.")
    ] = None,
    vae: Annotated[
        str | None, typer.Option(metavar="PATH", help="Folder of the autoencoder's weights.")
    ] = None,
    detector: opt.DetectorName = None,
    face_model_dir: opt.FaceModelDir = None,
    max_frames: opt.MaxFrames = None,
    certificate: Annotated[
        str | None,
        typer.Option(
            metavar="PEM", help="Certificate chain; signs the video with C2PA content credentials."
        ),
    ] = None,
    private_key: Annotated[
        str | None, typer.Option(metavar="PEM", help="Private key of the certificate.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            "--list",
            metavar="FILE",
            help="Table with columns portrait and driving, in place of the two arguments; the same "
            "command again resumes.",
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Pairs of a list at once. Default: one per GPU, or per CPU."),
    ] = None,
    address: opt.Address = None,
    config: opt.ConfigFile = None,
    print_config: opt.PrintConfig = False,
) -> int:
    """Animate a portrait with the motion of a video; writes an MP4 and a contact sheet (PNG).

    With a list, every pair gets its own and results.parquet a row; status 1 if one has none.
    """
    from pipelines.animate.job import AnimateOptions
    from pipelines.animate.job import animate as run
    from pipelines.animate_list.job import animate_list
    from pipelines.terminal.live_progress import live_progress
    from pipelines.terminal.report import quoted, show_facts, show_next
    from xnemo.model.builtin import BUILTIN

    named = {
        **opt.detector_settings(detector, face_model_dir),
        "steps": steps,
        "guidance": guidance,
        "seed": seed,
        "device": device,
        "vae": vae,
        "decode_chunk": decode_chunk,
        "max_frames": max_frames,
        "faces.portrait": portrait_face,
        "faces.driving": driving_face,
        "faces.reference": reference_frame,
        "strength": strength,
        "paste_back": paste_back or None,
        "credentials.certificate": certificate,
        "credentials.private_key": private_key,
    }
    if pairs is not None:
        # Settings stand in the places of portrait and driving video.
        overrides = [word for word in (portrait, driving, *(overrides or ())) if word]
    options = configure(AnimateOptions(), config, overrides, named, print_config=print_config)
    if output is None:
        raise UserError("there is no output", "add -o FILE.mp4, or with --list -o FOLDER")
    if pairs is not None:
        with live_progress() as report:
            made = animate_list(
                model,
                pairs,
                output,
                options,
                address=address,
                concurrency=concurrency,
                on_progress=lambda done, total: report("pairs done", done, total),
            )
        failed = made.failed
        for record in failed[:_SHOWN]:
            print(f"failed: {record.portrait}, {record.driving}: {record.reason}")
        show_facts(
            f"{len(made.records) - len(failed)} of {len(made.records)} pairs animated",
            {
                "results": made.table,
                "tried now": made.made,
                "failed": len(failed),
                "time": f"{made.seconds:.1f} s",
            },
        )
        return 1 if failed else 0
    if portrait is None or driving is None:
        raise UserError("portrait or driving video is missing", "give both, or --list FILE")
    with live_progress() as report:
        result = run(model, portrait, driving, output, options, on_progress=report)
    show_facts(
        f"{result.frames} frames at {result.fps:g} fps",
        {
            "video": result.output,
            "contact sheet": result.contact_sheet or "could not be made",
            "model": f"{model} (an early one, 64 pixels)" if model == BUILTIN else model,
            "portrait's face": result.portrait,
            "driving face": result.face,
            "audio": result.audio,
            "content credentials": result.credentials,
            "time": f"{result.seconds:.1f} s",
        },
    )
    show_next(quoted("xnemo", "inspect", result.output))
    return 0
