"""Every formula of the paper as a pure function, in fp32 inside.

Legend: B rows, T source positions, S target positions, N any flat index, H hidden, D code dim, K codes, V words.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

INFORMATION_ROWS = 1024  # rows that are compared with all others at once
GROUP = 64  # members whose weights are summed together in the first level of a draw

LstmState = list[tuple[Tensor, Tensor]]


@contextlib.contextmanager
def full_fp32(device_type: str) -> Iterator[None]:
    """A context in which matrix products are true fp32: autocast off, TF32 off.

    A distance rounded to bf16 or TF32 moves 8-80% of the codes of models whose states are not normalised.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def nearest_code(h_ND: Tensor, code_KD: Tensor) -> Tensor:
    """Index of the closest code for each state, z_N. Eq. (6). fp32; ties go to the lowest index."""
    with full_fp32(h_ND.device.type):
        h_ND, code_KD = h_ND.float(), code_KD.float()
        # |h|^2 is the same for every code, so it is left out of the comparison.
        score_NK = torch.addmm(code_KD.square().sum(1), h_ND, code_KD.T, beta=1, alpha=-2)
        return score_NK.argmin(1)


def straight_through(h_BTD: Tensor, quant_BTD: Tensor) -> Tensor:
    """The codes' vectors, with the gradient copied to the states (straight-through estimator)."""
    return h_BTD + (quant_BTD - h_BTD).detach()


def commitment(h_BTD: Tensor, quant_BTD: Tensor, mask_BT: Tensor, reduction: str) -> Tensor:
    """Distance of states to their codes per sentence, commit_B, second term of Eq. (8) without beta.

    Summed over positions; over D it is summed (`sum`, the paper's norm) or averaged (`mean`).
    """
    square_BTD = (h_BTD - quant_BTD.detach()).square()
    square_BT = square_BTD.sum(-1) if reduction == "sum" else square_BTD.mean(-1)
    return (square_BT * mask_BT).sum(1)


def gaussian_draw(mean: Tensor, logvar: Tensor, normal: Tensor) -> Tensor:
    """mean + sigma * normal."""
    return mean + torch.exp(0.5 * logvar) * normal


def gaussian_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL of N(mean, exp(logvar)) to N(0, 1) of each dimension, in nats."""
    return 0.5 * (mean.square() + logvar.exp() - logvar - 1)


def gaussian_kl_between(mean: Tensor, logvar: Tensor, to_mean: Tensor, to_logvar: Tensor) -> Tensor:
    """KL of N(mean, exp(logvar)) to N(to_mean, exp(to_logvar)) of each dimension, in nats."""
    spread = (logvar - to_logvar).exp() + (mean - to_mean).square() * torch.exp(-to_logvar)
    return 0.5 * (spread - 1 + to_logvar - logvar)


def gaussian_log_density(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """ln N(x; mean, exp(logvar)) of each dimension."""
    return -0.5 * (math.log(2 * math.pi) + logvar + (x - mean).square() * torch.exp(-logvar))


def gaussian_information(mean_BD: Tensor, logvar_BD: Tensor, normal_BD: Tensor) -> Tensor:
    """I(x; z) in nats under the mixture of all rows' posteriors, with one draw a row: the mean of
    ln q(z|x) - ln (1/B) sum_j q(z|x_j), the first term in closed form."""
    mean_BD, logvar_BD = mean_BD.double(), logvar_BD.double()  # the square, written out, cancels
    z_BD = gaussian_draw(mean_BD, logvar_BD, normal_BD.double())
    negative_entropy = -0.5 * (math.log(2 * math.pi) + 1 + logvar_BD).sum(1).mean()
    # ln q(z_i|x_j) = -1/2 [ sum_d (z_i - m_j)^2 / v_j + logvar_j + ln 2 pi ], the square written out: two products.
    precision_BD = torch.exp(-logvar_BD)
    constant_B = (mean_BD.square() * precision_BD + logvar_BD + math.log(2 * math.pi)).sum(1)
    mixtures = []
    for z_ND in z_BD.split(INFORMATION_ROWS):
        square_NB = z_ND.square() @ precision_BD.T - 2 * z_ND @ (mean_BD * precision_BD).T
        mixtures.append((-0.5 * (square_NB + constant_B)).logsumexp(1) - math.log(len(mean_BD)))
    return negative_entropy - torch.cat(mixtures).mean()


def normal_quantile(uniform: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones in [0, 1), in fp32, by the inverse of the distribution function."""
    # Uniform numbers of 24 bits: half a step keeps both ends finite.
    return torch.special.ndtri(uniform.double() + 2.0**-25).float()


