"""Which rows repeat an earlier row: earlier by id, however the rows are computed.

A row that is dropped for another reason hides nothing. Of rows that share a band, the first stays; a later one is a
near-duplicate of it even where a row between them goes too.

Legend: N rows in the order of their ids, B bands.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from davam.quality.text import Hashes, is_among


def repeats(hash_NB: Hashes, earlier: Iterable[Hashes]) -> NDArray[np.bool_]:
    """Which rows have a hash that an earlier row has, or that is in one of the earlier sorted arrays."""
    flat = hash_NB.ravel()
    first = np.unique(flat, return_index=True)[1]
    repeated = np.ones(len(flat), bool)
    repeated[first] = False
    for sorted_M in earlier:
        repeated |= is_among(flat, sorted_M)
    return np.asarray(repeated.reshape(hash_NB.shape).any(axis=1))
