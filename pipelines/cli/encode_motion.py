"""`xnemo encode-motion`: the motion of a video as a file."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import options as opt
from pipelines.cli.settings import configure


def encode_motion(
    driving: Annotated[Path, typer.Argument(help="Video whose motion is encoded.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="safetensors file to write.")
    ],
    overrides: opt.Overrides = None,
    model: opt.AnyModel = "builtin",
    driving_face: opt.DrivingFace = None,
    reference_frame: opt.ReferenceFrame = None,
    device: opt.Device = None,
    detector: opt.DetectorName = None,
    face_model_dir: opt.FaceModelDir = None,
    max_frames: opt.MaxFrames = None,
    config: opt.ConfigFile = None,
    print_config: opt.PrintConfig = False,
) -> None:
    """Encode the motion of a video once; `xnemo animate PORTRAIT FILE` shows it on any portrait."""
    from pipelines.animate.job import AnimateOptions
    from pipelines.animate.job import encode_motion as run
    from pipelines.terminal.live_progress import live_progress
    from pipelines.terminal.report import quoted, show_facts, show_next

    named = {
        **opt.detector_settings(detector, face_model_dir),
        "faces.driving": driving_face,
        "faces.reference": reference_frame,
        "device": device,
        "max_frames": max_frames,
    }
    options = configure(AnimateOptions(), config, overrides, named, print_config=print_config)
    with live_progress() as report:
        motion = run(model, driving, output, options, on_progress=report)
    facts = {"motion": output, "model": model, "driving face": motion.track.describe()}
    show_facts(f"{len(motion)} frames", facts)
    made = quoted("xnemo", "animate", "PORTRAIT", output, "--model", model, "-o", "animated.mp4")
    show_next(made)
