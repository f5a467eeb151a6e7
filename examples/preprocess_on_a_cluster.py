"""Preprocess videos on a Ray cluster; the same call again resumes.

    python examples/preprocess_on_a_cluster.py s3://my-videos s3://my-shards --address auto

Both places must be readable from all nodes: object stores, or a shared file system.
"""

import argparse

from pipelines.preprocess.job import preprocess
from preprocessing.config import PreprocessConfig
from xnemo.config import override

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("videos", help="folder, list file or fsspec URL of videos")
parser.add_argument("out", help="folder or fsspec URL of the data set")
parser.add_argument("--address", help="HOST:PORT or auto; default: this machine")
parser.add_argument("--concurrency", type=int, help="chunks in parallel; default: one per CPU")
parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
args = parser.parse_intermixed_args()

# Only large, roughly frontal faces.
config = override(PreprocessConfig(), ["filters.min_face_px=96", "filters.max_yaw=60"])
result = preprocess(
    args.videos,
    args.out,
    override(config, args.settings),
    address=args.address,
    concurrency=args.concurrency,
)
print(result.title)
for name, value in result.facts().items():
    print(f"{name}: {value}")
