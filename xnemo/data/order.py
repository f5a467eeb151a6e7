"""Which clip is sample number n of a run: a pure function, whatever the mixture and the balance."""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from xnemo.data.seeding import sample_rng, stream_seed

# Samples are dealt to the data sets in blocks of this many tickets, so a weight is exact to 1/1024.
_BLOCK = 1024

# Permutations kept: each data set's and identity's current lap; a generous bound on memory.
_KEPT = 4096


class SampleOrder:
    """The endless sequence of clips of a run.

    Every data set is walked in seeded permutations of its clips (or of its identities, each visit
    taking that identity's next clip), so no clip comes a second time before all have come once. The
    data sets are interleaved in seeded blocks by weight. Nothing is remembered between calls:
    `at(n)` for any n costs the same, which makes the position of a run a single integer.
    """

    def __init__(
        self,
        groups: Sequence[np.ndarray],
        *,
        seed: int,
        weights: Sequence[float] = (),
        balance: str = "clip",
    ) -> None:
        """Take one array of identity labels per data set, a label for each of its clips.

        `weights` are relative shares of the samples (empty: in proportion to the number of clips).
        `balance` is "clip" or "identity".
        """
        self.seed = seed
        self.sizes = [len(labels) for labels in groups]
        self.offsets = np.cumsum([0, *self.sizes])
        shares = np.asarray(weights if len(weights) else self.sizes, dtype=float)
        self._tickets = _deal(shares / shares.sum())
        self._by_identity: list[list[np.ndarray]] | None = None
        if balance == "identity":
            self._by_identity = [
                [np.flatnonzero(labels == label) for label in sorted(set(labels.tolist()))]
                for labels in groups
            ]
        self._permutations: OrderedDict[tuple[int, ...], np.ndarray] = OrderedDict()

    def at(self, n: int) -> int:
        """Return the row (counted over all data sets, in order) that is sample `n`."""
        dataset, visit = self._dataset(n)
        if self._by_identity is None:
            epoch, place = divmod(visit, self.sizes[dataset])
            local = self._permutation((1, dataset, epoch), self.sizes[dataset])[place]
        else:
            people = self._by_identity[dataset]
            epoch, place = divmod(visit, len(people))
            person = int(self._permutation((2, dataset, epoch), len(people))[place])
            clips = people[person]
            lap, turn = divmod(epoch, len(clips))
            local = clips[self._permutation((3, dataset, person, lap), len(clips))[turn]]
        return int(self.offsets[dataset] + local)

    def substitute(self, n: int, attempt: int) -> int:
        """Return another row for sample `n` where its own cannot be read (attempt 1, 2, ...)."""
        rng = sample_rng(stream_seed(self.seed, n, "order"), attempt, "order")
        return int(rng.integers(self.offsets[-1]))

    def _dataset(self, n: int) -> tuple[int, int]:
        """Return the data set of sample `n` and how many samples came from it before."""
        if len(self.sizes) == 1:
            return 0, n
        block, place = divmod(n, _BLOCK)
        owners = np.repeat(np.arange(len(self.sizes)), self._tickets)
        owners = owners[self._permutation((0, block), _BLOCK)]
        dataset = int(owners[place])
        before = int(np.count_nonzero(owners[:place] == dataset))
        return dataset, block * int(self._tickets[dataset]) + before

    def _permutation(self, key: tuple[int, ...], size: int) -> np.ndarray:
        known = self._permutations.get(key)
        if known is not None:
            # Loader threads share this; another may have dropped it meanwhile.
            with suppress(KeyError):
                self._permutations.move_to_end(key)
            return known
        position = stream_seed(self.seed, int("".join(f"{k:012d}" for k in key)), "order")
        order = sample_rng(self.seed, position, "order").permutation(size)
        self._permutations[key] = order
        if len(self._permutations) > _KEPT:
            with suppress(KeyError):
                self._permutations.popitem(last=False)
        return order


def _deal(shares: np.ndarray) -> np.ndarray:
    """Split one block of tickets by share: largest remainder, at least one ticket each."""
    exact = shares * _BLOCK
    tickets = np.maximum(np.floor(exact), shares > 0).astype(int)
    while tickets.sum() < _BLOCK:
        tickets[np.argmax(exact - tickets)] += 1
    while tickets.sum() > _BLOCK:
        tickets[np.argmax(np.where(tickets > 1, tickets - exact, -np.inf))] -= 1
    return tickets
