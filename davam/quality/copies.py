"""How much of a text was copied from the training text.

Legend: N rows, P positions of all rows together, M positions of the training text, L tokens compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydivsufsort import divsufsort

from davam.errors import DataError
from davam.quality.near import band_hashes
from davam.quality.text import Hashes, hash_texts, is_among

LONGEST = 64  # tokens; a longer run counts as this
BLOCK = 4096  # positions that are looked up together
TOGETHER = 1 << 16  # positions whose first tokens become numbers together
MOST_POSITIONS = 2**31 - 1  # what places of 32 bits can name
_BEYOND = -1  # no token: what follows the end of a row


@dataclass(frozen=True)
class CopyIndex:
    """The training text in searchable form; plain arrays, so that processes can share it.

    `token_M` holds the rows one after the other, each ended by a number that is no token, `suffix_M` its suffixes in
    lexical order, `prefix_M` the first tokens of each suffix as one number of that order, and the others the hashes of
    whole texts and of their bands, sorted.
    """

    token_M: NDArray[np.int32]
    suffix_M: NDArray[np.int32]
    prefix_M: NDArray[np.uint64]
    text_R: Hashes
    band_R: Hashes

    @classmethod
    def build(cls, rows: Sequence[Sequence[int]], texts: Sequence[str]) -> "CopyIndex":
        """The index of tokenized rows, without their end symbols, and of their texts. Raises DataError for more text
        than it can hold."""
        token_M = _joined(rows)
        if len(token_M) > MOST_POSITIONS:
            raise DataError(
                f"the training text has {len(token_M):,} tokens and ends of rows, and {MOST_POSITIONS:,} at most can "
                "be searched; train on a part of it, or generate with --training-text none"
            )
        # The library sorts numbers from 0 on.
        suffix_M = divsufsort(token_M + 1).astype(np.int32) if len(token_M) else np.zeros(0, np.int32)
        bits = _bits(token_M)
        blocks = [suffix_M[i : i + TOGETHER].astype(np.int64) for i in range(0, len(suffix_M), TOGETHER)]
        prefix_M = np.concatenate([np.zeros(0, np.uint64), *(_prefixes(token_M, start_P, bits) for start_P in blocks)])
        return cls(token_M, suffix_M, prefix_M, np.unique(hash_texts(texts)), np.unique(band_hashes(texts)))

    def is_copy(self, hash_N: Hashes) -> NDArray[np.bool_]:
        """Which texts are training texts as a whole, by their hashes."""
        return is_among(hash_N, self.text_R)

    def is_near_copy(self, band_NB: Hashes) -> NDArray[np.bool_]:
        """Which texts share a band with a training text."""
        return np.asarray(is_among(band_NB.ravel(), self.band_R).reshape(band_NB.shape).any(axis=1))

    def copied_tokens(self, rows: Sequence[Sequence[int]]) -> NDArray[np.int32]:
        """Length in tokens of the longest run that each row shares with one row of the training text, copied_N."""
        return self.longest_runs(rows)[0]

    def longest_runs(self, rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The length in tokens of the longest run that each row shares with a row of the training text, and the number
        of that row; the numbers of rows that share nothing mean nothing. copied_N, row_N."""
        token_P, length_N = _joined(rows), np.array([len(row) + 1 for row in rows])
        if not len(self.token_M) or not len(token_P):
            return np.zeros(len(rows), np.int32), np.zeros(len(rows), np.int64)
        width = min(LONGEST, int(length_N.max()))
        blocks = [np.arange(i, min(i + BLOCK, len(token_P))) for i in range(0, len(token_P), BLOCK)]
        found = [self._matches(token_P, start_P, width) for start_P in blocks]
        match_P, rank_P = (np.concatenate(parts) for parts in zip(*found, strict=True))
        # The first of the longest runs: the largest of (length, positions behind it) as one number.
        behind_P = np.arange(len(match_P))[::-1]
        key_N = np.maximum.reduceat(match_P * len(match_P) + behind_P, np.cumsum(length_N) - length_N)
        best_N = len(match_P) - 1 - key_N % len(match_P)
        row_N = np.searchsorted(np.flatnonzero(self.token_M == _BEYOND), self.suffix_M[rank_P[best_N]])
        return match_P[best_N].astype(np.int32), row_N

    def _matches(
        self, token_P: NDArray[np.int32], start_P: NDArray[np.int64], width: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many tokens from each position on, of at most so many, occur in the training text, and the rank of the
        suffix that begins with them; match_P, rank_P."""
        query_PL = _windows(token_P, start_P, width)
        # Binary search of all positions at once for the place of the query among the sorted suffixes: by the first
        # tokens, and then among the suffixes that share those.
        low_P, high_P = self._sharing(_prefixes(token_P, start_P, _bits(self.token_M)))
        while len(open_P := np.flatnonzero(low_P < high_P)):
            middle_P = (low_P[open_P] + high_P[open_P]) // 2
            after_P = self._is_after(query_PL[open_P], middle_P)
            low_P[open_P] = np.where(after_P, middle_P + 1, low_P[open_P])
            high_P[open_P] = np.where(after_P, high_P[open_P], middle_P)
        # The longest match is with one of the place's two neighbours.
        left_P, right_P = np.maximum(low_P - 1, 0), np.minimum(low_P, len(self.suffix_M) - 1)
        left_match_P, right_match_P = self._shared(query_PL, left_P), self._shared(query_PL, right_P)
        return np.maximum(left_match_P, right_match_P), np.where(left_match_P > right_match_P, left_P, right_P)

    def _sharing(self, prefix_P: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The ranks of the suffixes that begin with each prefix, low_P to high_P."""
        # In order, neighbours are looked up in the same part of memory.
        order_P = np.argsort(prefix_P)
        low_P, high_P = np.empty(len(prefix_P), np.int64), np.empty(len(prefix_P), np.int64)
        low_P[order_P] = np.searchsorted(self.prefix_M, prefix_P[order_P], "left")
        high_P[order_P] = np.searchsorted(self.prefix_M, prefix_P[order_P], "right")
        return low_P, high_P

    def _is_after(self, query_PL: NDArray[np.int32], rank_P: NDArray[np.int64]) -> NDArray[np.bool_]:
        suffix_PL = self._suffixes(rank_P, query_PL.shape[1])
        differs_PL = query_PL != suffix_PL
        first_P1 = differs_PL.argmax(axis=1)[:, None]
        larger_P1 = np.take_along_axis(query_PL, first_P1, 1) > np.take_along_axis(suffix_PL, first_P1, 1)
        return np.asarray(larger_P1[:, 0])

    def _shared(self, query_PL: NDArray[np.int32], rank_P: NDArray[np.int64]) -> NDArray[np.int64]:
        same_PL = (query_PL == self._suffixes(rank_P, query_PL.shape[1])) & (query_PL != _BEYOND)
        return np.asarray(same_PL.cumprod(axis=1).sum(axis=1))

    def _suffixes(self, rank_P: NDArray[np.int64], width: int) -> NDArray[np.int32]:
        last = len(self.suffix_M) - 1
        return _windows(self.token_M, self.suffix_M[np.minimum(rank_P, last)].astype(np.int64), width)


def _joined(rows: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    """All rows, one after the other, with the number that is no token after each."""
    if not rows:
        return np.zeros(0, np.int32)
    return np.concatenate([np.asarray([*row, _BEYOND], np.int32) for row in rows])


def _bits(token_M: NDArray[np.int32]) -> int:
    """How many bits a token of the training text takes, and one that does not occur in it."""
    return max(1, (int(token_M.max(initial=0)) + 2).bit_length())


def _prefixes(token_M: NDArray[np.int32], start_P: NDArray[np.int64], bits: int) -> NDArray[np.uint64]:
    """The first tokens from each start on as one number, in lexical order."""
    most = (1 << bits) - 1
    prefix_P = np.zeros(len(start_P), np.uint64)
    for token_P in _windows(token_M, start_P, 64 // bits).T:
        # Tokens that the training text does not have are all alike.
        prefix_P = (prefix_P << np.uint64(bits)) | np.minimum(token_P + 1, most).astype(np.uint64)
    return prefix_P


def _windows(token_M: NDArray[np.int32], start_P: NDArray[np.int64], width: int) -> NDArray[np.int32]:
    """So many tokens from each start on, window_PL; beyond the end, no tokens."""
    place_PL = start_P[:, None] + np.arange(width)
    inside_PL = np.minimum(place_PL, len(token_M) - 1)
    return np.where(place_PL < len(token_M), token_M[inside_PL], _BEYOND)
