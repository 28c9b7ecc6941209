"""A smoothed bigram model of code sequences: a prior that counting alone gives.

Its probabilities are positive and sum to 1 in every context, so that Rec plus its nats is a valid bound, as with any
prior. All counts are of the rows that it was fitted on.

Legend: B rows, N codes of all rows in one flat row, M = N + B outcomes (the codes and each row's end), K codes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from davam.errors import DataError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bigram:
    """p(b|a) = (n(a, b) + t(a) p(b)) / (n(a) + t(a)), where t(a) counts the different successors of a (Witten and
    Bell, 1991), and p(b) is smoothed the same way towards the uniform distribution.

    Symbol K stands for the end where it is an outcome b, and for the beginning where it is a context a.
    """

    codebook_size: int
    pair_P: Ints  # a (K + 1) + b of every pair that occurs, ascending
    pair_count_P: Ints
    count_A: Ints  # n(a)
    successors_A: Ints  # t(a)
    share_K1: Floats  # p(b)

    def nats(self, codes_N: Ints, length_B: Ints) -> Floats:
        """-ln p(codes, end) of each row, nats_B. Raises DataError for codes outside the codebook."""
        context_M, outcome_M = transitions(codes_N, length_B, self.codebook_size)
        nats_M = -np.log(self.probability(context_M, outcome_M))
        first_B = np.cumsum(length_B + 1) - (length_B + 1)
        return np.asarray(np.add.reduceat(nats_M, first_B) if len(length_B) else nats_M, dtype=np.float64)

    def probability(self, context_M: Ints, outcome_M: Ints) -> Floats:
        """p(outcome|context) of each pair."""
        pair_M = context_M * (self.codebook_size + 1) + outcome_M
        place_M = np.minimum(np.searchsorted(self.pair_P, pair_M), len(self.pair_P) - 1)
        seen_M = np.where(self.pair_P[place_M] == pair_M, self.pair_count_P[place_M], 0)
        successors_M, share_M = self.successors_A[context_M], self.share_K1[outcome_M]
        # A context that never occurs has no successors either, and nothing but p(b) to go by.
        weight_M = np.maximum(successors_M, 1)
        return np.asarray((seen_M + weight_M * share_M) / (self.count_A[context_M] + weight_M), dtype=np.float64)


def fit_bigram(codes_N: Ints, length_B: Ints, codebook_size: int) -> Bigram:
    """The model of these rows. Raises DataError without rows, or for codes outside the codebook."""
    if not len(length_B):
        raise DataError("a bigram model needs rows of codes to count; there are none")
    symbols = codebook_size + 1
    context_M, outcome_M = transitions(codes_N, length_B, codebook_size)
    pair_P, pair_count_P = np.unique(context_M * symbols + outcome_M, return_counts=True)
    count_K1 = np.bincount(outcome_M, minlength=symbols)
    different = np.count_nonzero(count_K1)
    return Bigram(
        codebook_size,
        pair_P,
        pair_count_P.astype(np.int64),
        np.bincount(context_M, minlength=symbols),
        np.bincount(pair_P // symbols, minlength=symbols),
        (count_K1 + different / symbols) / (len(outcome_M) + different),
    )


def transitions(codes_N: Ints, length_B: Ints, codebook_size: int) -> tuple[Ints, Ints]:
    """Every symbol after the beginning with the one before it, context_M and outcome_M.

    Raises DataError for codes outside the codebook.
    """
    codes_N, length_B = np.asarray(codes_N, dtype=np.int64), np.asarray(length_B, dtype=np.int64)
    if len(codes_N) and not (codes_N.min() >= 0 and codes_N.max() < codebook_size):
        raise DataError(
            f"codes run from {codes_N.min()} to {codes_N.max()}, outside a codebook of {codebook_size}; codes and "
            "model do not belong together"
        )
    end_B = np.cumsum(length_B)
    return np.insert(codes_N, end_B - length_B, codebook_size), np.insert(codes_N, end_B, codebook_size)
