"""Order of samples: which clip is sample n of a run, as a pure function of (seed, n)."""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from xnemo.data.seeding import sample_rng, stream_seed

# Data sets are interleaved in blocks of this many samples, so weights are exact to 1/1024.
_BLOCK = 1024

# Most permutations to cache: the current epoch of each data set and identity.
_CACHED = 4096


class SampleOrder:
    """The infinite sequence of clips of a run.

    Each epoch of a data set is a seeded permutation of its clips, or of its identities, where each
    visit takes the identity's next clip. Data sets are interleaved by weight in seeded blocks.
    There is no state: `at(n)` costs the same for any n, so the position of a run is one integer.
    """

    def __init__(
        self,
        groups: Sequence[NDArray[np.str_]],
        *,
        seed: int,
        weights: Sequence[float] = (),
        balance: Literal["clip", "identity"] = "clip",
    ) -> None:
        """Prepare the order.

        Args:
            groups: one array per data set with the identity of each of its clips.
            seed: the run's seed.
            weights: relative shares of samples; empty is in proportion to the number of clips.
            balance: "clip" or "identity".
        """
        self.seed = seed
        self.sizes = [len(labels) for labels in groups]
        self.offsets = np.cumsum([0, *self.sizes])
        shares = np.asarray(weights if len(weights) else self.sizes, dtype=float)
        self._counts = _allocate(shares / shares.sum())
        self._by_identity: list[list[NDArray[np.int_]]] | None = None
        if balance == "identity":
            self._by_identity = [
                [np.flatnonzero(labels == label) for label in sorted(set(labels.tolist()))]
                for labels in groups
            ]
        self._permutations: OrderedDict[tuple[int, ...], NDArray[np.int_]] = OrderedDict()

    def at(self, n: int) -> int:
        """Return the row of sample `n`, counted over all data sets."""
        dataset, visit = self._dataset(n)
        if self._by_identity is None:
            epoch, position = divmod(visit, self.sizes[dataset])
            local = self._permutation((1, dataset, epoch), self.sizes[dataset])[position]
        else:
            identities = self._by_identity[dataset]
            epoch, position = divmod(visit, len(identities))
            identity = int(self._permutation((2, dataset, epoch), len(identities))[position])
            clips = identities[identity]
            cycle, number = divmod(epoch, len(clips))
            local = clips[self._permutation((3, dataset, identity, cycle), len(clips))[number]]
        return int(self.offsets[dataset] + local)

    def substitute(self, n: int, attempt: int) -> int:
        """Return another row for sample `n` whose own cannot be read (attempt 1, 2, ...)."""
        rng = sample_rng(stream_seed(self.seed, n, "order"), attempt, "order")
        return int(rng.integers(self.offsets[-1]))

    def _dataset(self, n: int) -> tuple[int, int]:
        """Return the data set of sample `n`, and the number of earlier samples from it."""
        if len(self.sizes) == 1:
            return 0, n
        block, position = divmod(n, _BLOCK)
        owners = np.repeat(np.arange(len(self.sizes)), self._counts)
        owners = owners[self._permutation((0, block), _BLOCK)]
        dataset = int(owners[position])
        before = int(np.count_nonzero(owners[:position] == dataset))
        return dataset, block * int(self._counts[dataset]) + before

    def _permutation(self, key: tuple[int, ...], size: int) -> NDArray[np.int_]:
        cached = self._permutations.get(key)
        if cached is not None:
            # Another loader thread may have dropped it.
            with suppress(KeyError):
                self._permutations.move_to_end(key)
            return cached
        position = stream_seed(self.seed, int("".join(f"{k:012d}" for k in key)), "order")
        order = sample_rng(self.seed, position, "order").permutation(size)
        self._permutations[key] = order
        if len(self._permutations) > _CACHED:
            with suppress(KeyError):
                self._permutations.popitem(last=False)
        return order


def _allocate(shares: NDArray[np.float64]) -> NDArray[np.int_]:
    """Split a block of samples by share: largest remainder, at least one sample each."""
    exact = shares * _BLOCK
    counts = np.maximum(np.floor(exact), shares > 0).astype(int)
    while counts.sum() < _BLOCK:
        counts[np.argmax(exact - counts)] += 1
    while counts.sum() > _BLOCK:
        counts[np.argmax(np.where(counts > 1, counts - exact, -np.inf))] -= 1
    return counts
