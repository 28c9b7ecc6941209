"""The output layer: from decoder states to words, without ever holding all logits of a batch.

`LinearNll` computes the loss and its gradients block by block of rows, so that the logits stay in the cache and a
batch needs no N x V memory. With a shortlist the layer is a two-level softmax (Grave et al., 2017, without the
narrower tail): frequent words and one "rare" symbol first, the rare words after it. Both forms are exact.

Legend: N positions, C input channels, V words, M members of one softmax.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from davam.nn import ops

BLOCK_LOGITS = 1 << 19  # logits held at once: 2 MB, a core's cache


def bf16_is_fast(device: torch.device) -> bool:
    """True where the hardware multiplies bf16 matrices faster than fp32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class LinearNll(torch.autograd.Function):
    """-log softmax(h W^T + b)[target] for each row, with gradients computed in the forward pass.

    The gradient of row n is scaled by `scale_N` in the forward pass, because the loss of a row enters the total
    with a known weight; backward then only needs the common factor of the rows.
    """

    @staticmethod
    def forward(ctx: Any, h_NC: Tensor, weight_MC: Tensor, bias_M: Tensor, target_N: Tensor, bf16: bool) -> Tensor:
        """nll_N in fp32."""
        product_dtype = torch.bfloat16 if bf16 else torch.float32
        matrix_MC = weight_MC.detach().to(product_dtype)
        state_NC = h_NC.detach().to(product_dtype)
        ctx.save_for_backward(state_NC, matrix_MC, bias_M.detach(), target_N)
        block = max(16, BLOCK_LOGITS // len(weight_MC))
        nll_N = torch.empty(len(h_NC), device=h_NC.device)
        for start in range(0, len(h_NC), block):
            rows = slice(start, start + block)
            logits_NM = torch.addmm(bias_M.detach(), state_NC[rows], matrix_MC.T).float() if not bf16 else (
                (state_NC[rows] @ matrix_MC.T).float() + bias_M.detach())  # fmt: skip
            nll_N[rows] = F.cross_entropy(logits_NM, target_N[rows], reduction="none")
        return nll_N
