"""Generation in blocks of rows that shrink as rows end.

Legend: B rows of the call, A rows that are still computed: those alive, and a few that fill up the block.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# On a CPU, matrix products of 16 rows and more, in multiples of it, round a row the same way whatever the other rows
# are; with several threads, as long as a row has fewer than about a thousand channels, for longer sums are shared among
# the threads. Elsewhere only products of equal shapes do.
ROW_MULTIPLE = 16


def filled_up(rows: Tensor, block_rows: int) -> Tensor:
    """Row numbers, with row 0 repeated until there are as many as a product takes to round each the same way in any
    company: up to the next multiple on a CPU, elsewhere the whole block."""
    missing = -len(rows) % ROW_MULTIPLE if rows.device.type == "cpu" else block_rows - len(rows)
    return F.pad(rows, (0, missing))


class Block:
    """Which rows of a call are still computed."""

    def __init__(self, row_A: Tensor, alive_A: Tensor) -> None:
        self.row_A = row_A
        self.alive_A = alive_A
        self.rows = len(row_A)

    @classmethod
    def whole(cls, rows: int, device: torch.device) -> "Block":
        """All of the call's rows, alive."""
        return cls(torch.arange(rows, device=device), torch.ones(rows, dtype=torch.bool, device=device))

    @property
    def empty(self) -> bool:
        """Whether every row has ended."""
        return not bool(self.alive_A.any())

    def end(self, ended_A: Tensor) -> None:
        """Mark rows that have ended."""
        self.alive_A = self.alive_A & ~ended_A

    def finish(self) -> None:
        """All rows have ended."""
        self.alive_A = torch.zeros_like(self.alive_A)

    def unfinished(self) -> Tensor:
        """Which rows of the call have not ended, unfinished_B."""
        count_B = torch.zeros(self.rows, dtype=torch.long, device=self.row_A.device)
        return count_B.index_add_(0, self.row_A, self.alive_A.long()) > 0

    def compact(self) -> Tensor | None:
        """Leaves out rows that have ended, where that makes the block smaller: which of its rows remain."""
        alive = self.alive_A.nonzero().squeeze(1)
        kept = filled_up(alive, self.rows)
        if len(kept) == len(self.row_A):
            return None
        self.row_A = self.row_A[kept]
        self.alive_A = torch.arange(len(kept), device=kept.device) < len(alive)
        return kept
