"""A Transformer that reads a text and says its codes one after the other: an autoregressive posterior.

Layers normalise their input (without weights), positions are sinusoids, and no dropout stands between the codes as they
are drawn and as they are weighed. The first input is a vector of its own, so every code, 0 included, is only a code.

Legend: B rows, M rows times draws, S draws, W words, N codes, Q queries, T keys, H heads, C channels, K codes of the
codebook.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from davam.config import Frozen
from davam.nn import ops
from davam.nn.posterior import CodeHead, Posterior, draw_codes, held, mean_state

KeysValues = tuple[Tensor, Tensor]


class CodeTransformerConfig(Frozen):
    """Depth and width of the Transformer, alike for what reads the words and for what says the codes."""

    layers: int = Field(2, ge=1)
    channels: int = Field(128, ge=2)
    heads: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _heads_share_the_channels(self) -> "CodeTransformerConfig":
        if self.channels % self.heads:
            raise ValueError(f"channels={self.channels} cannot be shared by heads={self.heads}; give a multiple")
        return self


class Attention(nn.Module):
    """Scaled dot-product attention with several heads."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.mix = nn.Linear(channels, channels)

    def keys_values(self, x_BTC: Tensor) -> KeysValues:
        """What is attended to, each (B, H, T, C / H)."""
        key_BTC, value_BTC = self.key_value(x_BTC).chunk(2, dim=-1)
        return self._split(key_BTC), self._split(value_BTC)

    def forward(self, x_BQC: Tensor, memory: KeysValues, mask_BT: Tensor | None = None, causal: bool = False) -> Tensor:
        """y_BQC of the queries; keys outside the mask are not seen, nor later ones if causal."""
        mask = None if mask_BT is None else mask_BT[:, None, None]
        found = F.scaled_dot_product_attention(self._split(self.query(x_BQC)), *memory, mask, is_causal=causal)
        return self.mix(found.transpose(1, 2).flatten(2))

    def _split(self, x_BTC: Tensor) -> Tensor:
        return x_BTC.unflatten(2, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Sequential):
    """Two layers of four times the width."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))


class ReadingLayer(nn.Module):
    """Words among words."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(channels, heads), FeedForward(channels)

    def forward(self, x_BWC: Tensor, mask_BW: Tensor) -> Tensor:
        """y_BWC."""
        normal_BWC = normalized(x_BWC)
        x_BWC = x_BWC + self.attention(normal_BWC, self.attention.keys_values(normal_BWC), mask_BW)
        return x_BWC + self.feed_forward(normalized(x_BWC))


class SayingLayer(nn.Module):
    """Codes among the codes before them, and then among the words."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention, self.reading = Attention(channels, heads), Attention(channels, heads)
        self.feed_forward = FeedForward(channels)

    def forward(self, x_MNC: Tensor, words: KeysValues, mask_BW: Tensor) -> Tensor:
        """y_MNC at every place."""
        normal_MNC = normalized(x_MNC)
        x_MNC = x_MNC + self.attention(normal_MNC, self.attention.keys_values(normal_MNC), causal=True)
        return self._read(x_MNC, words, mask_BW)

    def step(self, x_MC: Tensor, past: KeysValues | None, words: KeysValues, mask_BW: Tensor) -> tuple[Tensor, Any]:
        """y_MC at the newest place, and what the next one attends to."""
        normal_M1C = normalized(x_MC)[:, None]
        new = self.attention.keys_values(normal_M1C)
        if past is not None:
            new = (torch.cat([past[0], new[0]], dim=2), torch.cat([past[1], new[1]], dim=2))
        x_M1C = x_MC[:, None] + self.attention(normal_M1C, new)
        return self._read(x_M1C, words, mask_BW)[:, 0], new

    def _read(self, x_MNC: Tensor, words: KeysValues, mask_BW: Tensor) -> Tensor:
        # The draws of a row are queries beside each other, so that its words need not be repeated.
        query_BQC = normalized(x_MNC).view(len(mask_BW), -1, x_MNC.shape[-1])
        x_MNC = x_MNC + self.reading(query_BQC, words, mask_BW).view_as(x_MNC)
        return x_MNC + self.feed_forward(normalized(x_MNC))


@dataclass(frozen=True)
class Reading:
    """What the codes are said from: each layer's keys and values of the words, mask_BW, and the text as one vector."""

    words: list[KeysValues]
    mask_BW: Tensor
    text_BC: Tensor


