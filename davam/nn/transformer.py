"""A Transformer as a backbone: pre-norm blocks, causal with a cache, or over whole rows without their padding.

The norms have no weights of their own: the linear layer after each can scale and shift.

Legend: B rows, R those of one length, T positions, E input dim, C width, N heads, D dim of a head, F half of it.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from davam.config import Frozen
from davam.errors import DataError

FEEDFORWARD = 4  # width of the feed-forward layers, in widths of the Transformer
ROTARY_BASE = 10_000

Rotary = tuple[Tensor, Tensor] | None
Cache = list[tuple[Tensor, Tensor]]


class TransformerConfig(Frozen):
    """Depth, heads and positions of a Transformer."""

    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    positions: Literal["rotary", "learned"] = Field(
        "rotary", description="learned: a table that ends with the longest text that data.max_tokens allows"
    )

    def check_width(self, name: str, width: int) -> None:
        """Raises ValueError for a width that the heads cannot share, naming its key."""
        if width % (2 * self.heads):
            raise ValueError(
                f"{name}={width} with {self.heads} heads: every head takes an equal, even share; give a multiple of "
                f"{2 * self.heads}"
            )


def rotary_table(start: int, count: int, head_dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos_TF and sin_TF of the angles at positions start, start+1, ..., one for each pair of channels (Su et al.,
    2021)."""
    place_T = torch.arange(start, start + count, dtype=torch.float64, device=like.device)
    pair_F = torch.arange(0, head_dim, 2, dtype=torch.float64, device=like.device)
    angle_TF = place_T[:, None] * ROTARY_BASE ** (-pair_F / head_dim)
    return angle_TF.cos().to(like.dtype), angle_TF.sin().to(like.dtype)


def rotated(x_BNTD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """The vectors with channels f and F+f of each rotated by the angle f of its position: the dot product of two
    depends on the distance of their positions alone."""
    cos_TF, sin_TF = rotary
    a_BNTF, b_BNTF = x_BNTD.chunk(2, dim=-1)
    return torch.cat([a_BNTF * cos_TF - b_BNTF * sin_TF, a_BNTF * sin_TF + b_BNTF * cos_TF], dim=-1)


def causal_attention(query_BNTD: Tensor, key_BNTD: Tensor, value_BNTD: Tensor) -> Tensor:
    """What each position reads of itself and those before it, mixed_BNTD."""
    if torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query_BNTD, key_BNTD, value_BNTD, is_causal=True)
    # Scores and generated rows agree bit for bit; training takes the faster form.
    mixed = [
        F.scaled_dot_product_attention(query_BNTD[:, :, t : t + 1], key_BNTD[:, :, : t + 1], value_BNTD[:, :, : t + 1])
        for t in range(query_BNTD.shape[2])
    ]
    return torch.cat(mixed, dim=2)


def whole_attention(query_BNTD: Tensor, key_BNTD: Tensor, value_BNTD: Tensor, length_B: Tensor) -> Tensor:
    """What each position reads of all real positions of its row, mixed_BNTD."""
    if torch.is_grad_enabled():
        real_BT = torch.arange(key_BNTD.shape[2], device=length_B.device) < length_B[:, None]
        return F.scaled_dot_product_attention(query_BNTD, key_BNTD, value_BNTD, attn_mask=real_BT[:, None, None])
    # Rows of one length at a time: the last bit of a state, and so its code, does not depend on the row's padding.
    mixed_BNTD = torch.zeros_like(query_BNTD)
    for length in length_B.unique().tolist():
        rows = (length_B == length).nonzero().squeeze(1)
        query_RNTD, key_RNTD, value_RNTD = (x[rows, :, :length] for x in (query_BNTD, key_BNTD, value_BNTD))
        mixed_BNTD[rows, :, :length] = F.scaled_dot_product_attention(query_RNTD, key_RNTD, value_RNTD)
    return mixed_BNTD


