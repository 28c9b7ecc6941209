"""Attention over the code vectors, Eq. (3): additive as in the paper, and the dot-product form that runs in parallel.

With `positions`, one table serves the memory (the vector at t gets row t) and the query (step i gets row i, or row
i // stride where a latent stands for several words), so that step i starts by looking at its own latent. Without it
attention sees a bag of codes.

Legend: B rows, S target positions, T source positions, H hidden, D code dim, A attention dim.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POSITION_STD = 0.8


class Positions(nn.Module):
    """The tied table of positions, or nothing when switched off."""

    def __init__(self, enabled: bool, rows: int, dim: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        # None rather than empty: DDP waits for the gradient of every parameter that there is.
        self.table_TD = nn.Parameter(torch.zeros(rows, dim)) if enabled else None

    def add_to_memory(self, x_BTD: Tensor) -> Tensor:
        """The latents plus the rows of their positions."""
        return x_BTD if self.table_TD is None else x_BTD + self.table_TD[: x_BTD.shape[1]]

    def add_to_query(self, x_BSD: Tensor, start: int) -> Tensor:
        """What the steps start, start+1, ... ask, plus the rows of their own latents."""
        if self.table_TD is None:
            return x_BSD
        step_S = torch.arange(start, start + x_BSD.shape[1], device=x_BSD.device)
        return x_BSD + self.table_TD[step_S // self.stride]


class AdditiveAttention(nn.Module):
    """score_t = v . tanh(W_e e_t + W_d h + b), one decoding step at a time. Eq. (3)."""

    def __init__(self, code_dim: int, hidden_dim: int, attention_dim: int, positions: Positions) -> None:
        super().__init__()
        self.positions = positions
        self.memory = nn.Linear(code_dim, attention_dim)
        self.query = nn.Linear(hidden_dim, attention_dim, bias=False)
        self.score = nn.Linear(attention_dim, 1, bias=False)

    def keys(self, quant_BTD: Tensor) -> Tensor:
        """W_e e_t + b for every position, once per sentence, key_BTA."""
        return self.memory(self.positions.add_to_memory(quant_BTD))

    def context(self, h_BH: Tensor, step: int, key_BTA: Tensor, quant_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """c_i of decoding step i from the previous state, context_BD."""
        query_BA = self.query(h_BH)
        if self.positions.table_TD is not None:
            query_BA = query_BA + F.linear(self.positions.table_TD[step // self.positions.stride], self.memory.weight)
        score_BT = self.score(torch.tanh(key_BTA + query_BA[:, None])).squeeze(-1)
        align_BT = score_BT.masked_fill(~mask_BT, -math.inf).softmax(-1)
        return torch.bmm(align_BT[:, None], quant_BTD).squeeze(1)


class DotAttention(nn.Module):
    """score_t = (W_d h_i + p_i) . (e_t + p_t), all decoding steps at once."""

    def __init__(self, code_dim: int, hidden_dim: int, positions: Positions) -> None:
        super().__init__()
        self.positions = positions
        self.query = nn.Linear(hidden_dim, code_dim, bias=False)

    def keys(self, quant_BTD: Tensor) -> Tensor:
        """e_t + p_t for every position, once per sentence, key_BTD."""
        return self.positions.add_to_memory(quant_BTD)

    def forward(self, h_BSH: Tensor, key_BTD: Tensor, quant_BTD: Tensor, mask_BT: Tensor, start: int = 0) -> Tensor:
        """context_BSD for the steps start, start+1, ..."""
        query_BSD = self.positions.add_to_query(self.query(h_BSH), start)
        score_BST = torch.bmm(query_BSD, key_BTD.transpose(1, 2))
        align_BST = score_BST.masked_fill(~mask_BT[:, None], -math.inf).softmax(-1)
        return torch.bmm(align_BST, quant_BTD)
