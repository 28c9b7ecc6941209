"""Rows of tokens or codes in memory, and the plan that says which rows form which batch.

The plan is a pure function of (lengths, seed, epoch, batch size); a worker only takes its slice. So the sequence
of global batches is the same for any number of workers, and a position in training is two integers.

Legend: B rows of a batch, S positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from davam.nn.noise import RowNoise, Stream, generator

WINDOW_BATCHES = 50  # rows are sorted by length inside windows of this many batches

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Ragged integer rows, ordered by id: row r is flat[start[r]:start[r+1]] and ends with the terminator. Those of a
    corpus with labels have the number of each row's label."""

    ids: NDArray[np.int64]
    flat: NDArray[np.int32]
    start: NDArray[np.int64]
    label: NDArray[np.int64] | None = None

    @classmethod
    def from_lists(
        cls, ids: Sequence[int], rows: Sequence[Sequence[int]], labels: Sequence[int] | None = None
    ) -> "Rows":
        """Rows ordered by id, whatever the order they come in."""
        order = np.argsort(np.asarray(ids, dtype=np.int64), kind="stable")
        ordered = [rows[i] for i in order]
        start = np.concatenate([[0], np.cumsum([len(row) for row in ordered])]).astype(np.int64)
        flat = (
            np.concatenate([np.asarray(row, dtype=np.int32) for row in ordered]) if ordered else np.zeros(0, np.int32)
        )
        label = None if labels is None else np.asarray(labels, dtype=np.int64)[order]
        return cls(np.asarray(ids, dtype=np.int64)[order], flat, start, label)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Positions of each row, terminator included."""
        return np.diff(self.start)


@dataclass(frozen=True)
class Batch:
    """One worker's share of a global batch, padded with zeros on the right.

    `weight_B` is 0 for a row that only fills a short slice. `index_B` are positions in `Rows`; `ids` the stable ids.
    """

    tokens_BS: Tensor
    length_B: Tensor
    weight_B: Tensor
    index_B: Indices
    ids: list[int]
    label_B: Tensor | None = None


def plan_epoch(lengths: NDArray[np.int64], seed: int, epoch: int, batch_rows: int) -> list[Indices]:
    """The batches of one epoch as arrays of row indices: every row exactly once.

    Rows are shuffled, sorted by length inside windows so that little is padded, and the batches shuffled again.
    """
    rng = generator(seed, Stream.PLAN, epoch)
    order = rng.permutation(len(lengths))
    window = WINDOW_BATCHES * batch_rows
    batches: list[Indices] = []
    for first in range(0, len(order), window):
        part = order[first : first + window]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch_rows] for i in range(0, len(part), batch_rows)]
    return [batches[i] for i in rng.permutation(len(batches))]


def plan_in_order(lengths: NDArray[np.int64], batch_rows: int) -> list[Indices]:
    """Batches for evaluation: sorted by length, every row exactly once."""
    order = np.argsort(lengths, kind="stable").astype(np.int64)
    return [order[i : i + batch_rows] for i in range(0, len(order), batch_rows)]


def take_slice(rows: Rows, batch: Indices, rank: int = 0, world: int = 1) -> Batch:
    """The batch of one worker: every `world`-th row. All workers get equally many rows; short slices are filled
    with a row of weight 0."""
    width = -(-len(batch) // world)
    mine = batch[rank::world]
    index = np.concatenate([mine, np.repeat(batch[:1], width - len(mine))])
    lengths = rows.start[index + 1] - rows.start[index]  # not all lengths, of which there may be very many
    tokens = np.zeros((len(index), int(lengths.max())), dtype=np.int64)
    for row, i in enumerate(index):
        tokens[row, : lengths[row]] = rows.flat[rows.start[i] : rows.start[i + 1]]
    weight = (np.arange(len(index)) < len(mine)).astype(np.float32)
    return Batch(
        torch.from_numpy(tokens),
        torch.from_numpy(lengths),
        torch.from_numpy(weight),
        index,
        [int(i) for i in rows.ids[index]],
        None if rows.label is None else torch.from_numpy(rows.label[index]),
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on the device."""
    if device.type == "cpu":
        return batch
    return Batch(
        batch.tokens_BS.to(device),
        batch.length_B.to(device),
        batch.weight_B.to(device),
        batch.index_B,
        batch.ids,
        None if batch.label_B is None else batch.label_B.to(device),
    )


def row_noise(batch: Batch, seed: int, step: int) -> RowNoise:
    """The dropout noise of this batch at this global step."""
    return RowNoise(seed, step, batch.ids)
