"""Encoders: from tokens to one state per position.

Legend: B rows, T source positions, E embedding, H hidden.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from davam.nn.lstm import Lstm
from davam.nn.transformer import Transformer, TransformerConfig

EncoderKind = Literal["lstm", "bilstm", "local", "transformer"]


class LstmEncoder(nn.Module):
    """States of a one-layer LSTM over the sentence, forward or in both directions (H/2 each)."""

    def __init__(self, embed_dim: int, hidden_dim: int, bidirectional: bool) -> None:
        super().__init__()
        width = hidden_dim // 2 if bidirectional else hidden_dim
        self.lstm = Lstm(embed_dim, width, batch_first=True, bidirectional=bidirectional)

    def forward(self, x_BTE: Tensor, length_B: Tensor) -> Tensor:
        """enc_BTH. Forward states do not see later padding; the backward direction is packed."""
        if not self.lstm.bidirectional:
            return self.lstm(x_BTE)[0]
        packed = pack_padded_sequence(x_BTE, length_B.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x_BTE.shape[1])[0]


class LocalEncoder(nn.Module):
    """States that depend on their own token alone, so that a code is a function of its word."""

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(embed_dim, hidden_dim)

    def forward(self, x_BTE: Tensor, length_B: Tensor) -> Tensor:
        """enc_BTH."""
        return torch.tanh(self.hidden(x_BTE))


def build_encoder(
    kind: EncoderKind, embed_dim: int, hidden_dim: int, transformer: TransformerConfig | None, max_tokens: int
) -> nn.Module:
    """The encoder of that kind, for rows of at most `max_tokens`; a Transformer sees both directions."""
    if kind == "transformer":
        assert transformer is not None
        return Transformer(transformer, embed_dim, hidden_dim, max_tokens)
    if kind == "local":
        return LocalEncoder(embed_dim, hidden_dim)
    return LstmEncoder(embed_dim, hidden_dim, bidirectional=kind == "bilstm")


def last_state(enc_BTH: Tensor, length_B: Tensor) -> Tensor:
    """The state at each row's last real position, enc_BH."""
    last_B11 = (length_B - 1)[:, None, None]
    return enc_BTH.gather(1, last_B11.expand(-1, 1, enc_BTH.shape[2])).squeeze(1)
