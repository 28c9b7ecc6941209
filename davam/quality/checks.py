"""The checks that generated rows go through, and which of them a corpus drops.

Every check gives its rows a flag of its name; a row with a flag that `drop` names is left out, and counted under the
first such flag in the order below. A new check is a function and a line in `CHECKS`.

Legend: N rows, B bands.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from davam.config import Frozen
from davam.quality.copies import LONGEST, CopyIndex
from davam.quality.personal import has_personal_data
from davam.quality.text import Hashes

Flag = Literal[
    "truncated",
    "too_short",
    "too_long",
    "unknown_words",
    "repetitive",
    "unlikely",
    "personal_data",
    "copy",
    "copied_run",
    "near_copy",
    "duplicate",
    "near_duplicate",
]
FLAGS: tuple[str, ...] = get_args(Flag)
#: flags that compare a row with the training text
COPY_FLAGS = ("copy", "copied_run", "near_copy")
#: flags that compare a row with those before it
ACROSS_ROWS = ("duplicate", "near_duplicate")

Mask = NDArray[np.bool_]


class Filters(Frozen):
    """Which flags cost a row its place, and the thresholds of the checks."""

    drop: tuple[Flag, ...] = Field((), description="rows with one of these flags are left out")
    min_tokens: int = Field(1, ge=0, description="fewer are `too_short`")
    max_tokens: int | None = Field(None, ge=1, description="more are `too_long`; none: never")
    max_unknown_share: float = Field(0.0, ge=0, le=1, description="a larger share of <unk> is `unknown_words`")
    max_repeated_share: float = Field(
        0.3, ge=0, le=1, description="a larger share of word pairs that came before in the text is `repetitive`"
    )
    max_copied_tokens: int = Field(
        8, ge=1, lt=LONGEST, description="a longer run of tokens from one training text is a `copied_run`"
    )
    unlikely_share: float = Field(
        0.05, ge=0, lt=1, description="the rows that cost the model most nats a token are `unlikely`"
    )


@dataclass(frozen=True)
class Columns:
    """What the checks read of the rows: words without the end, nats of prior and decoder together, hashes, and the
    longest run that was copied. Without a training text, no index."""

    texts: Sequence[str]
    words: Sequence[Sequence[int]]
    nats_N: NDArray[np.float64]
    truncated_N: Mask
    hash_N: Hashes
    band_NB: Hashes
    copied_N: NDArray[np.int32]
    index: CopyIndex | None
    unknown_id: int
    most_nats_per_token: float


def flag_rows(columns: Columns, filters: Filters) -> dict[str, Mask]:
    """Which rows have which flag, by the checks that look at a row alone; flag -> mask_N."""
    return {name: check(columns, filters) for name, check in CHECKS.items()}


def nats_per_token(nats_N: NDArray[np.float64], words: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Nats of each row per token, its end included."""
    return np.asarray(nats_N / (_lengths(words) + 1))


def repeated_share(words: Sequence[int]) -> float:
    """The share of a text's word pairs that occurred before in it."""
    pairs = list(itertools.pairwise(words))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def _lengths(words: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.array([len(row) for row in words], np.int64)


def _each(values: Sequence[object], test: Callable[..., bool]) -> Mask:
    return np.fromiter((test(value) for value in values), bool, len(values))


def _unknown_words(columns: Columns, filters: Filters) -> Mask:
    unknown_N = np.array([sum(word == columns.unknown_id for word in row) for row in columns.words])
    return np.asarray(unknown_N > filters.max_unknown_share * _lengths(columns.words))


def _too_long(columns: Columns, filters: Filters) -> Mask:
    most = np.inf if filters.max_tokens is None else filters.max_tokens
    return np.asarray(_lengths(columns.words) > most)


def _copy(columns: Columns, filters: Filters) -> Mask:
    return columns.index.is_copy(columns.hash_N) if columns.index else np.zeros(len(columns.texts), bool)


def _near_copy(columns: Columns, filters: Filters) -> Mask:
    return columns.index.is_near_copy(columns.band_NB) if columns.index else np.zeros(len(columns.texts), bool)


CHECKS: dict[str, Callable[[Columns, Filters], Mask]] = {
    "truncated": lambda columns, filters: columns.truncated_N,
    "too_short": lambda columns, filters: np.asarray(_lengths(columns.words) < filters.min_tokens),
    "too_long": _too_long,
    "unknown_words": _unknown_words,
    "repetitive": lambda columns, filters: _each(
        columns.words, lambda row: repeated_share(row) > filters.max_repeated_share
    ),
    "unlikely": lambda columns, filters: np.asarray(
        nats_per_token(columns.nats_N, columns.words) > columns.most_nats_per_token
    ),
    "personal_data": lambda columns, filters: _each(columns.texts, has_personal_data),
    "copy": _copy,
    "copied_run": lambda columns, filters: np.asarray(columns.copied_N > filters.max_copied_tokens),
    "near_copy": _near_copy,
}
