"""Fine-tune a trained model on the clips of one person.

    python examples/finetune_one_person.py runs/first/bundle shards --identity ID

`xnemo inspect shards` and the column `identity` of index.parquet list the identities.
"""

import argparse

from pipelines.train.job import train
from xnemo.config import override
from xnemo.recipes import get_recipe

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("bundle", help="model to start from")
parser.add_argument("data", help="folder or URL that `xnemo preprocess` wrote")
parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
parser.add_argument("--identity", required=True)
parser.add_argument("--run", default="one-person")
parser.add_argument("--runs-dir", default="runs")
parser.add_argument("--recipe", default="finetune")
args = parser.parse_intermixed_args()

config = override(
    get_recipe(args.recipe),
    {
        "init_from": args.bundle,
        # An expression over the columns of index.parquet; no shard is rewritten.
        "data.filter": f"split == 'train' and identity == {args.identity!r}",
    },
)
config = override(config, args.settings)
result = train(config, args.data, args.run, runs_dir=args.runs_dir)
print(f"{result.samples_seen:,} samples: {result.bundle}")