def length_mask(length_B: Tensor, width: int) -> Tensor:
    """True at the real positions, mask_BT, for the given row lengths."""
    return torch.arange(width, device=length_B.device)[None, :] < length_B[:, None]


def inverse_cdf(weight_BK: Tensor, uniform_B: Tensor) -> Tensor:
    """One draw per row in proportion to the weights, index_B, by inverting the cumulative distribution.

    A row's draw depends on its own weights and its own uniform number alone. Wide rows are searched in two levels,
    groups first: a running sum of thousands of numbers is slow.
    """
    rows, width = weight_BK.shape
    if width <= GROUP:
        return _invert(weight_BK, uniform_B * weight_BK.sum(1))[0]
    weight_BGK = F.pad(weight_BK, (0, -width % GROUP)).view(rows, -1, GROUP)
    sum_BG = weight_BGK.sum(-1)
    group_B, rest_B = _invert(sum_BG, uniform_B * sum_BG.sum(1))
    place_B, _ = _invert(weight_BGK[torch.arange(rows, device=weight_BK.device), group_B], rest_B)
    return group_B * GROUP + place_B


def _invert(weight_BK: Tensor, target_B: Tensor) -> tuple[Tensor, Tensor]:
    """The member in which the running sum passes the target, and how far into it: (index_B, rest_B)."""
    cdf_BK = weight_BK.cumsum(-1)
    index_B1 = torch.searchsorted(cdf_BK, target_B[:, None], right=True)
    # Rounding at the upper end must not select a member of weight zero.
    last_B1 = torch.searchsorted(cdf_BK, cdf_BK[:, -1:].contiguous())
    index_B1 = torch.minimum(index_B1, last_B1)
    before_B1 = cdf_BK.gather(1, (index_B1 - 1).clamp_min(0)) * (index_B1 > 0)
    return index_B1.squeeze(1), (target_B[:, None] - before_B1).squeeze(1)


def lstm_step(lstm: nn.LSTM, x_BE: Tensor, state: LstmState) -> tuple[Tensor, LstmState]:
    """One step of the LSTM, h_BH and the new state: (h_BH, c_BH) of every layer. On a CPU a call of the module for a
    single step spends most of its time on arranging the weights anew."""
    moved = []
    for (w_ih, w_hh, b_ih, b_hh), (h_BH, c_BH) in zip(lstm.all_weights, state, strict=True):
        gate_BH4 = torch.addmm(torch.addmm(b_ih + b_hh, x_BE, w_ih.T), h_BH, w_hh.T)
        h_BH, c_BH = lstm_cell(gate_BH4, c_BH)
        moved.append((h_BH, c_BH))
        x_BE = h_BH
    return x_BE, moved


def lstm_start(lstm: nn.LSTM, rows: int) -> LstmState:
    """The state before the first step."""
    zero_BH = lstm.all_weights[0][0].new_zeros(rows, lstm.hidden_size)
    return [(zero_BH, zero_BH)] * lstm.num_layers


def lstm_unrolled(lstm: nn.LSTM, x_BTE: Tensor) -> Tensor:
    """The LSTM over whole rows by single steps, h_BTH: bit for bit what generation computes."""
    state, outputs = lstm_start(lstm, len(x_BTE)), []
    for x_BE in x_BTE.unbind(1):
        h_BH, state = lstm_step(lstm, x_BE, state)
        outputs.append(h_BH)
    return torch.stack(outputs, dim=1)


def lstm_cell(gate_BH4: Tensor, c_BH: Tensor) -> tuple[Tensor, Tensor]:
    """The new h_BH and c_BH from the summed gates (input, forget, cell, output) and the old cell."""
    i_BH, f_BH, g_BH, o_BH = gate_BH4.chunk(4, dim=1)
    c_BH = torch.sigmoid(f_BH) * c_BH + torch.sigmoid(i_BH) * torch.tanh(g_BH)
    return torch.sigmoid(o_BH) * torch.tanh(c_BH), c_BH


def block_means(x_BTC: Tensor, length_B: Tensor, stride: int) -> Tensor:
    """The mean of every `stride` positions, of the last ones as many as the row has, mean_BNC; 0 beyond its end."""
    padded = -x_BTC.shape[1] % stride
    real_BT1 = length_mask(length_B, x_BTC.shape[1] + padded)[..., None]
    blocks_BNSC = (torch.nn.functional.pad(x_BTC, (0, 0, 0, padded)) * real_BT1).unflatten(1, (-1, stride))
    return blocks_BNSC.sum(2) / real_BT1.unflatten(1, (-1, stride)).sum(2).clamp_min(1)


