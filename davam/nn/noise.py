"""Random numbers as a function of (seed, step, row): no generator has a state that could be lost or shared.

Dropout masks and sampling noise of a row depend on nothing but its own identity, so the batch it falls into,
the number of workers and an interruption change nothing. Philox counters give independent streams for free.

Legend: B rows, T positions, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


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


def generator(seed: int, stream: Stream, *counter: int) -> np.random.Generator:
    """A generator that depends on (seed, stream, counter) alone; the counter has up to three numbers."""
    words = [0, *counter, *([0] * (3 - len(counter)))]
    return np.random.Generator(np.random.Philox(key=[seed, int(stream)], counter=words))


@dataclass(frozen=True)
class RowNoise:
    """Dropout for one training step: the masks of a row are drawn from (seed, step, row id)."""

    seed: int
    step: int
    row_ids: Sequence[int]

    def dropout(self, x_BTC: Tensor, length_B: Sequence[int], p: float, stream: Stream) -> Tensor:
        """The input with each value dropped with probability p and the rest scaled by 1/(1-p)."""
        if p == 0:
            return x_BTC
        width, channels = x_BTC.shape[1:]
        keep_BTC = np.zeros((len(self.row_ids), width, channels), dtype=bool)
        threshold = round(p * 65536)
        for row, (row_id, length) in enumerate(zip(self.row_ids, length_B, strict=True)):
            raw = generator(self.seed, stream, self.step, row_id).bytes(2 * length * channels)
            keep_BTC[row, :length] = (np.frombuffer(raw, np.uint16) >= threshold).reshape(length, channels)
        scale_BTC = torch.from_numpy(keep_BTC).to(x_BTC.device, x_BTC.dtype).mul_(65536 / (65536 - threshold))
        return x_BTC * scale_BTC


def sampling_uniforms(seed: int, stream: Stream, ids: Sequence[int], count: int) -> Tensor:
    """Uniform numbers in [0, 1) for each row id, u_BT in fp32."""
    rows = [generator(seed, stream, 0, row_id).random(count, dtype=np.float32) for row_id in ids]
    return torch.from_numpy(np.stack(rows))
