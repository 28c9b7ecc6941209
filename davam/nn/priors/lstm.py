"""A small LSTM over codes: cheaper than the PixelCNN at the same likelihood, and not bound to a window.

Legend: B rows, T positions, E embedding, H hidden, K codes.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from davam.config import Frozen
from davam.nn import ops
from davam.nn.lstm import Lstm
from davam.nn.noise import RowNoise, Stream
from davam.nn.priors.base import Prior


class LstmPriorConfig(Frozen):
    """Depth, width and dropout of the LSTM prior."""

    kind: Literal["lstm"] = "lstm"
    layers: int = Field(1, ge=1)
    embed_dim: int = Field(128, ge=1)
    hidden_dim: int = Field(256, ge=1)
    dropout: float = Field(0.3, ge=0, lt=1)


class LstmPrior(Prior):
    """Embedding, LSTM, linear output; dropout before and after the LSTM."""

    def __init__(self, config: LstmPriorConfig, codebook_size: int, labels: int) -> None:
        super().__init__(codebook_size, config.embed_dim, labels)
        self.dropout = config.dropout
        self.lstm = Lstm(config.embed_dim, config.hidden_dim, num_layers=config.layers, batch_first=True)
        self.output = nn.Linear(config.hidden_dim, codebook_size + 1)

    def logits(self, x_BTE: Tensor, noise: RowNoise | None) -> Tensor:
        """logits_BTK of each next code."""
        if noise is not None:
            x_BTE = noise.dropout(x_BTE, self.dropout, Stream.PRIOR_IN)
        # Scores and generated rows agree bit for bit; training takes the faster form.
        h_BTH = self.lstm(x_BTE)[0] if torch.is_grad_enabled() else ops.lstm_unrolled(self.lstm, x_BTE)
        if noise is not None:
            h_BTH = noise.dropout(h_BTH, self.dropout, Stream.PRIOR_OUT)
        return self.output(h_BTH)

    def start(self, rows: int) -> ops.LstmState:
        """Zero hidden and cell states."""
        return ops.lstm_start(self.lstm, rows)

    def step(self, x_BE: Tensor, cache: ops.LstmState) -> tuple[Tensor, ops.LstmState]:
        """logits_BK after one more input, and the new states."""
        h_BH, cache = ops.lstm_step(self.lstm, x_BE, cache)
        return self.output(h_BH), cache
