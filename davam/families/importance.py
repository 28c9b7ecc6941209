"""Importance weighting with draws from the posterior and from the prior, one half each.

A posterior that the decoder ignores, as free bits make it, is a narrow proposal: the mean weight of its draws has a
heavy tail, and hundreds of them leave the bound far above the likelihood. Draws from the prior do not miss what it
misses, and at worst half of the draws are lost (defensive importance sampling, Hesterberg 1995; the mixture's density
in every weight is the balance heuristic of Veach and Guibas, 1995). The mean weight is unbiased for p(x), so the nats
are in expectation a bound, as with draws from the posterior alone.

Legend: B rows, S draws a row.
"""

import math

import torch
from torch import Tensor


def posterior_draws(draws: int) -> int:
    """How many of so many draws a row are the posterior's, which has the odd one; the others are the prior's."""
    return (draws + 1) // 2


def weighed_nats(logp_BS: Tensor, logq_BS: Tensor, rec_BS: Tensor, of_posterior: int) -> Tensor:
    """-ln of the mean of p(x|z) p(z) / r(z), iw_B, in fp64; r is the mixture of q(z|x) and p(z) that the draws are of.

    ln p(z) and ln q(z|x) of every draw, whichever it is from, and -ln p(x|z).
    """
    draws = rec_BS.shape[1]
    logr_BS = logq_BS.double() + math.log(of_posterior / draws)
    if of_posterior < draws:
        logr_BS = torch.logaddexp(logr_BS, logp_BS.double() + math.log1p(-of_posterior / draws))
    return math.log(draws) - (logp_BS.double() - logr_BS - rec_BS.double()).logsumexp(1)