class Attention(nn.Module):
    """Self-attention in several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x_BTC: Tensor, rotary: Rotary, length_B: Tensor | None) -> Tensor:
        """What each position reads, y_BTC: of all real ones given the lengths, else of those up to itself."""
        query_BNTD, key_BNTD, value_BNTD = self._heads(x_BTC, rotary)
        if length_B is None:
            return self._merged(causal_attention(query_BNTD, key_BNTD, value_BNTD))
        return self._merged(whole_attention(query_BNTD, key_BNTD, value_BNTD, length_B))

    def step(self, x_B1C: Tensor, rotary: Rotary, past: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """What the newest position reads, y_B1C, and the keys and values so far."""
        query_BN1D, key_BN1D, value_BN1D = self._heads(x_B1C, rotary)
        key_BNTD, value_BNTD = torch.cat([past[0], key_BN1D], dim=2), torch.cat([past[1], value_BN1D], dim=2)
        mixed_BN1D = F.scaled_dot_product_attention(query_BN1D, key_BNTD, value_BNTD)
        return self._merged(mixed_BN1D), (key_BNTD, value_BNTD)

    def _heads(self, x_BTC: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.qkv(x_BTC).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query_BNTD, key_BNTD, value_BNTD = parts.unbind(0)
        if rotary is None:
            return query_BNTD, key_BNTD, value_BNTD
        return rotated(query_BNTD, rotary), rotated(key_BNTD, rotary), value_BNTD

    def _merged(self, mixed_BNTD: Tensor) -> Tensor:
        return self.output(mixed_BNTD.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """x + attention(norm x), and then x + feed-forward(norm x)."""

    def __init__(self, width: int, heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.up = nn.Linear(width, feedforward_dim)
        self.down = nn.Linear(feedforward_dim, width)

    def forward(self, x_BTC: Tensor, rotary: Rotary, length_B: Tensor | None) -> Tensor:
        """The block's output at every position, y_BTC."""
        return self._fed(x_BTC + self.attention(normed(x_BTC), rotary, length_B))

    def step(self, x_B1C: Tensor, rotary: Rotary, past: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The block's output at the newest position, y_B1C, and its keys and values so far."""
        read_B1C, past = self.attention.step(normed(x_B1C), rotary, past)
        return self._fed(x_B1C + read_B1C), past

    def _fed(self, x_BTC: Tensor) -> Tensor:
        return x_BTC + self.down(F.gelu(self.up(normed(x_BTC))))


class Transformer(nn.Module):
    """A linear layer into the width, the blocks, and a last norm, for rows of at most `longest` positions."""

    def __init__(
        self, config: TransformerConfig, input_dim: int, width: int, longest: int, feedforward_dim: int | None = None
    ) -> None:
        super().__init__()
        self.width = width
        self.head_dim = width // config.heads
        self.input = nn.Linear(input_dim, width)
        # None rather than empty: DDP waits for the gradient of every parameter that there is.
        self.position_embedding = nn.Embedding(longest, width) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(
            TransformerBlock(width, config.heads, feedforward_dim or FEEDFORWARD * width) for _ in range(config.layers)
        )

    def forward(self, x_BTE: Tensor, length_B: Tensor | None = None) -> Tensor:
        """y_BTC: each position of all real ones given the lengths, else of those up to itself."""
        x_BTC, rotary = self._inputs(x_BTE, 0)
        for block in self.blocks:
            x_BTC = block(x_BTC, rotary, length_B)
        return normed(x_BTC)

    def start(self, rows: int) -> Cache:
        """For every block no keys and no values."""
        none_BNTD = self.input.weight.new_zeros(rows, self.width // self.head_dim, 0, self.head_dim)
        return [(none_BNTD, none_BNTD)] * len(self.blocks)

    def step(self, x_BE: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """y_BC after one more input, and the longer cache. Without a gradient, on one CPU thread, equal bit for bit to
        the full forward's."""
        x_B1C, rotary = self._inputs(x_BE[:, None], cache[0][0].shape[2])
        longer = []
        for block, past in zip(self._blocks(), cache, strict=True):
            x_B1C, past = block.step(x_B1C, rotary, past)
            longer.append(past)
        return normed(x_B1C)[:, 0], longer

    def _inputs(self, x_BTE: Tensor, start: int) -> tuple[Tensor, Rotary]:
        """The inputs at positions start, start+1, ... in the width of the blocks, and what rotates queries and keys."""
        x_BTC, count = self.input(x_BTE), x_BTE.shape[1]
        if self.position_embedding is None:
            return normed(x_BTC), rotary_table(start, count, self.head_dim, x_BTC)
        table_TC = self.position_embedding.weight
        if start + count > len(table_TC):
            raise DataError(
                f"a row of {start + count} positions: this model has learned {len(table_TC)}; shorten the row, or "
                "train with positions=rotary or a higher data.max_tokens"
            )
        return normed(x_BTC + table_TC[start : start + count]), None

    def _blocks(self) -> list[TransformerBlock]:
        return [block for block in self.blocks if isinstance(block, TransformerBlock)]


def normed(x_BTC: Tensor) -> Tensor:
    """Each vector with mean 0 and variance 1."""
    return F.layer_norm(x_BTC, x_BTC.shape[-1:])


def transformer_size(config: TransformerConfig, input_dim: int, width: int, longest: int, feedforward_dim: int) -> int:
    """How many weights such a Transformer has."""
    attention = 4 * width * (width + 1)
    feedforward = (2 * width + 1) * feedforward_dim + width
    positions = longest * width if config.positions == "learned" else 0
    return (input_dim + 1) * width + positions + config.layers * (attention + feedforward)
