"""The numerics of policy search for a discrete posterior: the natural gradient of a non-parametric encoder.

Of draws z_s from q(z|x) with rewards R_s, the best distribution in reach, argmax of E[R] + beta H under KL(q*||q) at
most epsilon, is q*(z) proportional to q(z) exp((R - beta ln q(z)) / (eta + beta)), with eta the multiplier of the
constraint. On the draws it has the weights softmax((R_s - beta ln q(z_s)) / (eta + beta)); any baseline of R cancels in
them. The effective number of draws says how far q* is from q, so eta is set by that.

Legend: B rows, S draws, G temperatures.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

GRID, ROUNDS = 64, 4  # each round makes the bracket 63 times narrower
WIDEST_TEMPERATURE = 1e6


def search_weights(gain_BS: Tensor, temperature: float | Tensor) -> Tensor:
    """The weights of q* on the draws, weight_BS, from R - beta ln q and eta + beta."""
    return (gain_BS / temperature).softmax(-1)


def effective_draws(weight_BS: Tensor) -> Tensor:
    """How many draws count, ess_B = 1 / sum of w^2: from 1 to S."""
    return 1 / weight_BS.square().sum(-1)


def solved_temperature(
    gain_BS: Tensor, weight_B: Tensor, wanted_draws: float, least: float, all_reduce: Callable[[Tensor], Tensor]
) -> float:
    """eta + beta at which the mean of the effective draws over the global batch's real rows is as wanted.

    It rises with the temperature, so a bracket is narrowed around the root. Where more draws count even at `least`, the
    constraint does not bind, and that is the answer.
    """
    low, high = math.log(least), math.log(max(least, WIDEST_TEMPERATURE))
    gain_BS, weight_B = gain_BS.double(), weight_B.double()
    for _ in range(ROUNDS):
        grid_G = torch.linspace(low, high, GRID, dtype=torch.float64, device=gain_BS.device)
        ess_GB = effective_draws(search_weights(gain_BS[None], grid_G.exp()[:, None, None]))
        total_G = all_reduce(torch.cat([(ess_GB * weight_B).sum(1), weight_B.sum()[None]]))
        above_G = total_G[:-1] >= wanted_draws * total_G[-1]
        first = int(above_G.int().argmax()) if bool(above_G.any()) else GRID - 1
        if first == 0:
            return math.exp(low)
        low, high = float(grid_G[first - 1]), float(grid_G[first])
    return math.exp(high)


def leave_one_out(cost_BS: Tensor) -> Tensor:
    """Each draw's cost less the mean of the row's others, advantage_BS (Kool et al., 2019). S is at least 2."""
    draws = cost_BS.shape[1]
    return (cost_BS - cost_BS.mean(1, keepdim=True)) * (draws / (draws - 1))
