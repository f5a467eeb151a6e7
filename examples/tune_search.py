"""Search the settings of a recipe with Ray Tune; poor trials stop early (ASHA).

python examples/tune_search.py shards --trials 8
"""

import argparse
from pathlib import Path

from pipelines.tune.job import tune
from xnemo.config import override
from xnemo.recipes import get_recipe

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("data", help="folder or URL that `xnemo preprocess` wrote")
parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
parser.add_argument("--space", type=Path, default=Path(__file__).with_name("space.yaml"))
parser.add_argument("--trials", type=int, default=8)
parser.add_argument("--concurrent", type=int, help="trials in parallel; default: as many as fit")
parser.add_argument("--run", default="search")
parser.add_argument("--runs-dir", default="runs")
args = parser.parse_intermixed_args()

result = tune(
    override(get_recipe("tiny"), args.settings),
    args.space,
    args.data,
    args.run,
    runs_dir=args.runs_dir,
    trials=args.trials,
    concurrent=args.concurrent,
)
for trial in result.trials:
    print(trial.name, trial.state, result.metric, trial.value, trial.settings)
