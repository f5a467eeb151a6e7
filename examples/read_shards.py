"""Read a data set with other people's readers: one function is one recipe.

python examples/read_shards.py DATASET webdataset|datasets|ray|torch|duckdb|pandas

Readers of whole shards (webdataset, datasets, Ray Data) give each worker tars of its own, so there
have to be as many shards as workers on all machines (`shard.min_count`). Shards hold clips of every
split; `split` of the `json` member or of the index tells which.
"""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def with_webdataset(root: Path) -> None:
    """Stream whole shards, on any number of machines (RANK, WORLD_SIZE) and workers."""
    import webdataset as wds
    from torch.utils.data import DataLoader

    shards = sorted(map(str, (root / "shards").glob("*.tar")))
    clips = (
        wds.WebDataset(shards, shardshuffle=len(shards), seed=0, nodesplitter=wds.split_by_node)
        .map_dict(json=json.loads, npz=lambda data: dict(np.load(io.BytesIO(data))))
        .select(lambda sample: sample["json"]["split"] == "train")
    )
    for sample in DataLoader(clips, batch_size=None, num_workers=2):
        print(sample["__key__"], len(sample["mp4"]), "bytes,", len(sample["npz"]["pose"]), "frames")


def with_datasets(root: Path) -> None:
    """Stream shards by Hugging Face datasets.

    Its guess of the features asks for torchcodec, and leaves out what the first clips lack.
    """
    from datasets import Features, Json, Value, Video, load_dataset

    features = Features(
        {
            "__key__": Value("string"),
            "__url__": Value("string"),
            "json": Json(),
            "mp4": Video(decode=False),
            "npz": Json(),
        }
    )
    clips = load_dataset(
        "webdataset",
        data_files=sorted(map(str, (root / "shards").glob("*.tar"))),
        features=features,
        split="train",  # all there is: this name has nothing to do with the clips' splits
        streaming=True,
    )
    for clip in clips.filter(lambda clip: clip["json"]["split"] == "train"):
        print(clip["__key__"], len(clip["mp4"]["bytes"]), "bytes,", len(clip["npz"]["pose"]))


def with_ray(root: Path) -> None:
    """Read shards as a Ray data set, one row per clip."""
    import ray

    shards = sorted(map(str, (root / "shards").glob("*.tar")))
    rows = ray.data.read_webdataset(shards).filter(lambda row: row["json"]["split"] == "train")
    for row in rows.iter_rows():
        print(row["__key__"], len(row["mp4"]), "bytes,", len(row["npz"]["pose"]), "frames")


def with_torch(root: Path) -> None:
    """Read single clips by the byte ranges of the index, which works on object stores as well."""
    import av
    import pyarrow.parquet as pq
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Clips(Dataset[torch.Tensor]):
        """The first frame of every kept clip, uint8 RGB (H, W, 3)."""

        def __init__(self, root: Path) -> None:
            columns = ["shard", "mp4_offset", "mp4_length"]
            train = [("status", "==", "kept"), ("split", "==", "train")]
            self.rows = pq.read_table(root / "index.parquet", columns=columns, filters=train)
            self.root = root

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, number: int) -> torch.Tensor:
            (row,) = self.rows.slice(number, 1).to_pylist()
            with (self.root / "shards" / row["shard"]).open("rb") as file:
                file.seek(row["mp4_offset"])
                video = av.open(io.BytesIO(file.read(row["mp4_length"])))
            with video:
                return torch.from_numpy(next(video.decode(video=0)).to_ndarray(format="rgb24"))

    for batch in DataLoader(Clips(root), batch_size=1, num_workers=2):
        print(tuple(batch.shape), batch.dtype)


def with_duckdb(root: Path) -> None:
    """Ask the index in SQL, without reading a shard."""
    import duckdb

    query = """
        SELECT identity, count(*), round(sum(duration_s), 1) FROM read_parquet(?)
        WHERE status = 'kept' AND abs(yaw) < 30 GROUP BY identity ORDER BY identity
    """
    for row in duckdb.execute(query, [str(root / "index.parquet")]).fetchall():
        print(*row)


def with_pandas(root: Path) -> None:
    """Select clips by the columns of the index, without reading a shard."""
    import pandas as pd

    index = pd.read_parquet(root / "index.parquet")
    kept = index[index.status == "kept"]
    print(kept.groupby("identity").duration_s.agg(["count", "sum"]))


def main(arguments: Iterator[str]) -> None:
    """Read the data set in one of these ways."""
    root, way = Path(next(arguments)), next(arguments)
    {
        "webdataset": with_webdataset,
        "datasets": with_datasets,
        "ray": with_ray,
        "torch": with_torch,
        "duckdb": with_duckdb,
        "pandas": with_pandas,
    }[way](root)


if __name__ == "__main__":
    main(iter(sys.argv[1:]))
