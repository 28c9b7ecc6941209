"""Every row exactly once, the same global batches for any number of workers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from davam.data.batches import plan_epoch, plan_in_order, take_slice
from tests.small import random_rows


@given(rows=st.integers(1, 200), batch_rows=st.integers(1, 40), world=st.sampled_from([1, 2, 3, 5, 8, 40]))
def test_every_row_exactly_once(rows: int, batch_rows: int, world: int) -> None:
    corpus = random_rows(rows)
    for plan in (plan_epoch(corpus.lengths, 7, 2, batch_rows), plan_in_order(corpus.lengths, batch_rows)):
        seen: list[int] = []
        for batch in plan:
            slices = [take_slice(corpus, batch, rank, world) for rank in range(world)]
            assert len({len(part.ids) for part in slices}) == 1  # equal steps and shapes on all workers
            seen += [i for part in slices for i, w in zip(part.ids, part.weight_B.tolist(), strict=True) if w == 1]
        assert sorted(seen) == list(range(rows))


def test_the_plan_is_a_function_of_seed_and_epoch() -> None:
    lengths = random_rows(100).lengths
    plans = [np.concatenate(plan_epoch(lengths, seed, epoch, 8)) for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0))]
    assert np.array_equal(plans[0], plans[1])
    assert not np.array_equal(plans[0], plans[2])
    assert not np.array_equal(plans[0], plans[3])


def test_little_is_padded() -> None:
    rows = random_rows(5000)
    padded = sum(take_slice(rows, batch).tokens_BS.numel() for batch in plan_epoch(rows.lengths, 0, 0, 32))
    assert padded / rows.lengths.sum() < 1.1


@pytest.mark.parametrize("world", [1, 3])
def test_a_slice_holds_the_rows_it_names(world: int) -> None:
    rows = random_rows(10)
    batch = plan_in_order(rows.lengths, 10)[0]
    for rank in range(world):
        part = take_slice(rows, batch, rank, world)
        for row, index in enumerate(part.index_B):
            length = int(part.length_B[row])
            assert (
                part.tokens_BS[row, :length].tolist() == rows.flat[rows.start[index] : rows.start[index + 1]].tolist()
            )
            assert part.tokens_BS[row, length:].sum() == 0
