"""A 1-D gated causal PixelCNN over codes: the paper's prior.

Every layer is one matrix product over the last `kernel` inputs of each position, so that the cached step (which
keeps those inputs) and the full forward multiply the same rows and agree bit for bit.

Legend: B rows, T positions, C channels, K codes.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from davam.config import Frozen
from davam.nn import ops
from davam.nn.noise import RowNoise, Stream
from davam.nn.priors.base import Prior


class PixelCnnConfig(Frozen):
    """Depth, width and kernel of the PixelCNN."""

    kind: Literal["pixelcnn"] = "pixelcnn"
    layers: int = Field(16, ge=1)
    hidden_dim: int = Field(64, ge=1)
    kernel: int = Field(3, ge=2)
    dropout: float = Field(0.0, ge=0, lt=1)


class CausalBlock(nn.Module):
    """x + W2 (tanh(a) * sigmoid(b)), with (a, b) a causal convolution of x."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.conv = nn.Linear(kernel * channels, 2 * channels)
        self.mix = nn.Linear(channels, channels)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """The block's output at every position, y_BTC."""
        width = x_BTC.shape[1]
        padded_BTC = F.pad(x_BTC, (0, 0, self.kernel - 1, 0))
        return self._mixed([padded_BTC[:, i : i + width] for i in range(self.kernel)])

    def step(self, window: list[Tensor]) -> Tensor:
        """The block's output at the newest position, from its last `kernel` inputs x_BC."""
        return self._mixed(window)

    def _mixed(self, taps: list[Tensor]) -> Tensor:
        return taps[-1] + self.mix(ops.gated(self.conv(torch.cat(taps, dim=-1))))


class PixelCnnPrior(Prior):
    """The stack of causal blocks, between an embedding and a two-layer output."""

    def __init__(self, config: PixelCnnConfig, codebook_size: int, labels: int) -> None:
        channels = config.hidden_dim
        super().__init__(codebook_size, channels, labels)
        self.dropout = config.dropout
        self.blocks = nn.ModuleList(CausalBlock(channels, config.kernel) for _ in range(config.layers))
        self.hidden = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, codebook_size + 1)

    def logits(self, x_BTC: Tensor, noise: RowNoise | None) -> Tensor:
        """logits_BTK of each next code."""
        if noise is not None:
            x_BTC = noise.dropout(x_BTC, self.dropout, Stream.PRIOR_IN)
        for block in self.blocks:
            x_BTC = block(x_BTC)
        y_BTC = torch.relu(self.hidden(torch.relu(x_BTC)))
        if noise is not None:
            y_BTC = noise.dropout(y_BTC, self.dropout, Stream.PRIOR_OUT)
        return self.output(y_BTC)

    def causal_blocks(self) -> list[CausalBlock]:
        """The blocks in order, first to last."""
        return [block for block in self.blocks if isinstance(block, CausalBlock)]

    def start(self, rows: int) -> list[list[Tensor]]:
        """For every block its last kernel-1 inputs, zero before the beginning."""
        zero_BC = self.embedding.weight.new_zeros(rows, self.embedding.embedding_dim)
        return [[zero_BC] * (block.kernel - 1) for block in self.causal_blocks()]

    def step(self, x_BC: Tensor, cache: list[list[Tensor]]) -> tuple[Tensor, list[list[Tensor]]]:
        """logits_BK after one more input, and the moved cache."""
        moved = []
        for block, past in zip(self.causal_blocks(), cache, strict=True):
            window = [*past, x_BC]
            moved.append(window[1:])
            x_BC = block.step(window)
        return self.output(torch.relu(self.hidden(torch.relu(x_BC)))), moved
