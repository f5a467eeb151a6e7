"""`xnemo demo`: raw videos to an animated portrait, small, offline and on a CPU."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from PIL import Image

from pipelines.animate.contact_sheet import save_sheet
from pipelines.animate.job import AnimateOptions, animate
from pipelines.cluster.connect import connect
from pipelines.demo.contact_sheet import Picture, contact_sheet
from pipelines.demo.faces import load_portrait
from pipelines.demo.record import record_results
from pipelines.demo.stages import Stages
from pipelines.demo.trials import held_out_trials, make_trial
from pipelines.demo.videos import (
    DRIVER,
    HELD_OUT_IDENTITIES,
    DemoClip,
    make_demo_videos,
    read_frames,
)
from pipelines.preprocess.job import preprocess
from pipelines.preprocess.result import PreprocessResult
from pipelines.train.job import TrainResult, train
from preprocessing import geometry
from preprocessing.config import PreprocessConfig
from preprocessing.errors import UserError
from preprocessing.faces import make_detector
from xnemo.animation.animator import AnimateConfig, Animator
from xnemo.animation.driving import find_faces
from xnemo.diffusion.sampler import SamplerConfig
from xnemo.evaluation.motion_correlation import Followed, compare_followers, framed
from xnemo.model.networks import build_networks
from xnemo.recipes import get_recipe
from xnemo.training.checkpoint.bundle import load_bundle
from xnemo.training.monitor.run_log import read_log

# The losses shown, in this order.
_LOSSES = ("diffusion", "head_l1", "discriminator")

#: What a stage says while it runs: its name, units done, units in all, and words beside them.
Tell = Callable[[str, float, float, str], None]


@dataclass(frozen=True)
class DemoConfig:
    """How large the demo is; the defaults take minutes on two cores."""

    # Decides the motion of all clips and every random number of training and animation.
    seed: int = 0
    # Training clips of each person.
    clips_per_identity: int = 3
    # Length of each clip in seconds.
    clip_seconds: float = 3.0
    # Side in pixels of the stored pictures.
    picture_side: int = 128
    # Length of training in samples; None takes the recipe's.
    train_samples: int | None = None
    # Denoising steps of animation.
    steps: int = 10
    # Guidance scale of animation; 1 is off.
    guidance: float = 1.0
    # The comparison goes by every so many frames of the drivers.
    compare_every: int = 5

    def __post_init__(self) -> None:
        for name, least in (("clips_per_identity", 1), ("clip_seconds", 2.0), ("compare_every", 1)):
            if getattr(self, name) < least:
                raise UserError(f"demo.{name} is {getattr(self, name)}", f"give {least} or more")


@dataclass(frozen=True)
class DemoResult:
    """What the demo made, and how well the trained model follows a driver."""

    # Folder of everything.
    out: Path
    # Clips that were made, and what became of the training ones.
    clips: Sequence[DemoClip]
    dataset: PreprocessResult
    training: TrainResult
    # First and last losses of training by name.
    losses: dict[str, tuple[float, float]]
    # The portrait, its animation and the picture that shows both beside the known truth.
    portrait: Path
    animation: Path
    sheet: Path
    # Every contender over all held-out trials.
    scores: Sequence[Followed]
    trials: Sequence[str]
    # What kept the scores from MLflow; None where they are there.
    unsent: str | None = None
    # Seconds by stage, and bytes of memory at most.
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: int = 0


def run_demo(
    out: str | Path = "demo",
    config: DemoConfig | None = None,
    *,
    address: str | None = None,
    workers: int = 2,
    tell: Tell = lambda stage, done, total, note: None,
) -> DemoResult:
    """Make videos, preprocess them, train on them, animate a portrait, and measure the result.

    The same call again goes on where an interrupted one stopped.

    Args:
        out: folder of everything that is made.
        config: sizes.
        address: Ray cluster; None for this machine.
        workers: processes that preprocess and train at once.
        tell: told how far each stage is.

    Raises:
        UserError: something in `out` is in the way, or a photograph of the demo is missing.
        KeyboardInterrupt: training was told to stop (Ctrl-C, SIGTERM) and has saved its state.
    """
    config = config or DemoConfig()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    stages = Stages()
    with stages.measure("make videos"):
        clips = _make_videos(out / "videos", config, workers, tell)
    # One Ray for both jobs: starting it takes longer than this preprocessing.
    with connect(address, workers):
        with stages.measure("preprocess"):
            dataset = _preprocess(out, config, address, workers, tell)
        with stages.measure("train"):
            training = _train(out, config, address, workers, tell)
    if training.stopped:
        # What follows would show and measure a model of half a run as if it were whole.
        raise KeyboardInterrupt
    driver = next(c for c in clips if c.identity == DRIVER and c.split == "held_out")
    with stages.measure("animate"):
        portrait, animation, sheet = _animate(out, training.bundle, driver, config, tell)
    with stages.measure("compare"):
        trials = held_out_trials(clips, HELD_OUT_IDENTITIES, DRIVER, config.compare_every)
        scores = compare_followers(
            _animator(training.bundle),
            trials,
            untrained=_untrained(training.bundle),
            config=_animate_config(config),
            on_progress=lambda done, total, note: tell("compare", done, total, note),
        )
        tell("compare", 1, 1, "")
        unsent = record_results(training, [sheet, animation], scores)
    result = DemoResult(
        out=out,
        clips=clips,
        dataset=dataset,
        training=training,
        losses=_losses(training.run_dir),
        portrait=portrait,
        animation=animation,
        sheet=sheet,
        scores=scores,
        trials=[trial.name for trial in trials],
        unsent=unsent,
        seconds=stages.seconds,
        peak_memory=stages.peak_memory,
    )
    _write_summary(result)
    return result


def _make_videos(folder: Path, config: DemoConfig, workers: int, tell: Tell) -> list[DemoClip]:
    made: list[DemoClip] = []

    def on_clip(clip: DemoClip, total: int) -> None:
        made.append(clip)
        tell("make videos", len(made), total, clip.path.name)

    tell("make videos", 0, 0, "")
    return make_demo_videos(
        folder,
        config.seed,
        config.clips_per_identity,
        config.clip_seconds,
        processes=workers,
        on_clip=on_clip,
    )


def _preprocess(
    out: Path, config: DemoConfig, address: str | None, workers: int, tell: Tell
) -> PreprocessResult:
    settings = PreprocessConfig()
    settings = replace(
        settings,
        plan=replace(settings.plan, licence="made by xnemo demo; see the README"),
        # The demo's heads move a great deal for their size.
        tube=replace(settings.tube, size=config.picture_side, keep_scale=4.0),
        # Who is held out was decided when the clips were made: their folder is left out.
        shard=replace(settings.shard, validation=0.0, test=0.0),
    )
    return preprocess(
        out / "videos" / "train",
        out / "dataset",
        settings,
        address=address,
        concurrency=workers,
        on_progress=lambda at: tell(f"preprocess: {at.stage}", at.done, at.total, at.note),
    )


def _train(
    out: Path, config: DemoConfig, address: str | None, workers: int, tell: Tell
) -> TrainResult:
    recipe = get_recipe("tiny")
    recipe = replace(recipe, seed=config.seed, samples=config.train_samples or recipe.samples)
    return train(
        recipe,
        str(out / "dataset"),
        "demo",
        runs_dir=out / "runs",
        address=address,
        workers=workers,
        on_progress=lambda at: tell(
            "train", at.samples_seen, at.samples, at.message or _numbers(at.metrics) or at.phase
        ),
    )


def _numbers(metrics: Mapping[str, float]) -> str:
    shown = [f"{name} {metrics[name]:.4g}" for name in _LOSSES if name in metrics]
    if "samples_per_s" in metrics:
        shown.append(f"{metrics['samples_per_s']:.0f} samples/s")
    return ", ".join(shown)


def _losses(run_dir: Path) -> dict[str, tuple[float, float]]:
    """First and last logged value of each loss, averaged over a tenth of the run."""
    records = [r for r in read_log(run_dir / "log.jsonl") if "event" not in r]
    tenth = max(1, len(records) // 10)

    def mean(part: Sequence[Mapping[str, float]], name: str) -> float:
        values = [r[name] for r in part if r.get(name) is not None]
        return sum(values) / len(values)

    named = [name for name in _LOSSES if records and name in records[0] and name in records[-1]]
    return {name: (mean(records[:tenth], name), mean(records[-tenth:], name)) for name in named}


def _animate_config(config: DemoConfig) -> AnimateConfig:
    sampler = SamplerConfig(steps=config.steps, guidance=config.guidance)
    return AnimateConfig(sampler=sampler, seed=config.seed)


def _animator(bundle: Path) -> Animator:
    loaded = load_bundle(bundle)
    return Animator(loaded.networks, make_detector(), loaded.config.diffusion)


def _untrained(bundle: Path) -> Animator:
    """The same networks with the weights that training began with."""
    config = load_bundle(bundle).config
    networks = build_networks(config.network, config.seed).eval()
    return Animator(networks, make_detector(), config.diffusion)


def _animate(
    out: Path, bundle: Path, driver: DemoClip, config: DemoConfig, tell: Tell
) -> tuple[Path, Path, Path]:
    """Animate the held-out portrait from files, as `xnemo animate` does."""
    portrait = out / "portrait.png"
    save_sheet(Image.fromarray(load_portrait(HELD_OUT_IDENTITIES[0]).image), portrait)
    made = animate(
        bundle,
        portrait,
        driver.path,
        out / "animated.mp4",
        AnimateOptions(animate=_animate_config(config)),
        on_progress=lambda stage, done, total: tell(f"animate: {stage}", done, total, ""),
    )
    save_sheet(_beside_truth(bundle, driver, read_frames(made.output)), made.contact_sheet)
    return portrait, made.output, made.contact_sheet


def _beside_truth(bundle: Path, driver: DemoClip, made: list[Picture]) -> Image.Image:
    """Put the known truth under driver and result, which real footage could not have."""
    animator = _animator(bundle)
    trial = make_trial(HELD_OUT_IDENTITIES[0], driver)
    portrait, truth = framed(animator, trial)
    frame_hw = trial.driving[0].shape[:2]
    crops = geometry.driving_crop_boxes(
        find_faces(trial.driving, animator.detector, every=4).boxes, frame_hw
    )
    # As wide around the driver's face as the result is around the portrait's.
    widening = geometry.REFERENCE_SCALE / geometry.TIGHT_SCALE
    driving = [
        geometry.crop_resize(frame, geometry.square_box(box, widening), 192, pad="edge")
        for frame, box in zip(trial.driving, crops, strict=True)
    ]
    rows = [
        (f"driver: {driver.identity}, in a clip not trained on", driving),
        (f"result: {HELD_OUT_IDENTITIES[0]}, a face not trained on", made),
        ("known truth", list(truth)),
    ]
    return contact_sheet(portrait, rows)


def _write_summary(result: DemoResult) -> None:
    """Keep the numbers beside what they tell of."""
    content = {
        "seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory,
        "clips": [
            {"path": str(c.path), "identity": c.identity, "split": c.split, "seed": list(c.seed)}
            for c in result.clips
        ],
        "dataset": asdict(result.dataset),
        "losses_first_and_last": result.losses,
        "trials": list(result.trials),
        "scores": [asdict(score) for score in result.scores],
    }
    temporary = result.out / ".demo.json.part"
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(result.out / "demo.json")
