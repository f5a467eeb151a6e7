"""Summary of the demo: results, times, and scores."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.demo.run import DemoResult
from pipelines.terminal.report import quoted, show_next


def show_summary(result: DemoResult, console: Console) -> None:
    """Print the demo's tables and the next commands."""
    console.print(_made(result))
    console.print()
    console.print(_compared(result))
    console.print()
    out, bundle = result.out, result.training.bundle
    text = (
        f"{sum(result.seconds.values()):.0f} s in total, "
        f"{result.peak_memory / 2**30:.1f} GiB peak memory"
    )
    console.print(Text(text, style="dim"))
    if result.unsent:
        console.print(Text(f"not in MLflow: {result.unsent}"))
    show_next(
        quoted("xnemo", "inspect", out / "dataset"),
        quoted("xnemo", "ui", "--model", bundle),
        quoted(
            "xnemo",
            "animate",
            result.portrait,
            "YOUR_VIDEO.mp4",
            "--model",
            bundle,
            "-o",
            "yours.mp4",
        ),
        quoted("mlflow", "ui", "--backend-store-uri", result.training.tracking_uri),
        on=console,
    )


def _made(result: DemoResult) -> Table:
    table = Table(title="results", title_justify="left", box=None, pad_edge=False)
    for column in ("stage", "time", "result", "path"):
        table.add_column(column, overflow="fold")
    train_clips = sum(clip.split == "train" for clip in result.clips)
    identities = len({clip.identity for clip in result.clips})
    loss = "; ".join(
        f"{name} loss {first:.3g} to {last:.3g}" for name, (first, last) in result.losses.items()
    )
    rows = {
        "make videos": (
            f"{len(result.clips)} clips of {identities} identities, {train_clips} for training",
            result.out / "videos",
        ),
        "preprocess": (
            f"{result.dataset.kept} of {result.dataset.clips} clips kept, "
            f"{result.dataset.kept_s:.0f} s",
            result.dataset.out,
        ),
        "fine-tune": (f"{result.training.samples_seen:,} samples; {loss}", result.training.bundle),
        "animate": ("a photograph, moved by a held-out video", result.animation),
        "animate again": ("the same, by the fine-tuned model", result.finetuned),
        "compare": (
            f"{len(result.trials)} held-out trials; contact sheet: {result.sheet}",
            result.out / "demo.json",
        ),
    }
    for stage, (what, where) in rows.items():
        table.add_row(stage, f"{result.seconds[stage]:.0f} s", Text(what), Text(str(where)))
    return table


def _compared(result: DemoResult) -> Table:
    table = Table(
        title="against the ground truth, on held-out identities and motions",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("")
    for name in ("error (best 0)", "SSIM (best 1)", "motion correlation (best 1)"):
        table.add_column(name, justify="right")
    for score in result.scores:
        table.add_row(
            score.method, f"{score.l1:.3f}", f"{score.ssim:.3f}", f"{score.motion_correlation:.2f}"
        )
    return table
