"""The output layer restricted to the words of a known code.

Where a code is a function of its word, z = c(x), a softmax over the words of z_t alone makes the likelihood exact:
p(x) = p(c(x)) p(x | c(x)). A position then costs as many products as its code has words, V/K on average, not V.

Legend: B rows, N positions, C channels, V words, K codes, M words of a code, L logits of all positions, one position
after the other, G codes that are there, R rows of one width.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from davam.nn.choice import Choice, draw

# Logits of a drawn row: it is padded to the first of these that has room for the words of its code, whatever rows are
# drawn beside it.
WIDTHS = tuple(64 * 4**level for level in range(12))
# Said once a process of any CSR tensor; the one product that is asked of them here is tested against a dense one.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


@dataclass(frozen=True)
class Clusters:
    """The words in the order of their codes: those of code k are order_V[first_K1[k]:first_K1[k + 1]], and word v is
    the place_V[v]-th of its code. Words without a code (-1) come before all others."""

    order_V: Tensor
    first_K1: Tensor
    place_V: Tensor

    @classmethod
    def of(cls, code_V: Tensor, codes: int) -> "Clusters":
        """The clusters of a table from words to codes."""
        order_V = torch.argsort(code_V, stable=True)
        without = (code_V < 0).sum()
        count_K = torch.bincount(code_V[order_V[without:]], minlength=codes)
        first_K1 = torch.cat([count_K.new_zeros(1), count_K.cumsum(0)]) + without
        place_V = torch.empty_like(order_V)
        start_V = torch.cat([first_K1.new_zeros(1), first_K1])[code_V[order_V] + 1]
        place_V[order_V] = torch.arange(len(order_V), device=order_V.device) - start_V
        return cls(order_V, first_K1, place_V)

    @property
    def count_K(self) -> Tensor:
        """How many words each code has."""
        return self.first_K1.diff()


@dataclass(frozen=True)
class CodeWords:
    """The words of each code with their output vectors and biases, both in the order of the codes."""

    clusters: Clusters
    weight_VC: Tensor
    bias_V: Tensor

    @classmethod
    def of(cls, clusters: Clusters, weight_VC: Tensor, bias_V: Tensor) -> "CodeWords":
        """Those of the vectors and biases in the order of the words."""
        order_V = clusters.order_V
        return cls(clusters, weight_VC.index_select(0, order_V), bias_V.index_select(0, order_V))


class RestrictedNll(torch.autograd.Function):
    """Weighted sum of -log softmax over each position's own code's words, and the same per position without a gradient.

    Positions are grouped by their codes, so that a code's words are multiplied once. As in `LinearNll`, the gradients
    are computed together with the loss.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h_NC: Tensor,
        weight_VC: Tensor,
        bias_V: Tensor,
        first_N: Tensor,
        count_N: Tensor,
        place_N: Tensor,
        weight_N: Tensor,
        learns: bool,
    ) -> tuple[Tensor, Tensor]:
        """(sum over n of weight_N * nll_N, nll_N), both fp32. Position n chooses among the count_N[n] rows of the
        weights from first_N[n] on; place_N[n] of them is right. Positions of one code stand together."""
        groups = _groups(first_N, count_N)
        logit_L = h_NC.new_empty(int(count_N.sum()))
        for rows, words, logits in groups:
            out_NM = logit_L[logits].view(rows.stop - rows.start, -1)
            torch.addmm(bias_V[words], h_NC[rows], weight_VC[words].T, out=out_NM)
        start_N = count_N.cumsum(0) - count_N
        position_L = torch.arange(len(count_N), device=h_NC.device).repeat_interleave(count_N)
        best_N = torch.segment_reduce(logit_L, "max", lengths=count_N)
        picked_N = logit_L[start_N + place_N]
        p_L = logit_L.sub_(best_N[position_L]).exp_()
        norm_N = torch.segment_reduce(p_L, "sum", lengths=count_N)
        nll_N = norm_N.log() + best_N - picked_N
        if not learns:
            return (nll_N * weight_N).sum(), nll_N
        delta_L = p_L.div_(norm_N[position_L])
        delta_L[start_N + place_N] -= 1
        delta_L.mul_(weight_N[position_L])
        grad_h_NC, grad_w_VC, grad_b_V = torch.empty_like(h_NC), torch.zeros_like(weight_VC), torch.zeros_like(bias_V)
        for rows, words, logits in groups:
            delta_NM = delta_L[logits].view(rows.stop - rows.start, -1)
            torch.mm(delta_NM, weight_VC[words], out=grad_h_NC[rows])
            torch.mm(delta_NM.T, h_NC[rows], out=grad_w_VC[words])
            torch.sum(delta_NM, 0, out=grad_b_V[words])
        ctx.save_for_backward(grad_h_NC, grad_w_VC, grad_b_V)
        ctx.mark_non_differentiable(nll_N)
        return (nll_N * weight_N).sum(), nll_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The stored gradients times the gradient of the weighted sum."""
        grad_h_NC, grad_w_VC, grad_b_V = ctx.saved_tensors
        return grad_h_NC * grads[0], grad_w_VC * grads[0], grad_b_V * grads[0], None, None, None, None, None


def restricted_nll(
    h_NC: Tensor, words: CodeWords, target_N: Tensor, code_N: Tensor, weight_N: Tensor
) -> tuple[Tensor, Tensor]:
    """(sum of weight_N * nll_N with gradient, nll_N without), nats, of words given their codes. The only word of a code
    costs nothing."""
    clusters = words.clusters
    several_N = (clusters.count_K[code_N] > 1).nonzero().squeeze(1)
    # Sorted by code, as the words are, so that a code's positions and words are one slice each.
    order_N = several_N[torch.argsort(code_N[several_N], stable=True)]
    if not len(order_N):
        # Every weight must get its gradient all the same, or DDP waits for it for ever.
        return 0 * (h_NC.sum() + words.weight_VC.sum() + words.bias_V.sum()), torch.zeros_like(weight_N)
    total, nll_R = RestrictedNll.apply(
        h_NC.index_select(0, order_N),
        words.weight_VC,
        words.bias_V,
        clusters.first_K1[code_N[order_N]],
        clusters.count_K[code_N[order_N]],
        clusters.place_V[target_N[order_N]],
        weight_N[order_N],
        torch.is_grad_enabled(),
    )
    return total, torch.zeros_like(weight_N).index_copy(0, order_N, nll_R)


def restricted_draw(
    h_BC: Tensor,
    words: CodeWords,
    code_B: Tensor,
    uniform_B: Tensor,
    choice: Choice,
    barred: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """One word of each row's code, none of the barred ones unless there is no other, and its nats: (word_B, nats_B).

    A row's result depends on its own numbers alone, not on the rows beside it.
    """
    clusters = words.clusters
    first_B, count_B = clusters.first_K1[code_B], clusters.count_K[code_B]
    logit_L, start_B = _own_logits(h_BC, words, first_B, count_B)
    place_B, nats_B = torch.empty_like(code_B), torch.empty_like(uniform_B)
    level_B = torch.bucketize(count_B, torch.tensor(WIDTHS, device=count_B.device))
    for level in level_B.unique().tolist():
        rows = (level_B == level).nonzero().squeeze(1)
        step_M = torch.arange(WIDTHS[level], device=rows.device)
        real_RM = step_M < count_B[rows, None]
        own_RM = (start_B[rows, None] + step_M).clamp_max(len(logit_L) - 1)
        logits_RM = logit_L[own_RM].masked_fill(~real_RM, -math.inf)
        if barred:
            word_RM = clusters.order_V[(first_B[rows, None] + step_M).clamp_max(len(clusters.order_V) - 1)]
            picked_R, nats_B[rows] = _draw_allowed(logits_RM, word_RM, barred, uniform_B[rows], choice)
        else:
            picked_R, nats_B[rows] = draw(logits_RM, uniform_B[rows], choice)
        place_B[rows] = first_B[rows] + picked_R
    return clusters.order_V[place_B], nats_B


def _own_logits(h_BC: Tensor, words: CodeWords, first_B: Tensor, count_B: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of the count_B words from first_B on, one row after the other, and where a row's begin: (logit_L,
    start_B). Each is one product of two vectors, which other rows have no part in."""
    end_B = count_B.cumsum(0)
    start_B = end_B - count_B
    size = int(end_B[-1])
    place_L = torch.arange(size, device=h_BC.device) + (first_B - start_B).repeat_interleave(count_B, output_size=size)
    wanted_BV = torch.sparse_csr_tensor(
        F.pad(end_B, (1, 0)),
        place_L,
        words.bias_V[place_L],
        size=(len(h_BC), len(words.bias_V)),
        check_invariants=False,
    )
    return torch.sparse.sampled_addmm(wanted_BV, h_BC, words.weight_VC.T).values(), start_B


