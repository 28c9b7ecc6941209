"""The arithmetic of the matrix products that take most of a training's time: those of LSTMs and of output layers.

Everything else, distances and losses above all, is fp32 in any case.
"""

from typing import Literal

import torch
from torch import nn

from davam.nn.lstm import Lstm
from davam.nn.output import Softmax

Precision = Literal["fp32", "bf16", "auto"]


def bf16_is_fast(device: torch.device) -> bool:
    """True where the hardware multiplies bf16 matrices faster than fp32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def set_precision(module: nn.Module, precision: Precision) -> None:
    """Chooses fp32, bf16, or auto (bf16 where it is fast) for all LSTMs and output layers of the module."""
    for part in module.modules():
        if isinstance(part, Lstm | Softmax):
            bf16 = precision == "bf16" or (precision == "auto" and bf16_is_fast(next(part.parameters()).device))
            part.dtype = torch.bfloat16 if bf16 else torch.float32
