"""Train the `small` recipe on one GPU; the same call again resumes.

python examples/train_one_gpu.py shards --run first
"""

import argparse

from pipelines.train.job import train
from xnemo.config import override
from xnemo.recipes import get_recipe

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("data", help="folder or URL that `xnemo preprocess` wrote")
parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
parser.add_argument("--run", default="one-gpu")
parser.add_argument("--runs-dir", default="runs")
parser.add_argument("--recipe", default="small")
args = parser.parse_intermixed_args()

# A recipe is a frozen dataclass; `override` checks names and types.
config = override(get_recipe(args.recipe), args.settings)
result = train(
    config,
    args.data,
    args.run,
    runs_dir=args.runs_dir,
    on_progress=lambda at: print(f"{at.samples_seen:,} of {at.samples:,} samples", at.message),
)
print(f"{result.samples_seen:,} samples, loss {result.metrics['loss']:.4g}: {result.bundle}")