class CodeTransformer(nn.Module):
    """q(z_n | z_<n, x) for n up to N."""

    def __init__(self, config: CodeTransformerConfig, codes: int, codebook_size: int) -> None:
        super().__init__()
        channels = config.channels
        self.codes = codes
        self.code_embedding = nn.Embedding(codebook_size + 1, channels)  # the last: the beginning
        self.reading = nn.ModuleList(ReadingLayer(channels, config.heads) for _ in range(config.layers))
        self.saying = nn.ModuleList(SayingLayer(channels, config.heads) for _ in range(config.layers))
        self.begin = codebook_size

    def read(self, word_BWC: Tensor, length_B: Tensor, head: CodeHead) -> "AutoregressivePosterior":
        """The posterior of rows of embedded words."""
        mask_BW = ops.length_mask(length_B, word_BWC.shape[1])
        x_BWC = word_BWC * math.sqrt(word_BWC.shape[2]) + waves(word_BWC, 0)
        for layer in self.reading:
            x_BWC = layer(x_BWC, mask_BW)
        words = [layer.reading.keys_values(normalized(x_BWC)) for layer in self.saying_layers()]
        text_BC = normalized(mean_state(x_BWC, length_B))
        return AutoregressivePosterior(self, head, Reading(words, mask_BW, text_BC))

    def saying_layers(self) -> list[SayingLayer]:
        """The layers that say the codes, first to last."""
        return [layer for layer in self.saying if isinstance(layer, SayingLayer)]

    def features(self, codes_MN: Tensor, reading: Reading) -> Tensor:
        """What becomes the logits at each place, given the codes before it, feature_MNC."""
        begin_M1 = torch.full_like(codes_MN[:, :1], self.begin)
        x_MNC = self._inputs(torch.cat([begin_M1, codes_MN[:, :-1]], dim=1), 0, reading)
        for layer, memory in zip(self.saying_layers(), reading.words, strict=True):
            x_MNC = layer(x_MNC, memory, reading.mask_BW)
        return normalized(x_MNC)

    def step(self, code_M: Tensor, place: int, past: list[Any], reading: Reading) -> tuple[Tensor, list[Any]]:
        """What becomes the logits at this place, given the code before it, feature_MC; and the moved cache."""
        x_MC, moved = self._inputs(code_M[:, None], place, reading)[:, 0], []
        for layer, before, memory in zip(self.saying_layers(), past, reading.words, strict=True):
            x_MC, cache = layer.step(x_MC, before, memory, reading.mask_BW)
            moved.append(cache)
        return normalized(x_MC), moved

    def _inputs(self, codes_MN: Tensor, first: int, reading: Reading) -> Tensor:
        """The codes before, and at every place the text as a whole: from the first step on a code says more of that."""
        x_MNC = self.code_embedding(codes_MN)
        text_MC = reading.text_BC.repeat_interleave(len(codes_MN) // len(reading.text_BC), 0)
        return x_MNC + text_MC[:, None] + waves(x_MNC, first)


class AutoregressivePosterior(Posterior):
    """q(z|x) = prod_n q(z_n | z_<n, x), its words read once."""

    def __init__(self, network: CodeTransformer, head: CodeHead, reading: Reading) -> None:
        self.network = network
        self.head = head
        self.reading = reading
        self.moves = True

    def hold(self) -> None:
        """From here on its ln q move nothing."""
        self.moves = False

    def draw(self, uniform_BSN: Tensor) -> Tensor:
        """Codes by uniform numbers, each given those before it, codes_BSN."""
        uniform_MN = uniform_BSN.flatten(0, 1)
        return self._said(len(uniform_MN), uniform_MN).view(uniform_BSN.shape)

    def mode(self) -> Tensor:
        """The likeliest code at each place given those before it, codes_BN."""
        return self._said(len(self.reading.mask_BW), None)

    def features(self, codes_BSN: Tensor) -> Tensor:
        """What becomes the logits at each place, given the codes before it, feature_BSNC."""
        return self.network.features(codes_BSN.flatten(0, 1), self.reading).view(*codes_BSN.shape, -1)

    def log_probs(self, feature_BSNC: Tensor) -> Tensor:
        """ln q of every code at each place, logq_BSNK."""
        logq_BSNK = self.head(feature_BSNC).log_softmax(-1)
        return logq_BSNK if self.moves else held(logq_BSNK)

    @torch.no_grad()
    def _said(self, rows: int, uniform_MN: Tensor | None) -> Tensor:
        code_M = torch.full((rows,), self.network.begin, device=self.reading.mask_BW.device)
        past: list[Any] = [None] * len(self.reading.words)
        columns = []
        for place in range(self.network.codes):
            feature_MC, past = self.network.step(code_M, place, past, self.reading)
            weight_MK = self.head.at(place, feature_MC).softmax(1)
            code_M = weight_MK.argmax(1) if uniform_MN is None else draw_codes(weight_MK, uniform_MN[:, place])
            columns.append(code_M)
        return torch.stack(columns, dim=1)


def normalized(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the channels."""
    return F.layer_norm(x, x.shape[-1:])


def waves(x_BTC: Tensor, first: int) -> Tensor:
    """The sinusoids of the places of vectors, from the first on, wave_TC."""
    width, channels = x_BTC.shape[1:]
    place_T1 = torch.arange(first, first + width, device=x_BTC.device)[:, None]
    rate_C = torch.exp(torch.arange(0, channels, 2, device=x_BTC.device) * (-math.log(10_000) / channels))
    angle_TC = place_T1 * rate_C
    return torch.stack([angle_TC.sin(), angle_TC.cos()], dim=-1).flatten(1)[:, :channels]
