"""The clips of a run: the selected rows of one or several indexes."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pandas as pd

from preprocessing.errors import UserError
from preprocessing.storage.index import index_digest, read_index
from xnemo.data.selection import select


@dataclass(frozen=True)
class ClipTable:
    """Selected clips of several data sets, one after the other.

    Attributes:
        roots: folder or URL of each data set.
        rows: one row per clip with the index's columns and `root`, in the order of data sets and
        keys.
        sizes: number of clips of each data set.
        digest: identifies the indexes; a bundle records it.
    """

    roots: tuple[str, ...]
    rows: pd.DataFrame
    sizes: tuple[int, ...]
    digest: str

    def identities(self) -> list[np.ndarray]:
        """Return the identity label of every clip, an array per data set.

        A clip of nobody known counts as a person of its own.
        """
        known = self.rows["identity"].fillna("")
        labels = known.where(known != "", "clip " + self.rows["key"]).astype(str).to_numpy()
        return np.split(labels, np.cumsum(self.sizes)[:-1])


def open_clips(roots: Sequence[str], expression: str, *, min_frames: int = 2) -> ClipTable:
    """Select the kept clips of `roots` by a filter expression.

    Clips shorter than `min_frames` are left out.

    Raises:
        UserError: no data set is given, one is missing, or nothing is left of one after the filter.
    """
    if not roots:
        raise UserError("no data set is given", "name at least one folder that preprocess wrote")
    tables = []
    digest = blake2b(digest_size=16)
    for root in map(str, roots):
        index = read_index(root)
        digest.update(index_digest(root).encode())
        kept = index[index["status"] == "kept"]
        chosen = select(kept, expression)
        long_enough = chosen[chosen["frames"] >= min_frames]
        if long_enough.empty:
            raise UserError(
                f"no clip of {root} is left: {len(kept)} kept, {len(chosen)} after the filter "
                f"{expression!r}, 0 with at least {min_frames} frames",
                "widen data.filter or preprocess more videos",
            )
        tables.append(long_enough.sort_values("key", kind="stable").assign(root=root))
    return ClipTable(
        roots=tuple(map(str, roots)),
        rows=pd.concat(tables, ignore_index=True),
        sizes=tuple(len(table) for table in tables),
        digest=digest.hexdigest(),
    )
