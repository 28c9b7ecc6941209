"""Random numbers as a function of (seed, step, row): no generator has a state that could be lost or shared.

Dropout masks and sampling noise of a row depend on nothing but its own identity, so the batch it falls into,
the number of workers and an interruption change nothing.

Legend: B rows, T positions, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Stream(IntEnum):
    """Purposes that must not share random numbers."""

    ENCODER_IN = 1
    DECODER_IN = 2
    DECODER_OUT = 3
    PRIOR_IN = 4
    PRIOR_OUT = 5
    PRIOR_SAMPLE = 6
    DECODER_SAMPLE = 7
    PLAN = 8
    KMEANS = 9
    RESTART = 10
    INIT = 11
    GRAMMAR = 12
    POSTERIOR = 13
    IMPORTANCE = 14
    LAGGING = 15
    VARY = 16
    VARY_DECODER = 17
    LABEL = 18
    SUBSET = 19
    EDA = 20
    PROMPT = 21
    CAUSAL_LM = 22


def generator(seed: int, stream: Stream, *counter: int) -> np.random.Generator:
    """A generator that depends on (seed, stream, counter) alone; the counter has up to three numbers."""
    return np.random.Generator(np.random.Philox(key=[seed, int(stream)], counter=_counter(*counter)))


@dataclass(frozen=True)
class RowNoise:
    """Dropout for one training step: the masks of a row are a function of (seed, step, row id)."""

    seed: int
    step: int
    row_ids: Sequence[int]

    def dropout(self, x_BTC: Tensor, p: float, stream: Stream) -> Tensor:
        """The input with each value dropped with probability p and the rest scaled by 1/(1-p)."""
        if p == 0:
            return x_BTC
        rows, width, channels = x_BTC.shape
        threshold = min(round(p * 65536), 65535)  # of 65536: something is always kept, and the scale finite
        words = -(-channels // 4)  # each 64-bit word serves four channels
        place_W = np.arange(width * words, dtype=np.uint64)
        word_BW = _splitmix64(self._keys(stream)[:, None] + place_W[None, :] * _GOLDEN)
        keep = word_BW.view(np.uint16).reshape(rows, width, 4 * words)[:, :, :channels] >= threshold
        scale_BTC = torch.from_numpy(keep).to(x_BTC.device, x_BTC.dtype).mul_(65536 / (65536 - threshold))
        return x_BTC * scale_BTC

    def uniform(self, width: int, channels: int, stream: Stream) -> Tensor:
        """Uniform numbers uniform_BTC in fp64, inside (0, 1); a wider call begins with the same numbers."""
        place_W = np.arange(width * channels, dtype=np.uint64)
        word_BW = _splitmix64(self._keys(stream)[:, None] + place_W[None, :] * _GOLDEN)
        uniform_BW = ((word_BW >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        return torch.from_numpy(uniform_BW).view(len(self.row_ids), width, channels)

    def normal(self, width: int, channels: int, stream: Stream) -> Tensor:
        """Standard normal numbers normal_BTC in fp32; a wider call begins with the same numbers."""
        return torch.special.ndtri(self.uniform(width, channels, stream)).float()

    def repeated(self, times: int) -> "RowNoise":
        """The noise of a batch in which every row stands so many times: all of them share theirs."""
        return RowNoise(self.seed, self.step, [row_id for row_id in self.row_ids for _ in range(times)])

    def _keys(self, stream: Stream) -> NDArray[np.uint64]:
        """One 64-bit key per row, key_B."""
        key_B = _splitmix64(np.asarray(self.row_ids, np.int64).astype(np.uint64))
        for number in (self.seed, int(stream), self.step):
            key_B = _splitmix64((key_B ^ np.asarray([number], np.uint64)) + _GOLDEN)
        return key_B


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The SplitMix64 finaliser (Steele, Lea and Flood, 2014): a bijection that scatters consecutive numbers."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def sampling_uniforms(
    seed: int, stream: Stream, ids: Sequence[int], count: int, parts: Sequence[int] | None = None
) -> Tensor:
    """Uniform numbers in [0, 1) for each row id, or for each part of it, u_BT in fp32."""
    # One generator set to each row's state in turn: making one a row takes five times as long.
    bits = np.random.Philox(key=[seed, int(stream)], counter=0)
    start, numbers = bits.state, np.random.Generator(bits)
    u_BT = np.empty((len(ids), count), np.float32)
    for row, (row_id, part) in enumerate(zip(ids, parts or [0] * len(ids), strict=True)):
        start["state"]["counter"][:] = _counter(0, row_id, part)
        bits.state = start
        numbers.random(dtype=np.float32, out=u_BT[row])
    return torch.from_numpy(u_BT)


def _counter(*numbers: int) -> list[int]:
    return [0, *numbers, *([0] * (3 - len(numbers)))]
