"""The bigram model of codes against counting by hand."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from davam.errors import DataError
from davam.evaluate.bigram import Bigram, fit_bigram, transitions

K = 4
ROWS = st.lists(st.lists(st.integers(0, K - 1), min_size=1, max_size=6), min_size=1, max_size=12)


def fitted(rows: list[list[int]], size: int = K) -> Bigram:
    return fit_bigram(*flat(rows), size)


def flat(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([code for row in rows for code in row], dtype=np.int64), np.array([len(row) for row in rows])


def by_hand(rows: list[list[int]], context: int, outcome: int, size: int = K) -> float:
    """Witten-Bell, from the definition: the context's share, and p(b) by the same rule over the uniform one."""
    pairs = [pair for row in rows for pair in itertools.pairwise([size, *row, size])]
    outcomes = Counter(b for _, b in pairs)
    share = (outcomes[outcome] + len(outcomes) / (size + 1)) / (len(pairs) + len(outcomes))
    after = Counter(b for a, b in pairs if a == context)
    if not after:
        return share
    return (after[outcome] + len(after) * share) / (after.total() + len(after))


@given(ROWS)
def test_probabilities_are_those_of_the_definition_and_sum_to_one_in_every_context(rows: list[list[int]]) -> None:
    bigram = fitted(rows)
    for context in range(K + 1):
        found = bigram.probability(np.full(K + 1, context), np.arange(K + 1))
        assert found == pytest.approx([by_hand(rows, context, outcome) for outcome in range(K + 1)])
        assert found.sum() == pytest.approx(1)
        assert found.min() > 0


@given(ROWS, ROWS)
def test_nats_of_a_row_are_those_of_its_steps_and_its_end(train: list[list[int]], valid: list[list[int]]) -> None:
    expected = [-sum(math.log(by_hand(train, a, b)) for a, b in itertools.pairwise([K, *row, K])) for row in valid]
    assert fitted(train).nats(*flat(valid)) == pytest.approx(expected)


def test_all_sequences_together_have_no_more_than_one() -> None:
    bigram = fitted([[0, 1], [1], [0]], 2)
    rows = [list(row) for length in range(1, 13) for row in itertools.product((0, 1), repeat=length)]
    total = float(np.exp(-bigram.nats(*flat(rows))).sum())
    ends_at_once = float(bigram.probability(np.array([2]), np.array([2]))[0])
    assert 0.9 < total + ends_at_once < 1


def test_what_always_follows_becomes_cheap_with_more_rows() -> None:
    few, many = (fitted([[0, 1, 2]] * count).nats(*flat([[0, 1, 2]]))[0] for count in (1, 1000))
    assert many < 0.03 < few


def test_the_beginning_and_the_end_are_no_code() -> None:
    context, outcome = transitions(*flat([[3, 1], [2]]), K)
    assert context.tolist() == [K, 3, 1, K, 2]
    assert outcome.tolist() == [3, 1, K, 2, K]


def test_codes_of_another_codebook_and_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"^codes run from 0 to 4, outside a codebook of 4; codes and model do not"):
        fitted([[0, 4]])
    with pytest.raises(DataError, match=r"^a bigram model needs rows of codes to count; there are none$"):
        fitted([])