def take_rows(values: Any, rows: Tensor) -> Any:
    """The rows of every tensor in a nest of lists and tuples."""
    if isinstance(values, Tensor):
        return values[rows]
    return type(values)(take_rows(value, rows) for value in values)


def gated(h_NC2: Tensor) -> Tensor:
    """tanh of the first half of the channels times the sigmoid of the second: PixelCNN's gate."""
    a_NC, b_NC = h_NC2.chunk(2, dim=-1)
    return torch.tanh(a_NC) * torch.sigmoid(b_NC)


def kmeans(
    h_ND: Tensor, codes: int, rng: np.random.Generator, weight_N: Tensor | None = None, iterations: int = 20
) -> tuple[Tensor, Tensor]:
    """Centres code_KD and their shares of the states share_K, by Lloyd's algorithm from k-means++ seeds; all states
    weigh alike, unless weights are given.

    Equal states are merged first and weighted, so that repeated words do not take several centres. With fewer
    distinct states than codes the remaining centres are states moved by a small jitter.
    """
    point_ND, place_N = torch.unique(h_ND.float().cpu(), dim=0, return_inverse=True)
    given_N = torch.ones(len(h_ND)) if weight_N is None else weight_N.float().cpu()
    weight_N = torch.zeros(len(point_ND)).index_add_(0, place_N, given_N)
    centre_KD = _spread_seeds(point_ND, weight_N, codes, rng)
    for _ in range(iterations):
        z_N = nearest_code(point_ND, centre_KD)
        mass_K = torch.zeros(codes).index_add_(0, z_N, weight_N)
        sum_KD = torch.zeros_like(centre_KD).index_add_(0, z_N, point_ND * weight_N[:, None])
        centre_KD = torch.where(mass_K[:, None] > 0, sum_KD / mass_K.clamp_min(1e-9)[:, None], centre_KD)
        centre_KD = _refill_empty(centre_KD, mass_K, point_ND, z_N, weight_N)
    z_N = nearest_code(point_ND, centre_KD)
    mass_K = torch.zeros(codes).index_add_(0, z_N, weight_N)
    return centre_KD, mass_K / mass_K.sum()


def _spread_seeds(point_ND: Tensor, weight_N: Tensor, codes: int, rng: np.random.Generator) -> Tensor:
    first = int(rng.choice(len(point_ND), p=_probabilities(weight_N)))
    chosen = [first]
    distance_N = (point_ND - point_ND[first]).square().sum(1)
    for _ in range(min(codes, len(point_ND)) - 1):
        chosen.append(int(rng.choice(len(point_ND), p=_probabilities(distance_N * weight_N))))
        distance_N = torch.minimum(distance_N, (point_ND - point_ND[chosen[-1]]).square().sum(1))
    seeds_KD = point_ND[chosen]
    missing = codes - len(chosen)
    if missing:
        extra_KD = point_ND[rng.integers(len(point_ND), size=missing)]
        jitter = torch.from_numpy(rng.standard_normal(extra_KD.shape).astype(np.float32))
        seeds_KD = torch.cat([seeds_KD, extra_KD + 0.01 * jitter])
    return seeds_KD


def _probabilities(weight_N: Tensor) -> np.ndarray:
    weights = weight_N.double().numpy()
    if weights.sum() <= 0:  # every point coincides with a chosen seed
        weights = np.ones_like(weights)
    return weights / weights.sum()


def _refill_empty(centre_KD: Tensor, mass_K: Tensor, point_ND: Tensor, z_N: Tensor, weight_N: Tensor) -> Tensor:
    """Centres without states move to the states that are worst served, heaviest error first."""
    empty = (mass_K == 0).nonzero().squeeze(1)
    if not len(empty):
        return centre_KD
    error_N = (point_ND - centre_KD[z_N]).square().sum(1) * weight_N
    worst = error_N.topk(min(len(empty), len(error_N))).indices
    worst = worst[error_N[worst] > 0]
    centre_KD = centre_KD.clone()
    centre_KD[empty[: len(worst)]] = point_ND[worst]
    return centre_KD


def sum_nll(logits_BTV: Tensor, target_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """-log p of each row's targets in nats, summed over its real positions, nll_B."""
    nll_BT = F.cross_entropy(logits_BTV.float().transpose(1, 2), target_BT, reduction="none")
    return (nll_BT * mask_BT).sum(1)
