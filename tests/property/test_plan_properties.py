"""The plan of an epoch for any lengths, and what the workers get of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from davam.data.batches import WINDOW_BATCHES, Rows, plan_epoch, plan_in_order, take_slice

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=120)
WORLDS = st.sampled_from([1, 2, 3, 5, 8, 40])


def rows_of(lengths: list[int]) -> Rows:
    """Rows whose symbols all differ, with ids that are neither dense nor in order."""
    first = np.cumsum([1, *lengths])
    rows = [list(range(start, start + length)) for start, length in zip(first, lengths, strict=False)]
    return Rows.from_lists([(7 * i + 3) % 997 for i in range(len(lengths))], rows)


@given(LENGTHS, st.integers(1, 40), WORLDS, st.integers(0, 3))
def test_workers_share_the_global_batch(lengths: list[int], batch_rows: int, world: int, epoch: int) -> None:
    """Dealing the workers' rows out in turn gives the global batch, and only fillers have no weight."""
    rows = rows_of(lengths)
    for batch in plan_epoch(rows.lengths, 5, epoch, batch_rows):
        slices = [take_slice(rows, batch, rank, world) for rank in range(world)]
        assert len({len(part.ids) for part in slices}) == 1
        dealt = np.stack([part.index_B for part in slices], axis=1).ravel()
        weight = np.stack([part.weight_B.numpy() for part in slices], axis=1).ravel()
        assert dealt[: len(batch)].tolist() == batch.tolist()
        assert weight.tolist() == [1.0] * len(batch) + [0.0] * (len(dealt) - len(batch))
        assert len(dealt) - len(batch) < world


@given(LENGTHS, st.integers(1, 40))
def test_batches_are_full_but_for_one_in_each_window(lengths: list[int], batch_rows: int) -> None:
    rows = rows_of(lengths)
    for plan in (plan_epoch(rows.lengths, 0, 0, batch_rows), plan_in_order(rows.lengths, batch_rows)):
        assert sorted(np.concatenate(plan).tolist()) == list(range(len(rows)))
        assert len(plan) == -(-len(rows) // batch_rows)
        assert sum(len(batch) < batch_rows for batch in plan) <= 1


@given(LENGTHS, st.integers(1, 40))
def test_padding_is_bounded(lengths: list[int], batch_rows: int) -> None:
    """Sorted batches telescope: the ranges of their lengths sum to no more than the whole range of a window."""
    rows = rows_of(lengths)
    plan = plan_epoch(rows.lengths, 1, 0, batch_rows)
    padded = sum(len(batch) * int(rows.lengths[batch].max()) - int(rows.lengths[batch].sum()) for batch in plan)
    windows = -(-len(rows) // (WINDOW_BATCHES * batch_rows))
    assert padded <= windows * batch_rows * (max(lengths) - min(lengths))


@given(LENGTHS, st.integers(1, 40), WORLDS)
def test_a_slice_holds_its_rows_padded_with_zeros(lengths: list[int], batch_rows: int, world: int) -> None:
    rows = rows_of(lengths)
    flat = rows.flat.tolist()
    for batch in plan_in_order(rows.lengths, batch_rows):
        part = take_slice(rows, batch, world - 1, world)
        for tokens, length, index, row_id in zip(
            part.tokens_BS.tolist(), part.length_B.tolist(), part.index_B, part.ids, strict=True
        ):
            wanted = flat[rows.start[index] : rows.start[index + 1]]
            assert tokens == wanted + [0] * (len(tokens) - length)
            assert row_id == rows.ids[index]
        assert part.tokens_BS.shape[1] == int(part.length_B.max())


@given(LENGTHS, st.randoms(use_true_random=False))
def test_the_order_in_which_rows_arrive_does_not_matter(lengths: list[int], random: object) -> None:
    rows = rows_of(lengths)
    texts = [rows.flat[rows.start[i] : rows.start[i + 1]].tolist() for i in range(len(rows))]
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    other = Rows.from_lists([int(rows.ids[i]) for i in order], [texts[i] for i in order])
    for name in ("ids", "flat", "start"):
        assert np.array_equal(getattr(rows, name), getattr(other, name)), name


@pytest.mark.parametrize("batch_rows", [1, 7])
def test_no_rows_are_no_batches(batch_rows: int) -> None:
    rows = Rows.from_lists([], [])
    assert len(rows) == 0
    assert plan_in_order(rows.lengths, batch_rows) == plan_epoch(rows.lengths, 0, 0, batch_rows) == []


def test_epochs_differ_and_repeat() -> None:
    rows = rows_of([1 + i % 9 for i in range(100)])
    plans = [[batch.tolist() for batch in plan_epoch(rows.lengths, 3, epoch, 8)] for epoch in (0, 1, 0)]
    assert plans[0] == plans[2] != plans[1]


def test_rows_meet_other_rows_in_every_epoch() -> None:
    """Not only the order of the batches changes: ties of length are cut elsewhere."""
    lengths = np.full(64, 5)
    first, second = ({frozenset(batch.tolist()) for batch in plan_epoch(lengths, 3, epoch, 8)} for epoch in (0, 1))
    assert not first & second
