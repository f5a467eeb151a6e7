"""The clips of a run, selected from the indexes of its data sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from preprocessing.errors import UserError
from preprocessing.storage.index import index_digest, read_index
from xnemo.data.selection import select


@dataclass(frozen=True)
class ClipTable:
    """Selected clips of one or several data sets.

    Attributes:
        roots: folder or URL of each data set.
        rows: one row per clip with the index's columns and `root`, sorted by data set and key.
        sizes: number of clips of each data set.
        digest: hash of the indexes, recorded in bundles.
    """

    roots: tuple[str, ...]
    rows: pd.DataFrame
    sizes: tuple[int, ...]
    digest: str

    def identities(self) -> list[NDArray[np.str_]]:
        """Return the identity of every clip, one array per data set.

        A clip without identity counts as an identity of its own.
        """
        known = self.rows["identity"].fillna("")
        labels = known.where(known != "", "clip " + self.rows["key"]).astype(str).to_numpy()
        return np.split(labels, np.cumsum(self.sizes)[:-1])


def open_clips(roots: Sequence[str], expression: str, *, min_frames: int = 2) -> ClipTable:
    """Select the kept clips of data sets by a filter expression.

    Args:
        roots: folder or URL of each data set.
        expression: see `xnemo.data.selection`.
        min_frames: shorter clips are left out.

    Raises:
        UserError: no data set is given, or one is missing or has no selected clip.
    """
    if not roots:
        raise UserError("no data set is given", "pass at least one output folder of preprocess")
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
                f"no clip of {root} is selected: {len(kept)} kept, {len(chosen)} after the filter "
                f"{expression!r}, 0 with at least {min_frames} frames",
                "widen that filter or preprocess more videos",
            )
        tables.append(long_enough.sort_values("key", kind="stable").assign(root=root))
    return ClipTable(
        roots=tuple(map(str, roots)),
        rows=pd.concat(tables, ignore_index=True),
        sizes=tuple(len(table) for table in tables),
        digest=digest.hexdigest(),
    )
