"""Decoders p(x_i | x_<i, c_i): an LSTM that attends to the code vectors at every step.

Legend: B rows, S target positions, T source positions, E embedding, H hidden, D code dim, C = H + D features.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from davam.nn.attention import AdditiveAttention, DotAttention, Positions


@dataclass(frozen=True)
class Memory:
    """What a decoder attends to: code vectors, their mask and, where the form has them, precomputed keys."""

    quant_BTD: Tensor
    mask_BT: Tensor
    key_BTA: Tensor | None = None


class FeedDecoder(nn.Module):
    """The paper's form: the context c_i, found with h_{i-1}, is part of the input of step i. Eq. (3)."""

    def __init__(
        self, embed_dim: int, hidden_dim: int, code_dim: int, attention_dim: int, positions: Positions
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.attention = AdditiveAttention(code_dim, hidden_dim, attention_dim, positions)
        self.word_gates = nn.Linear(embed_dim, 4 * hidden_dim)
        self.step_gates = nn.Linear(code_dim + hidden_dim, 4 * hidden_dim, bias=False)

    def memory(self, quant_BTD: Tensor, mask_BT: Tensor) -> Memory:
        """The codes with their attention keys, computed once."""
        return Memory(quant_BTD, mask_BT, self.attention.keys(quant_BTD))

    def features(self, x_BSE: Tensor, memory: Memory) -> Tensor:
        """[h_i; c_i] at every step under teacher forcing, feature_BSC."""
        # The words' share of the gates needs no recurrence, so it is one product for all steps.
        gate_BSH4 = self.word_gates(x_BSE)
        state = self.start(len(x_BSE), x_BSE)
        outputs = []
        for step in range(x_BSE.shape[1]):
            feature_BC, state = self._advance(gate_BSH4[:, step], step, memory, state)
            outputs.append(feature_BC)
        return torch.stack(outputs, dim=1)

    def start(self, rows: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Zero hidden and cell states."""
        zero_BH = like.new_zeros(rows, self.hidden_dim)
        return zero_BH, zero_BH

    def step(self, x_BE: Tensor, step: int, memory: Memory, state: Any) -> tuple[Tensor, Any]:
        """feature_BC of one step of generation, and the new state."""
        return self._advance(self.word_gates(x_BE), step, memory, state)

    def _advance(self, gate_BH4: Tensor, step: int, memory: Memory, state: Any) -> tuple[Tensor, Any]:
        h_BH, c_BH = state
        assert memory.key_BTA is not None
        context_BD = self.attention.context(h_BH, step, memory.key_BTA, memory.quant_BTD, memory.mask_BT)
        gate_BH4 = gate_BH4 + self.step_gates(torch.cat([context_BD, h_BH], dim=1))
        i_BH, f_BH, g_BH, o_BH = gate_BH4.chunk(4, dim=1)
        c_BH = torch.sigmoid(f_BH) * c_BH + torch.sigmoid(i_BH) * torch.tanh(g_BH)
        h_BH = torch.sigmoid(o_BH) * torch.tanh(c_BH)
        return torch.cat([h_BH, context_BD], dim=1), (h_BH, c_BH)


class ParallelDecoder(nn.Module):
    """The LSTM reads the words alone and attention follows it, so that all steps are computed together."""

    def __init__(self, embed_dim: int, hidden_dim: int, code_dim: int, positions: Positions) -> None:
        super().__init__()
        self.lstm = nn.LSTM(embed_dim, hidden_dim, batch_first=True)
        self.attention = DotAttention(code_dim, hidden_dim, positions)

    def memory(self, quant_BTD: Tensor, mask_BT: Tensor) -> Memory:
        """The codes as they are."""
        return Memory(quant_BTD, mask_BT)

    def features(self, x_BSE: Tensor, memory: Memory) -> Tensor:
        """[h_i; c_i] at every step under teacher forcing, feature_BSC."""
        return self._attend(self.lstm(x_BSE)[0], 0, memory)

    def start(self, rows: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Zero hidden and cell states."""
        zero_1BH = like.new_zeros(1, rows, self.lstm.hidden_size)
        return zero_1BH, zero_1BH

    def step(self, x_BE: Tensor, step: int, memory: Memory, state: Any) -> tuple[Tensor, Any]:
        """feature_BC of one step of generation, and the new state."""
        h_B1H, state = self.lstm(x_BE[:, None], state)
        return self._attend(h_B1H, step, memory).squeeze(1), state

    def _attend(self, h_BSH: Tensor, start: int, memory: Memory) -> Tensor:
        context_BSD = self.attention(h_BSH, memory.quant_BTD, memory.mask_BT, start)
        return torch.cat([h_BSH, context_BSD], dim=2)
