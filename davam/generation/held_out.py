"""How much text repeats the training text; of real text that the model has not seen, what copying is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from davam.quality.checks import Filters
from davam.quality.copies import CopyIndex
from davam.quality.near import band_hashes
from davam.quality.text import hash_texts


@dataclass(frozen=True)
class CopyRates:
    """Shares of rows that are training texts as a whole, nearly, or for a run longer than `max_copied_tokens`; and the
    mean length in tokens of the longest run that a row shares with a training text."""

    rows: int
    copy: float
    near_copy: float
    copied_run: float
    copied_tokens_mean: float


def copy_rates_of(index: CopyIndex, rows: Sequence[Sequence[int]], texts: Sequence[str], filters: Filters) -> CopyRates:
    """The rates of rows, tokenized without their ends."""
    copied_N = index.copied_tokens(rows)
    return CopyRates(
        len(rows),
        float(np.mean(index.is_copy(hash_texts(texts)))),
        float(np.mean(index.is_near_copy(band_hashes(texts)))),
        float(np.mean(copied_N > filters.max_copied_tokens)),
        float(np.mean(copied_N)),
    )
