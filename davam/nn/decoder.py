"""Decoders p(x_i | x_<i, z): an LSTM or a Transformer that attends to a sequence of latents, Eq. (3), or an LSTM that
reads a single one, Eq. (2).

Legend: B rows, S target positions, T latents, E embedding, H hidden, D latent dim, C features of the output layer.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from davam.nn import ops
from davam.nn.attention import AdditiveAttention, DotAttention, Positions
from davam.nn.lstm import Lstm
from davam.nn.transformer import Cache, Transformer, TransformerConfig

AttentionForm = Literal["feed", "parallel", "transformer"]


class Memory(NamedTuple):
    """What a decoder reads: latents, their mask and, where the form has them, precomputed keys."""

    latent_BTD: Tensor
    mask_BT: Tensor
    key_BTA: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Those that there are, in order."""
        return tuple(tensor for tensor in self if tensor is not None)

    def take(self, rows: Tensor) -> "Memory":
        """That of the rows."""
        keys = None if self.key_BTA is None else self.key_BTA[rows]
        return Memory(self.latent_BTD[rows], self.mask_BT[rows], keys)


class FeedDecoder(nn.Module):
    """The paper's form: the context c_i, found with h_{i-1}, is part of the input of step i. Eq. (3)."""

    def __init__(
        self, embed_dim: int, hidden_dim: int, code_dim: int, attention_dim: int, positions: Positions
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.feature_dim = hidden_dim + code_dim
        self.attention = AdditiveAttention(code_dim, hidden_dim, attention_dim, positions)
        self.word_gates = nn.Linear(embed_dim, 4 * hidden_dim)
        self.step_gates = nn.Linear(code_dim + hidden_dim, 4 * hidden_dim, bias=False)

    def memory(self, latent_BTD: Tensor, mask_BT: Tensor) -> Memory:
        """The codes with their attention keys, computed once."""
        return Memory(latent_BTD, mask_BT, self.attention.keys(latent_BTD))

    def features(self, x_BSE: Tensor, memory: Memory) -> Tensor:
        """[h_i; c_i] at every step under teacher forcing, feature_BSC."""
        # The words' share of the gates needs no recurrence, so it is one product for all steps.
        gate_BSH4 = self.word_gates(x_BSE)
        state = self.start(memory)
        outputs = []
        for step in range(x_BSE.shape[1]):
            feature_BC, state = self._advance(gate_BSH4[:, step], step, memory, state)
            outputs.append(feature_BC)
        return torch.stack(outputs, dim=1)

    def start(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """Zero hidden and cell states."""
        zero_BH = memory.latent_BTD.new_zeros(len(memory.latent_BTD), self.hidden_dim)
        return zero_BH, zero_BH

    def step(self, x_BE: Tensor, step: int, memory: Memory, state: Any) -> tuple[Tensor, Any]:
        """feature_BC of one step of generation, and the new state."""
        return self._advance(self.word_gates(x_BE), step, memory, state)

    def _advance(self, gate_BH4: Tensor, step: int, memory: Memory, state: Any) -> tuple[Tensor, Any]:
        h_BH, c_BH = state
        assert memory.key_BTA is not None
        context_BD = self.attention.context(h_BH, step, memory.key_BTA, memory.latent_BTD, memory.mask_BT)
        gate_BH4 = gate_BH4 + self.step_gates(torch.cat([context_BD, h_BH], dim=1))
        h_BH, c_BH = ops.lstm_cell(gate_BH4, c_BH)
        return torch.cat([h_BH, context_BD], dim=1), (h_BH, c_BH)


class ParallelDecoder(nn.Module):
    """The LSTM reads the words alone and attention follows it, so that all steps are computed together."""

    def __init__(self, embed_dim: int, hidden_dim: int, code_dim: int, positions: Positions) -> None:
        super().__init__()
        self.feature_dim = hidden_dim + code_dim
        self.lstm = Lstm(embed_dim, hidden_dim, batch_first=True)
        self.attention = DotAttention(code_dim, hidden_dim, positions)

    def memory(self, latent_BTD: Tensor, mask_BT: Tensor) -> Memory:
        """The codes with their attention keys, computed once."""
        return Memory(latent_BTD, mask_BT, self.attention.keys(latent_BTD))

    def features(self, x_BSE: Tensor, memory: Memory) -> Tensor:
        """[h_i; c_i] at every step under teacher forcing, feature_BSC."""
        return self._attend(self.lstm(x_BSE)[0], 0, memory)

    def start(self, memory: Memory) -> ops.LstmState:
        """Zero hidden and cell states."""
        return ops.lstm_start(self.lstm, len(memory.latent_BTD))

    def step(self, x_BE: Tensor, step: int, memory: Memory, state: Any) -> tuple[Tensor, Any]:
        """feature_BC of one step of generation, and the new state."""
        h_BH, state = ops.lstm_step(self.lstm, x_BE, state)
        return self._attend(h_BH[:, None], step, memory).squeeze(1), state

    def _attend(self, h_BSH: Tensor, start: int, memory: Memory) -> Tensor:
        assert memory.key_BTA is not None
        context_BSD = self.attention(h_BSH, memory.key_BTA, memory.latent_BTD, memory.mask_BT, start)
        return torch.cat([h_BSH, context_BSD], dim=2)


class TransformerDecoder(nn.Module):
    """As `ParallelDecoder`, with a causal Transformer in the place of the LSTM."""

    def __init__(self, transformer: Transformer, attention: DotAttention) -> None:
        super().__init__()
        self.transformer = transformer
        self.attention = attention
        self.feature_dim = transformer.width + attention.query.out_features

    def memory(self, latent_BTD: Tensor, mask_BT: Tensor) -> Memory:
        """The codes with their attention keys, computed once."""
        return Memory(latent_BTD, mask_BT, self.attention.keys(latent_BTD))

    def features(self, x_BSE: Tensor, memory: Memory) -> Tensor:
        """[h_i; c_i] at every step under teacher forcing, feature_BSC."""
        return self._attend(self.transformer(x_BSE), 0, memory)

    def start(self, memory: Memory) -> Cache:
        """No keys and no values."""
        return self.transformer.start(len(memory.latent_BTD))

    def step(self, x_BE: Tensor, step: int, memory: Memory, state: Any) -> tuple[Tensor, Any]:
        """feature_BC of one step of generation, and the new state."""
        h_BH, state = self.transformer.step(x_BE, state)
        return self._attend(h_BH[:, None], step, memory).squeeze(1), state

    def _attend(self, h_BSH: Tensor, start: int, memory: Memory) -> Tensor:
        assert memory.key_BTA is not None
        context_BSD = self.attention(h_BSH, memory.key_BTA, memory.latent_BTD, memory.mask_BT, start)
        return torch.cat([h_BSH, context_BSD], dim=2)


class LatentDecoder(nn.Module):
    """The baselines' form: every step reads [word; z], and the first state comes from z. Eq. (2).

    With `latent_dim` 0 there is no z, and the decoder is a language model.
    """

    def __init__(self, embed_dim: int, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.feature_dim = hidden_dim
        self.lstm = Lstm(embed_dim + latent_dim, hidden_dim, batch_first=True)
        self.cell = nn.Linear(latent_dim, hidden_dim, bias=False) if latent_dim else None

    def memory(self, latent_BTD: Tensor, mask_BT: Tensor) -> Memory:
        """The latent as it is; T is 1."""
        return Memory(latent_BTD, mask_BT)

    def features(self, x_BSE: Tensor, memory: Memory) -> Tensor:
        """h_i at every step under teacher forcing, feature_BSC."""
        h_BH, c_BH = self.start(memory)[0]
        return self.lstm(self._input(x_BSE, memory), (h_BH[None], c_BH[None]))[0]

    def start(self, memory: Memory) -> ops.LstmState:
        """c_0 = W z and h_0 = tanh(c_0); zero without z."""
        if self.cell is None:
            return ops.lstm_start(self.lstm, len(memory.latent_BTD))
        c_BH = self.cell(memory.latent_BTD[:, 0])
        return [(torch.tanh(c_BH), c_BH)]

    def step(self, x_BE: Tensor, step: int, memory: Memory, state: Any) -> tuple[Tensor, Any]:
        """feature_BC of one step of generation, and the new state."""
        return ops.lstm_step(self.lstm, self._input(x_BE[:, None], memory)[:, 0], state)

    def features_of_draws(self, x_SE: Tensor, z_ND: Tensor) -> Tensor:
        """h_i at every step of one text for many latents, feature_NSC. The words' and the latents' shares of the gates
        are computed once each, so that a step costs one product."""
        assert self.cell is not None
        (w_ih, w_hh, b_ih, b_hh), embed_dim = self.lstm.all_weights[0], x_SE.shape[1]
        word_SH4 = F.linear(x_SE, w_ih[:, :embed_dim], b_ih + b_hh)
        latent_NH4 = F.linear(z_ND, w_ih[:, embed_dim:])
        c_NH = self.cell(z_ND)
        h_NH, outputs = torch.tanh(c_NH), []
        for word_H4 in word_SH4:
            h_NH, c_NH = ops.lstm_cell(torch.addmm(latent_NH4 + word_H4, h_NH, w_hh.T), c_NH)
            outputs.append(h_NH)
        return torch.stack(outputs, dim=1)

    def _input(self, x_BSE: Tensor, memory: Memory) -> Tensor:
        if self.cell is None:
            return x_BSE
        return torch.cat([x_BSE, memory.latent_BTD[:, :1].expand(-1, x_BSE.shape[1], -1)], dim=2)


class LatentTransformerDecoder(nn.Module):
    """As `LatentDecoder`, with a causal Transformer in the place of the LSTM: z is read with every word, and there is
    no first state. With `latent_dim` 0 there is no z, and the decoder is a language model."""

    def __init__(self, transformer: Transformer, latent_dim: int) -> None:
        super().__init__()
        self.transformer = transformer
        self.latent_dim = latent_dim
        self.feature_dim = transformer.width

    def memory(self, latent_BTD: Tensor, mask_BT: Tensor) -> Memory:
        """The latent as it is; T is 1."""
        return Memory(latent_BTD, mask_BT)

    def features(self, x_BSE: Tensor, memory: Memory) -> Tensor:
        """h_i at every step under teacher forcing, feature_BSC."""
        return self.transformer(self._input(x_BSE, memory))

    def start(self, memory: Memory) -> Cache:
        """No keys and no values."""
        return self.transformer.start(len(memory.latent_BTD))

    def step(self, x_BE: Tensor, step: int, memory: Memory, state: Any) -> tuple[Tensor, Any]:
        """feature_BC of one step of generation, and the new state."""
        return self.transformer.step(self._input(x_BE[:, None], memory)[:, 0], state)

    def _input(self, x_BSE: Tensor, memory: Memory) -> Tensor:
        if not self.latent_dim:
            return x_BSE
        return torch.cat([x_BSE, memory.latent_BTD[:, :1].expand(-1, x_BSE.shape[1], -1)], dim=2)


Decoder = FeedDecoder | ParallelDecoder | TransformerDecoder | LatentDecoder | LatentTransformerDecoder


def latent_decoder(
    embed_dim: int, hidden_dim: int, latent_dim: int, transformer: TransformerConfig | None, max_tokens: int
) -> LatentDecoder | LatentTransformerDecoder:
    """The decoder that reads one latent, or none, for rows of at most `max_tokens` and their end: an LSTM, or a
    Transformer of these sizes."""
    if transformer is None:
        return LatentDecoder(embed_dim, hidden_dim, latent_dim)
    backbone = Transformer(transformer, embed_dim + latent_dim, hidden_dim, max_tokens + 1)
    return LatentTransformerDecoder(backbone, latent_dim)


def attention_decoder(
    form: AttentionForm,
    embed_dim: int,
    hidden_dim: int,
    latent_dim: int,
    attention_dim: int,
    positions: Positions,
    transformer: TransformerConfig | None,
    max_tokens: int,
) -> FeedDecoder | ParallelDecoder | TransformerDecoder:
    """The attention decoder of that form, for rows of at most `max_tokens` and their end."""
    if form == "feed":
        return FeedDecoder(embed_dim, hidden_dim, latent_dim, attention_dim, positions)
    if form == "transformer":
        assert transformer is not None
        backbone = Transformer(transformer, embed_dim, hidden_dim, max_tokens + 1)
        return TransformerDecoder(backbone, DotAttention(latent_dim, hidden_dim, positions))
    return ParallelDecoder(embed_dim, hidden_dim, latent_dim, positions)
