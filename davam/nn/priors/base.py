"""What every prior does, given one network that maps previous codes to logits of the next.

Code K is the end of a sequence: its cost is part of every likelihood, so that lengths are modelled and paid for.
As an input the same index stands for the beginning, which is the only time it is ever an input.

Legend: B rows, A rows of the block that is still computed, T positions (codes and the end), E embedding, K codes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from davam.nn import ops
from davam.nn.block import Block
from davam.nn.choice import ANCESTRAL, Choice, draw
from davam.nn.noise import RowNoise
from davam.nn.replay import replayed


@dataclass(frozen=True)
class CodeDraw:
    """Sampled code sequences: codes_BT (0 beyond the length), length_B, their nats incl. the end, and a flag for
    rows that were cut at the longest length."""

    codes_BT: Tensor
    length_B: Tensor
    nats_B: Tensor
    truncated_B: Tensor


class Prior(nn.Module, ABC):
    """p(z) = prod_t p(z_t | z_<t) over K codes and the end code."""

    def __init__(self, codebook_size: int, input_dim: int, labels: int) -> None:
        super().__init__()
        self.end_code = codebook_size
        self.embedding = nn.Embedding(codebook_size + 1, input_dim)
        self.label_embedding = nn.Embedding(labels, input_dim) if labels else None

    @abstractmethod
    def logits(self, x_BTE: Tensor, noise: RowNoise | None) -> Tensor:
        """logits_BTK (K+1 wide) of each next code, given the embedded inputs before it."""

    @abstractmethod
    def start(self, rows: int) -> Any:
        """The empty cache of `rows` sequences."""

    @abstractmethod
    def step(self, x_BE: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """logits_BK of the next code after one more embedded input, equal bit for bit to the full forward's, and the
        cache."""

    def inputs(self, target_BT: Tensor, label_B: Tensor | None = None) -> Tensor:
        """The embedded inputs that predict these targets: the beginning, then all but the last, x_BTE."""
        begin_B1 = torch.full_like(target_BT[:, :1], self.end_code)
        return self.embedded(torch.cat([begin_B1, target_BT[:, :-1]], dim=1), label_B)

    def embedded(self, input_BT: Tensor, label_B: Tensor | None) -> Tensor:
        """The vectors of inputs, x_BTE, each with its row's label added, where there are labels."""
        x_BTE = self.embedding(input_BT)
        return x_BTE if self.label_embedding is None else x_BTE + self.label_embedding(label_B)[:, None]

    def mixed_inputs(self, share_BTK: Tensor, label_B: Tensor | None) -> Tensor:
        """The embedded inputs that predict each code and what follows the last, where a code is a mixture of codes by
        these shares, x_BSE."""
        vector_KE, begin_E = self.embedding.weight[:-1], self.embedding.weight[-1]
        x_BSE = torch.cat([begin_E.expand(len(share_BTK), 1, -1), share_BTK @ vector_KE], dim=1)
        return x_BSE if self.label_embedding is None else x_BSE + self.label_embedding(label_B)[:, None]

    def nll(
        self, target_BT: Tensor, length_B: Tensor, noise: RowNoise | None = None, label_B: Tensor | None = None
    ) -> Tensor:
        """-ln p of each row's codes and end code, in nats, nll_B; given its label where there are labels."""
        logits_BTK = self.logits(self.inputs(target_BT, label_B), noise)
        return ops.sum_nll(logits_BTK, target_BT, ops.length_mask(length_B, target_BT.shape[1]))

    @torch.no_grad()
    def resample(
        self,
        codes_BT: Tensor,
        length_B: Tensor,
        moved_BT: Tensor,
        uniform_BT: Tensor,
        choice: Choice = ANCESTRAL,
        label_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The codes with those at the moved positions drawn anew, each given all codes before it and never the end; and
        -ln of how probable the sequence is against its chance of being drawn. (codes_BT, weight_nats_B)

        An ancestral draw that is weighed by exp(-weight_nats) is one from p(moved | kept): the weight is the
        probability of what stays, the end included, times that of no end at each moved position, where it was barred.
        """
        width = codes_BT.shape[1]
        target_BS = F.pad(codes_BT, (0, 1)).scatter(1, length_B[:, None], self.end_code)
        moved_BS = F.pad(moved_BT, (0, 1)) & ops.length_mask(length_B, width + 1)
        kept_BS = ~moved_BS & ops.length_mask(length_B + 1, width + 1)
        code_B, cache = torch.full_like(length_B, self.end_code), self.start(len(codes_BT))
        columns, weight_nats = [], []
        for t in range(width + 1):
            logits_BK, cache = self._next(code_B, cache, *_given(label_B))
            log_p_BK = logits_BK.float().log_softmax(1)
            kept_nats_B = -log_p_BK.gather(1, target_BS[:, t : t + 1])[:, 0] * kept_BS[:, t]
            no_end_nats_B = -torch.log1p(-log_p_BK[:, self.end_code].exp())
            no_end_nats_B = torch.where(moved_BS[:, t], no_end_nats_B, 0.0)  # it may be infinite where nothing moves
            weight_nats.append(kept_nats_B + no_end_nats_B)
            if t < width:
                drawn_B, _ = draw(logits_BK, uniform_BT[:, t], choice, (self.end_code,))
                code_B = torch.where(moved_BS[:, t], drawn_B, codes_BT[:, t])
                columns.append(code_B)
        return torch.stack(columns, dim=1), torch.stack(weight_nats).sum(0)

    @torch.no_grad()
    def sample(
        self,
        uniform_BT: Tensor,
        choice: Choice = ANCESTRAL,
        least: int = 1,
        most: int | None = None,
        label_B: Tensor | None = None,
        barred_codes: tuple[int, ...] = (),
    ) -> CodeDraw:
        """Draws one sequence per row of uniform numbers, of `least` to `most` codes, at most their width, none of them
        barred.

        The end is impossible before `least` codes and certain after `most`. The nats are those of the model as it
        is, whatever the choice.
        """
        rows, widest = uniform_BT.shape
        device = uniform_BT.device
        codes_BT = torch.zeros(rows, widest, dtype=torch.long, device=device)
        length_B, nats_B = codes_BT.new_zeros(rows), torch.zeros(rows, device=device)
        code_A, cache = torch.full((rows,), self.end_code, device=device), self.start(rows)
        block = Block.whole(rows, device)
        for t in range(widest if most is None else most + 1):
            logits_AK, cache = self._next(code_A, cache, *_given(label_B, block.row_A))
            if t == most:
                nats_B.index_add_(0, block.row_A, -logits_AK.log_softmax(-1)[:, self.end_code] * block.alive_A)
                block.finish()
                break
            barred = barred_codes + ((self.end_code,) if t < least else ())
            code_A, nats_A = draw(logits_AK, uniform_BT[block.row_A, t], choice, barred)
            nats_B.index_add_(0, block.row_A, nats_A * block.alive_A)
            block.end(code_A == self.end_code)
            length_B.index_add_(0, block.row_A, block.alive_A.long())
            codes_BT[:, t].index_add_(0, block.row_A, code_A * block.alive_A)
            if block.empty:
                break
            kept = block.compact()
            if kept is not None:
                code_A, cache = code_A[kept], ops.take_rows(cache, kept)
        return CodeDraw(codes_BT, length_B, nats_B, block.unfinished())

    @replayed
    def _next(self, input_B: Tensor, cache: Any, *label_B: Tensor) -> tuple[Tensor, Any]:
        return self.step(self.embedded(input_B[:, None], *label_B or [None])[:, 0], cache)


def _given(label_B: Tensor | None, rows: Tensor | slice = slice(None)) -> list[Tensor]:
    """The labels of the rows, where there are labels."""
    return [] if label_B is None else [label_B[rows]]
