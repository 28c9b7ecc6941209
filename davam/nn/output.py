"""The output layer: from decoder states to words, without ever holding all logits of a batch.

`LinearNll` computes the loss and its gradients block by block of rows, so that a batch needs no N x V memory.
With a shortlist the layer is a two-level softmax (Grave et al., 2017, without the narrower tail): frequent words
and one "rare" symbol first, the rare words after it. Both forms are normalised exactly.

Legend: B rows, N positions, C input channels, V words, M members of one softmax.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from davam.nn.block import filled_up
from davam.nn.choice import ANCESTRAL, Choice, draw

BLOCK_LOGITS = 1 << 22  # logits held at once: 16 MB
# For bf16 products a CPU compiles a program for every new shape, which takes as long as several products, and keeps it.
BF16_ROWS = 64


class LinearNll(torch.autograd.Function):
    """Weighted sum of -log softmax(h W^T + b)[target], and the same per row without a gradient.

    The gradients are computed together with the loss, while a block's logits are at hand: three matrix products
    a block instead of four, and no stored logits. That is possible because the rows' weights are known beforehand.
    Softmax and loss are fp32; `dtype` is that of the matrix products alone.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h_NC: Tensor,
        weight_MC: Tensor,
        bias_M: Tensor | None,
        target_N: Tensor,
        weight_N: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """(sum over n of weight_N * nll_N, nll_N), both fp32."""
        matrix_MC, state_NC = weight_MC.to(dtype), h_NC.to(dtype)
        grad_h_NC, grad_w_MC = torch.empty_like(h_NC), torch.zeros_like(weight_MC)
        grad_b_M, nll_N = weight_MC.new_zeros(len(weight_MC)), torch.empty_like(weight_N)
        block = max(16, BLOCK_LOGITS // len(weight_MC))
        for start in range(0, len(h_NC), block):
            rows = slice(start, start + block)
            logits_NM = _logits(state_NC[rows], matrix_MC, bias_M)
            target_N1 = target_N[rows, None]
            picked_N1 = logits_NM.gather(1, target_N1)
            norm_N1 = logits_NM.logsumexp(1, keepdim=True)
            nll_N[rows] = (norm_N1 - picked_N1).squeeze(1)
            delta_NM = logits_NM.sub_(norm_N1).exp_()
            delta_NM.scatter_add_(1, target_N1, torch.full_like(norm_N1, -1.0)).mul_(weight_N[rows, None])
            if bias_M is not None:
                grad_b_M += delta_NM.sum(0)
            delta_NM = delta_NM.to(dtype)
            grad_h_NC[rows] = (delta_NM @ matrix_MC).to(h_NC.dtype)
            if dtype == weight_MC.dtype:
                grad_w_MC.addmm_(delta_NM.T, state_NC[rows])
            else:
                grad_w_MC += (delta_NM.T @ state_NC[rows]).to(weight_MC.dtype)
        ctx.save_for_backward(grad_h_NC, grad_w_MC, None if bias_M is None else grad_b_M)
        ctx.mark_non_differentiable(nll_N)
        return (nll_N * weight_N).sum(), nll_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The stored gradients times the gradient of the weighted sum."""
        grad_h_NC, grad_w_MC, grad_b_M = ctx.saved_tensors
        bias_grad = None if grad_b_M is None else grad_b_M * grads[0]
        return grad_h_NC * grads[0], grad_w_MC * grads[0], bias_grad, None, None, None


def _logits(h_NC: Tensor, weight_MC: Tensor, bias_M: Tensor | None) -> Tensor:
    if bias_M is None:
        return (h_NC @ weight_MC.T).float()
    if h_NC.dtype == bias_M.dtype:
        return torch.addmm(bias_M, h_NC, weight_MC.T)
    return (h_NC @ weight_MC.T).float().add_(bias_M)


class Softmax(nn.Module):
    """One linear softmax over M members."""

    def __init__(self, channels: int, members: int, bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, members, bias=bias)
        self.dtype = torch.float32

    def nll(self, h_NC: Tensor, target_N: Tensor, weight_N: Tensor) -> tuple[Tensor, Tensor]:
        """(weighted sum with gradient, nll_N without), nats."""
        count = len(h_NC)
        if self.dtype == torch.bfloat16:
            missing = -count % BF16_ROWS
            h_NC, target_N, weight_N = (
                F.pad(h_NC, (0, 0, 0, missing)),
                F.pad(target_N, (0, missing)),
                F.pad(weight_N, (0, missing)),
            )
        if torch.is_grad_enabled():
            total, nll_N = LinearNll.apply(h_NC, self.linear.weight, self.linear.bias, target_N, weight_N, self.dtype)
            return total, nll_N[:count]
        nll_N = torch.empty_like(weight_N)
        block = max(16, BLOCK_LOGITS // self.linear.out_features)
        for start in range(0, len(h_NC), block):
            rows = slice(start, start + block)
            nll_N[rows] = F.cross_entropy(self.logits(h_NC[rows]), target_N[rows], reduction="none")
        return (nll_N * weight_N).sum(), nll_N[:count]

    def logits(self, h_NC: Tensor) -> Tensor:
        """logits_NM in fp32."""
        return _logits(h_NC.to(self.dtype), self.linear.weight.to(self.dtype), self.linear.bias)


class OutputLayer(nn.Module):
    """p(word | state): one softmax, or two levels when `shortlist` is under the vocabulary's size (0: one level).

    Words are ordered by frequency, so that the first `shortlist` ids cover most of a text.
    """

    def __init__(self, channels: int, vocab_size: int, shortlist: int, bias: bool = True) -> None:
        super().__init__()
        self.shortlist = shortlist if 0 < shortlist < vocab_size else vocab_size
        self.head = Softmax(channels, self.shortlist + (self.shortlist < vocab_size), bias)
        self.tail = Softmax(channels, vocab_size - self.shortlist, bias) if self.shortlist < vocab_size else None

    def word_weights(self) -> tuple[Tensor, Tensor]:
        """The vector and the bias of every word, weight_VC and bias_V."""
        weight_VC, bias_V = self.head.linear.weight[: self.shortlist], self.head.linear.bias[: self.shortlist]
        if self.tail is None:
            return weight_VC, bias_V
        return torch.cat([weight_VC, self.tail.linear.weight]), torch.cat([bias_V, self.tail.linear.bias])

    def nll(self, h_NC: Tensor, target_N: Tensor, weight_N: Tensor) -> tuple[Tensor, Tensor]:
        """(sum of weight_N * nll_N with gradient, nll_N without), nats."""
        total, nll_N = self.head.nll(h_NC, target_N.clamp_max(self.shortlist), weight_N)
        rare = (target_N >= self.shortlist).nonzero().squeeze(1)
        if self.tail is None:
            return total, nll_N
        # Without any rare word, too: every weight must get its gradient, or DDP waits for it for ever.
        # index_select has a cheap backward pass, unlike indexing by a mask.
        part, nll_R = self.tail.nll(h_NC.index_select(0, rare), target_N[rare] - self.shortlist, weight_N[rare])
        return total + part, nll_N.index_add(0, rare, nll_R)

    def log_probs(self, h_NC: Tensor) -> Tensor:
        """ln p of every word, logp_NV in fp32."""
        head_NM = self.head.logits(h_NC).log_softmax(-1)
        if self.tail is None:
            return head_NM
        tail_NM = self.tail.logits(h_NC).log_softmax(-1) + head_NM[:, -1:]
        return torch.cat([head_NM[:, :-1], tail_NM], dim=1)

    def draw(
        self, h_BC: Tensor, uniform_B2: Tensor, choice: Choice = ANCESTRAL, barred: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor]:
        """One word per row, none of the barred ones, and its nats under the model as it is: (word_B, nats_B).

        The second uniform number serves the second level. Drawn from the model itself, the rare words are computed
        only for the rows that drew the rare symbol; drawn greedily, only where they could win.
        """
        if self.tail is not None and max(barred, default=0) < self.shortlist:
            if choice == ANCESTRAL:
                return self._draw_by_level(h_BC, uniform_B2, barred)
            if choice.greedy:
                return self._likeliest(h_BC, barred)
        return draw(self.log_probs(h_BC), uniform_B2[:, 0], choice, barred)

    def _draw_by_level(self, h_BC: Tensor, uniform_B2: Tensor, barred: Sequence[int]) -> tuple[Tensor, Tensor]:
        word_B, nats_B = draw(self.head.logits(h_BC), uniform_B2[:, 0], ANCESTRAL, barred)
        rare = (word_B == self.shortlist).nonzero().squeeze(1)
        if not len(rare):
            return word_B, nats_B
        rare_R, nats_R = draw(self._tail_logits(h_BC, rare), uniform_B2[rare, 1])
        return word_B.index_copy(0, rare, self.shortlist + rare_R), nats_B.index_add(0, rare, nats_R)

    def _likeliest(self, h_BC: Tensor, barred: Sequence[int]) -> tuple[Tensor, Tensor]:
        head_BM = self.head.logits(h_BC).log_softmax(-1)
        head_BM[:, list(barred)] = -math.inf
        best_B, word_B = head_BM[:, : self.shortlist].max(1)
        rare = (head_BM[:, -1] > best_B).nonzero().squeeze(1)
        if not len(rare):
            return word_B, -best_B
        tail_R, rare_R = self._tail_logits(h_BC, rare).log_softmax(-1).max(1)
        tail_R = tail_R + head_BM[rare, -1]
        wins = tail_R > best_B[rare]
        word_B = word_B.index_copy(0, rare, torch.where(wins, self.shortlist + rare_R, word_B[rare]))
        return word_B, -best_B.index_copy(0, rare, torch.maximum(tail_R, best_B[rare]))

    def _tail_logits(self, h_BC: Tensor, rare: Tensor) -> Tensor:
        """Logits of the rare words for the chosen rows, logits_RM."""
        assert self.tail is not None
        return self.tail.logits(h_BC[filled_up(rare, len(h_BC))])[: len(rare)]
