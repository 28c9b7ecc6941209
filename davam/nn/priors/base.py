"""What every prior does, given one network that maps previous codes to logits of the next.

Code K is the end of a sequence: its cost is part of every likelihood, so that lengths are modelled and paid for.
As an input the same index stands for the beginning, which is the only time it is ever an input.

Legend: B rows, T positions (codes and the end), K codes.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from davam.nn import ops
from davam.nn.noise import RowNoise


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

    def __init__(self, codebook_size: int) -> None:
        super().__init__()
        self.end_code = codebook_size

    @abstractmethod
    def logits(self, input_BT: Tensor, noise: RowNoise | None) -> Tensor:
        """logits_BTK (K+1 wide) of each next code, given the codes before it."""

    @abstractmethod
    def start(self, rows: int) -> Any:
        """The empty cache of `rows` sequences."""

    @abstractmethod
    def step(self, input_B: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """logits_BK of the next code after one more input, equal bit for bit to the full forward's, and the cache."""

    def shifted(self, target_BT: Tensor) -> Tensor:
        """The inputs that predict these targets: the beginning, then all but the last."""
        begin_B1 = torch.full_like(target_BT[:, :1], self.end_code)
        return torch.cat([begin_B1, target_BT[:, :-1]], dim=1)

    def nll(self, target_BT: Tensor, length_B: Tensor, noise: RowNoise | None = None) -> Tensor:
        """-ln p of each row's codes and end code, in nats, nll_B."""
        logits_BTK = self.logits(self.shifted(target_BT), noise)
        return ops.sum_nll(logits_BTK, target_BT, ops.length_mask(length_B, target_BT.shape[1]))

    @torch.no_grad()
    def sample(self, uniform_BT: Tensor, temperature: float = 1.0, length: int | None = None) -> CodeDraw:
        """Draws one sequence per row of uniform numbers; at most their width long.

        No sequence is empty. With `length`, the end code is impossible before it and certain after it. The nats
        are those of the untempered model.
        """
        rows, widest = uniform_BT.shape
        device = uniform_BT.device
        codes_BT = torch.zeros(rows, widest, dtype=torch.long, device=device)
        length_B = torch.zeros(rows, dtype=torch.long, device=device)
        nats_B = torch.zeros(rows, device=device)
        alive_B = torch.ones(rows, dtype=torch.bool, device=device)
        code_B, cache = torch.full((rows,), self.end_code, device=device), self.start(rows)
        for t in range(widest if length is None else length):
            logits_BK, cache = self.step(code_B, cache)
            allowed_BK = logits_BK.clone()
            if t == 0 or length is not None:
                allowed_BK[:, self.end_code] = -math.inf
            code_B = ops.inverse_cdf(allowed_BK, uniform_BT[:, t], temperature)
            nats_B -= logits_BK.log_softmax(-1).gather(1, code_B[:, None]).squeeze(1) * alive_B
            alive_B = alive_B & (code_B != self.end_code)
            codes_BT[:, t] = code_B * alive_B
            length_B += alive_B
            if not alive_B.any():
                break
        if length is not None:
            logits_BK, _ = self.step(code_B, cache)
            nats_B -= logits_BK.log_softmax(-1)[:, self.end_code]
            alive_B = torch.zeros_like(alive_B)
        return CodeDraw(codes_BT, length_B, nats_B, alive_B)
