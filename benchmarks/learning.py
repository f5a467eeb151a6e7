"""Does training learn motion and not identity? One command, with seeds, spread and ablations.

    python benchmarks/learning.py --out /tmp/learning
    python benchmarks/learning.py --out /tmp/learning --videos FOLDER --recipe small

Without --videos it goes by the demo's faces, whose motion is known: two people and one motion of
everybody are held out. With --videos it preprocesses real clips, holds people out by identity, and
goes by the pose that preprocessing measured. Runs are resumed by their names, so a study that was
interrupted goes on.

Every variant is trained with every seed and held to the same questions:

    (a) self-reenactment of people never seen: against the untrained network, the portrait repeated,
        and the same network with a driving video that holds still;
    (b) a linear probe from the motion latent to each known motion (R²) and to who it is (accuracy);
    (c) cross-reenactment: pose and expression taken over, identity kept (with a recogniser);
    (d) all of it without GAN head, without augmentation, with reference masking, and without the
        latent being told how the face changes.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from reporting import RESULTS, Report

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from learning_faces import known_motion_tables, make_known_faces

from pipelines.evaluate.job import evaluate
from pipelines.evaluate.settings import EvaluateOptions
from pipelines.preprocess.job import preprocess
from pipelines.train.job import train
from preprocessing.config import PreprocessConfig
from xnemo.config import override
from xnemo.recipes import get_recipe
from xnemo.training.config import TrainConfig
from xnemo.training.monitor.run_log import read_log

#: What each ablation changes, by dotted name.
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "without GAN head": {"loss.gan": 0.0},
    "without augmentation": {
        "augment.colour_probability": 0.0,
        "augment.warp_probability": 0.0,
        "augment.scale": 0.0,
        "augment.aspect": 0.0,
        "augment.shift": 0.0,
    },
    # Not of the paper, and part of the tiny recipe: see `LossConfig.motion`.
    "without motion readout": {"loss.motion": 0.0},
    # The tiny recipe masks nothing, as each of its tokens is the only one of its place.
    "reference masking 0.3": {"condition.reference_masking": 0.3},
}

#: Part of the people of real clips that is held out.
HELD_OUT = 0.2
#: Samples of a run of the tiny recipe, half of what it asks for: ten runs fit into half an hour on
#: two quiet cores.
TINY_SAMPLES = 1600

#: Rows of tables by title, as `pipelines.evaluate.job` gives them.
Tables = Mapping[str, Any]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of data and runs")
    parser.add_argument("--videos", type=Path, help="real clips; left out, the demo's faces")
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument(
        "--samples",
        type=int,
        help=f"length of each run; {TINY_SAMPLES} for tiny, else the recipe's",
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--workers", default="2")
    parser.add_argument("--address")
    parser.add_argument("--steps", type=int, default=10, help="denoising steps")
    parser.add_argument("--face-model-dir", help="insightface pack, to measure identity")
    parser.add_argument("--lpips", help="folder of LPIPS weights")
    parser.add_argument("--smoke", action="store_true", help="prove that it works; write nothing")
    return parser.parse_args()


def main() -> int:
    """Run the study."""
    args = parse()
    if args.recipe == "tiny" and not args.smoke:
        args.samples = args.samples or TINY_SAMPLES
    if args.smoke:
        args.seeds, args.samples, args.steps = 1, args.samples or 64, 2
        args.variants = args.variants[:1]
    measure, data = prepare(args)
    results: dict[str, list[Tables]] = {name: [] for name in args.variants}
    for name in args.variants:
        for seed in range(args.seeds):
            run = f"{name.replace(' ', '-')}-seed{seed}"
            trained = train(
                settings(args, VARIANTS[name], seed),
                str(data),
                run,
                runs_dir=args.out / "runs",
                workers=args.workers,
                address=args.address,
                previews=False,
                on_progress=lambda at, run=run: print(
                    f"\r{run}: {at.samples_seen}/{at.samples}", end="", flush=True
                ),
            )
            print()
            if trained.stopped:
                # A model of half a run would be measured as if it were whole.
                print("stopped; the same command goes on from here", file=sys.stderr)
                return 130
            results[name].append(measure(trained.bundle))
    study = "learning_real" if args.videos else "learning"
    report = Report(
        study,
        {
            "recipe": args.recipe,
            "samples": settings(args, {}, 0).samples,
            "seeds": args.seeds,
            "steps": args.steps,
            "data": "real clips" if args.videos else "faces of known motion",
        },
    )
    summarise(results, report)
    if not args.smoke:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{study}_runs.json").write_text(json.dumps(results, indent=1))
        draw(args.out / "runs", args.variants, args.seeds, RESULTS / f"{study}.png")
    report.finish(smoke=args.smoke)
    # What comes out is a finding, whichever way it points; it fails no build.
    return 0


def prepare(args: argparse.Namespace) -> tuple[Callable[[Path], Tables], Path]:
    """Make the data set; return how a bundle is measured on it, and where it is."""
    options = EvaluateOptions(
        steps=args.steps,
        guidance=1.0,
        # The demo's driving videos begin at rest in frames of their own sizes; stored clips share
        # theirs.
        box="real" if args.videos else "relative",
        limit=2 if args.smoke else 8,
        frames=4 if args.smoke else 16,
        detector="insightface" if args.face_model_dir else "centerface",
        face_model_dir=args.face_model_dir,
        lpips=args.lpips,
    )
    shards = args.out / "dataset"
    if args.videos is None:
        clips = make_known_faces(args.out, few=args.smoke)
        return (lambda bundle: known_motion_tables(bundle, clips, options)), shards
    size = get_recipe(args.recipe).network.image_size
    base = PreprocessConfig()
    detect = base.detect
    if args.face_model_dir:
        detect = replace(detect, name="insightface", model_dir=args.face_model_dir)
    else:
        print("without --face-model-dir each source counts as a person of its own")
    kept = replace(
        base,
        detect=detect,
        tube=replace(base.tube, size=max(2 * size, 128)),
        shard=replace(base.shard, validation=HELD_OUT, test=0.0),
    )
    preprocess(args.videos, shards, kept, address=args.address)
    return (lambda bundle: evaluate(bundle, shards, options=options).tables), shards


def settings(args: argparse.Namespace, changes: Mapping[str, Any], seed: int) -> TrainConfig:
    """Return the recipe with an ablation and a seed."""
    recipe = override(get_recipe(args.recipe), {**changes, "seed": seed})
    return replace(recipe, samples=args.samples) if args.samples else recipe


def summarise(results: Mapping[str, list[Tables]], report: Report) -> None:
    """Add mean and spread over seeds of every number of every variant."""
    for variant, seeds in results.items():
        numbers: dict[str, list[float]] = {}
        for tables in seeds:
            for title, rows in tables.items():
                for row in rows:
                    for name, value in flatten(title, row):
                        numbers.setdefault(name, []).append(value)
        for name, values in numbers.items():
            spread = f"± {np.std(values, ddof=1):.3g} over {len(values)}" if len(values) > 1 else ""
            report.add(f"{variant}: {name}", float(np.mean(values)), "", note=spread)


def flatten(title: str, row: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the numbers of a row under telling names; of single pairs, only their mean."""
    if title == "cross-reenactment" and row.get("portrait") != "mean":
        return []
    label = row.get("method") or row.get("probe") or "mean"
    return [
        (f"{title}, {label}" if name == "value" else f"{title}, {label}, {name}", value)
        for name, value in row.items()
        if isinstance(value, float)
    ]


def draw(runs: Path, variants: list[str], seeds: int, path: Path) -> None:
    """Draw the losses of all runs, a colour a variant."""
    names = ("diffusion", "head_l1")
    figure, axes = plt.subplots(1, len(names), figsize=(11, 4))
    for number, variant in enumerate(variants):
        for seed in range(seeds):
            run = runs / f"{variant.replace(' ', '-')}-seed{seed}"
            records = [r for r in read_log(run) if "event" not in r]
            for axis, name in zip(axes, names, strict=True):
                points = [(r["samples_seen"], r[name]) for r in records if r.get(name) is not None]
                if points:
                    label = variant if seed == 0 else None
                    axis.plot(*zip(*points, strict=True), color=f"C{number}", lw=1, label=label)
    for axis, name in zip(axes, names, strict=True):
        axis.set(title=name, xlabel="samples", yscale="log")
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
