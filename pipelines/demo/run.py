"""The demo: raw videos to an animated portrait, small, offline and on a CPU."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from PIL import Image

from pipelines.animate.contact_sheet import save_sheet
from pipelines.animate.job import AnimateOptions, animate
from pipelines.cluster.connect import connect, silence_ray_data
from pipelines.demo.contact_sheet import contact_sheet
from pipelines.demo.portraits import load_portrait
from pipelines.demo.record import record_results
from pipelines.demo.stages import Stages
from pipelines.demo.trials import held_out_trials
from pipelines.demo.videos import DemoClip, plan_demo_videos, write_demo_videos
from pipelines.preprocess.job import preprocess
from pipelines.preprocess.result import PreprocessResult
from pipelines.terminal.live_progress import ReportProgress
from pipelines.train.job import TrainResult, train
from preprocessing import geometry
from preprocessing.config import PreprocessConfig
from preprocessing.errors import UserError
from preprocessing.faces import make_detector
from xnemo.animation.animator import Animator
from xnemo.animation.config import AnimateConfig
from xnemo.animation.load_model import load_model
from xnemo.animation.tracking import find_faces
from xnemo.evaluation.reenactment import ReenactmentScores, Trial, compare_methods, framed
from xnemo.model.builtin import BUILTIN
from xnemo.recipes import get_recipe
from xnemo.training.monitor.run_log import read_log

# Names of the model before and after fine-tuning.
_BEFORE, _AFTER = "model of the package", "fine-tuned"
# The losses shown, in this order.
_LOSSES = ("diffusion", "head_l1", "discriminator")


@dataclass(frozen=True)
class DemoConfig:
    """Size of the demo; the defaults take minutes on two cores."""

    # Seed of people and motions, of training and of animation.
    seed: int = 0
    # Synthetic people who are trained on, with one clip each.
    people: int = 24
    # Length of each clip in seconds.
    clip_seconds: float = 2.4
    # Side of the rendered frames in pixels.
    video_side: int = 256
    # Side of the stored frames in pixels.
    picture_side: int = 128
    # Length of the fine-tune in samples; None for the recipe's.
    train_samples: int | None = None
    # The comparison uses every N-th frame of the driving videos.
    compare_every: int = 5

    def __post_init__(self) -> None:
        for name, least in (("people", 1), ("clip_seconds", 2.0), ("compare_every", 1)):
            if getattr(self, name) < least:
                raise UserError(f"demo.{name} is {getattr(self, name)}", f"give {least} or more")


@dataclass(frozen=True)
class DemoResult:
    """Files of the demo, and scores of the trained model."""

    # Folder of all results.
    out: Path
    # All clips, and the data set of the training ones.
    clips: Sequence[DemoClip]
    dataset: PreprocessResult
    training: TrainResult
    # First and last training losses by name.
    losses: dict[str, tuple[float, float]]
    # The portrait, and its animations by the model of the package and by the fine-tuned one.
    portrait: Path
    animation: Path
    finetuned: Path
    # Contact sheet of both models beside the ground truth.
    sheet: Path
    # Scores of every method over all held-out trials.
    scores: Sequence[ReenactmentScores]
    trials: Sequence[str]
    # Why the scores are not in MLflow; None if they are.
    unsent: str | None = None
    # Seconds by stage, and peak memory in bytes.
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: int = 0


def run_demo(
    out: str | Path = "demo",
    config: DemoConfig | None = None,
    *,
    address: str | None = None,
    concurrency: int = 2,
    on_progress: ReportProgress | None = None,
) -> DemoResult:
    """Animate a portrait, then fine-tune the model on new videos, and compare.

    Videos are rendered, preprocessed and trained on as a user's would be.

    The same call again resumes an interrupted demo.

    Args:
        out: folder of all results.
        config: sizes.
        address: Ray cluster; None for this machine.
        concurrency: parallel processes of preprocessing and training.
        on_progress: called with the progress of each stage.

    Raises:
        UserError: `out` contains unexpected files, or a photograph of the demo is missing.
        KeyboardInterrupt: training was interrupted (Ctrl-C, SIGTERM) and has saved its state.
    """
    report = on_progress or _ignore_progress
    config = config or DemoConfig()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    stages = Stages()
    clips = plan_demo_videos(
        out / "videos", config.seed, config.people, config.clip_seconds, size=config.video_side
    )
    # One Ray for all jobs: starting it takes longer than this preprocessing.
    silence_ray_data()
    with connect(address, concurrency):
        with stages.measure("make videos"):
            write_demo_videos(
                clips,
                workers=concurrency,
                on_clip=lambda done, total: report("make videos", done, total),
            )
        driving = next(clip for clip in clips if clip.split == "held_out")
        with stages.measure("animate"):
            portrait = _portrait(out)
            animation = _animate(BUILTIN, portrait, driving, out / "animated.mp4", config, report)
        with stages.measure("preprocess"):
            dataset = _preprocess(out, config, address, concurrency, report)
        with stages.measure("fine-tune"):
            training = _train(out, config, address, concurrency, report)
    if training.stopped:
        # The next stages would show and score a half-trained model.
        raise KeyboardInterrupt
    with stages.measure("animate again"):
        finetuned = _animate(
            training.bundle, portrait, driving, out / "finetuned.mp4", config, report
        )
    with stages.measure("compare"):
        trials = held_out_trials(clips, config.compare_every)
        before, after = _animator(BUILTIN), _animator(training.bundle)
        sheet = out / "compared.png"
        save_sheet(_beside_truth({_BEFORE: before, _AFTER: after}, trials[0], config), sheet)
        scores = compare_methods(
            after,
            trials,
            others={_BEFORE: before},
            config=_animate_config(config),
            on_progress=lambda done, total, note: report("compare", done, total, note),
        )
        report("compare", 1, 1)
        unsent = record_results(training, [sheet, finetuned], scores)
    result = DemoResult(
        out=out,
        clips=clips,
        dataset=dataset,
        training=training,
        losses=_losses(training.run_dir),
        portrait=portrait,
        animation=animation,
        finetuned=finetuned,
        sheet=sheet,
        scores=scores,
        trials=[trial.name for trial in trials],
        unsent=unsent,
        seconds=stages.seconds,
        peak_memory=stages.peak_memory,
    )
    _write_summary(result)
    return result


def _ignore_progress(stage: str, done: float, total: float, note: str = "") -> None:
    """Show nothing."""


def _preprocess(
    out: Path, config: DemoConfig, address: str | None, concurrency: int, report: ReportProgress
) -> PreprocessResult:
    settings = PreprocessConfig()
    settings = replace(
        settings,
        plan=replace(settings.plan, licence="synthetic, CC0"),
        tube=replace(settings.tube, size=config.picture_side),
        # Held-out identities lie in another folder.
        shard=replace(settings.shard, validation=0.0, test=0.0),
    )
    return preprocess(
        out / "videos" / "train",
        out / "dataset",
        settings,
        address=address,
        concurrency=concurrency,
        on_progress=lambda at: report(f"preprocess: {at.stage}", at.done, at.total, at.note),
    )


def _train(
    out: Path, config: DemoConfig, address: str | None, concurrency: int, report: ReportProgress
) -> TrainResult:
    recipe = get_recipe("mini-finetune")
    recipe = replace(recipe, seed=config.seed, samples=config.train_samples or recipe.samples)
    return train(
        recipe,
        str(out / "dataset"),
        "demo",
        runs_dir=out / "runs",
        address=address,
        workers=concurrency,
        on_progress=lambda at: report(
            "fine-tune", at.samples_seen, at.samples, at.message or _numbers(at.metrics) or at.phase
        ),
    )


def _numbers(metrics: Mapping[str, float]) -> str:
    shown = [f"{name} {metrics[name]:.4g}" for name in _LOSSES if name in metrics]
    if "samples_per_s" in metrics:
        shown.append(f"{metrics['samples_per_s']:.0f} samples/s")
    return ", ".join(shown)


def _losses(run_dir: Path) -> dict[str, tuple[float, float]]:
    """Return each loss over the first and the last tenth of the run."""
    records = [r for r in read_log(run_dir) if "loss" in r]
    tenth = max(1, len(records) // 10)

    def mean(part: Sequence[Mapping[str, float]], name: str) -> float:
        values = [r[name] for r in part if r.get(name) is not None]
        return sum(values) / len(values)

    named = [name for name in _LOSSES if records and name in records[0] and name in records[-1]]
    return {name: (mean(records[:tenth], name), mean(records[-tenth:], name)) for name in named}


def _animate_config(config: DemoConfig) -> AnimateConfig:
    return AnimateConfig(seed=config.seed)


def _animator(model: str | Path) -> Animator:
    loaded = load_model(model)
    return Animator(loaded.networks, make_detector(), loaded.diffusion)


def _portrait(out: Path) -> Path:
    portrait = out / "portrait.png"
    save_sheet(Image.fromarray(load_portrait("collins")), portrait)
    return portrait


def _animate(
    model: str | Path,
    portrait: Path,
    driving: DemoClip,
    output: Path,
    config: DemoConfig,
    report: ReportProgress,
) -> Path:
    """Animate a photograph by a held-out video from files, as `xnemo animate` does."""
    made = animate(
        model,
        portrait,
        driving.path,
        output,
        AnimateOptions(seed=config.seed),
        on_progress=lambda stage, done, total: report(f"animate: {stage}", done, total),
    )
    return made.output


def _beside_truth(models: Mapping[str, Animator], trial: Trial, config: DemoConfig) -> Image.Image:
    """Return driving video, results and ground truth of a trial under each other."""
    animator = next(iter(models.values()))
    portrait, truth = framed(animator, trial)
    settings = _animate_config(config)
    made = {
        name: list(model.animate(trial.portrait, trial.driving, settings))
        for name, model in models.items()
    }
    frame_hw = trial.driving[0].shape[:2]
    crops = geometry.driving_crop_boxes(
        find_faces(trial.driving, animator.detector).boxes, frame_hw
    )
    # The same crop scale as the result.
    widening = geometry.REFERENCE_SCALE / geometry.TIGHT_SCALE
    driving = [
        geometry.crop_resize(frame, geometry.square_box(box, widening), 192, pad="edge")
        for frame, box in zip(trial.driving, crops, strict=True)
    ]
    rows = [
        ("driving video, held out", driving),
        *((f"result, {name}", frames) for name, frames in made.items()),
        ("ground truth", list(truth)),
    ]
    return contact_sheet(portrait, rows)


def _write_summary(result: DemoResult) -> None:
    """Write the numbers to `demo.json`."""
    content = {
        "seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory,
        "clips": [{"path": str(c.path), "split": c.split, **asdict(c.spec)} for c in result.clips],
        "dataset": asdict(result.dataset),
        "losses_first_and_last": result.losses,
        "trials": list(result.trials),
        "scores": [asdict(score) for score in result.scores],
    }
    temporary = result.out / ".demo.json.part"
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(result.out / "demo.json")