def _draw_allowed(
    logits_RM: Tensor, word_RM: Tensor, barred: Sequence[int], uniform_R: Tensor, choice: Choice
) -> tuple[Tensor, Tensor]:
    """One of the words that are not barred per row, and its nats among all."""
    barred_RM = torch.isin(word_RM, torch.tensor(barred, device=word_RM.device))
    # A code without any other word has to be decoded all the same.
    barred_RM &= (~barred_RM & (logits_RM > -math.inf)).any(1, keepdim=True)
    allowed_RM = logits_RM.masked_fill(barred_RM, -math.inf)
    index_R, nats_R = draw(allowed_RM, uniform_R, choice)
    return index_R, nats_R + logits_RM.logsumexp(1) - allowed_RM.logsumexp(1)


def _groups(first_N: Tensor, count_N: Tensor) -> list[tuple[slice, slice, slice]]:
    """For each code that is there: its positions, its words, and its logits."""
    first_G, rows_G = first_N.unique_consecutive(return_counts=True)
    groups, row, logit = [], 0, 0
    for first, rows, count in zip(
        first_G.tolist(), rows_G.tolist(), count_N[rows_G.cumsum(0) - 1].tolist(), strict=True
    ):
        groups.append((slice(row, row + rows), slice(first, first + count), slice(logit, logit + rows * count)))
        row, logit = row + rows, logit + rows * count
    return groups
