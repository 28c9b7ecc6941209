"""Which rows repeat an earlier row: earlier by id, however the rows are computed.

A row that is dropped for another reason hides nothing. Of rows that share a band, the first stays; a later one is a
near-duplicate of it even where a row between them goes too.

Legend: N rows in the order of their ids, B bands.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from davam.quality.text import Hashes, is_among

MOST_TOGETHER = 1 << 27  # hashes of one array, a gigabyte: two are in memory while they become one


@dataclass
class Earlier:
    """The hashes of the rows before `stop`, in few sorted arrays: a look-up goes through all of them."""

    stop: int = 0
    sorted_M: list[Hashes] = field(default_factory=list)

    def add(self, hash_M: Hashes, stop: int) -> None:
        """Takes in the hashes of the rows up to `stop`. Arrays of about the same length become one, so that each hash
        is sorted again as often as the logarithm of their number says, and looked up in as many arrays."""
        self.sorted_M.append(np.sort(hash_M))
        self.stop = stop
        while len(self.sorted_M) > 1 and self._last_two_are_alike():
            last_M = self.sorted_M.pop()
            self.sorted_M[-1] = np.concatenate([self.sorted_M[-1], last_M])
            self.sorted_M[-1].sort()

    def _last_two_are_alike(self) -> bool:
        longer, shorter = map(len, self.sorted_M[-2:])
        return longer < 2 * shorter and longer + shorter <= MOST_TOGETHER


def repeats(hash_NB: Hashes, earlier: Iterable[Hashes]) -> NDArray[np.bool_]:
    """Which rows have a hash that an earlier row has, or that is in one of the earlier sorted arrays."""
    flat = hash_NB.ravel()
    first = np.unique(flat, return_index=True)[1]
    repeated = np.ones(len(flat), bool)
    repeated[first] = False
    for sorted_M in earlier:
        repeated |= is_among(flat, sorted_M)
    return np.asarray(repeated.reshape(hash_NB.shape).any(axis=1))
