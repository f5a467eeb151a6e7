"""Read shards with webdataset, with Ray Data, with PyTorch alone, or just the index with pandas.

python examples/read_shards.py shards webdataset|ray|torch|pandas
"""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def with_webdataset(root: Path) -> None:
    """Stream whole shards: plain tars with an mp4, an npz and a json per clip."""
    import webdataset

    shards = sorted(map(str, (root / "shards").glob("*.tar")))
    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        arrays = np.load(io.BytesIO(sample["npz"]))
        print(sample["__key__"], len(sample["mp4"]), "bytes,", len(arrays["pose"]), "frames")


def with_ray(root: Path) -> None:
    """Read shards as a Ray data set, one row per clip."""
    import ray

    shards = sorted(map(str, (root / "shards").glob("*.tar")))
    rows = ray.data.read_webdataset(shards)
    for row in rows.iter_rows():
        print(row["__key__"], len(row["mp4"]), "bytes")


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
            kept = [("status", "==", "kept")]
            self.rows = pq.read_table(root / "index.parquet", columns=columns, filters=kept)
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

    for batch in DataLoader(Clips(root), batch_size=1):
        print(tuple(batch.shape), batch.dtype)


def with_pandas(root: Path) -> None:
    """Select clips by the columns of the index, without reading a shard."""
    import pandas as pd

    index = pd.read_parquet(root / "index.parquet")
    kept = index[index.status == "kept"]
    print(kept.groupby("identity").duration_s.agg(["count", "sum"]))


def main(arguments: Iterator[str]) -> None:
    """Read the data set in one of the four ways."""
    root, way = Path(next(arguments)), next(arguments)
    ways = {
        "webdataset": with_webdataset,
        "ray": with_ray,
        "torch": with_torch,
        "pandas": with_pandas,
    }
    ways[way](root)


if __name__ == "__main__":
    main(iter(sys.argv[1:]))
