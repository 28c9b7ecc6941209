"""Importance weights of draws from a posterior and a prior: unbiased by enumeration, and tight where the posterior
alone is not.

Legend: S draws, Z values of a latent.
"""

import math
from itertools import product

import pytest
import torch
from torch.distributions import Normal

from davam.families.importance import posterior_draws, weighed_nats

P_Z, Q_Z, LIKELIHOOD_Z = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.05, 0.15, 0.8]), torch.tensor([0.9, 0.2, 0.4])


@pytest.mark.parametrize("draws", [1, 2, 3, 4])
def test_the_mean_weight_over_all_possible_draws_is_the_likelihood(draws: int) -> None:
    of_posterior, mean = posterior_draws(draws), 0.0
    for chosen in product(range(3), repeat=draws):
        z_S = torch.tensor(chosen)
        chance = float(torch.cat([Q_Z[z_S[:of_posterior]], P_Z[z_S[of_posterior:]]]).prod())
        iw_1 = weighed_nats(P_Z[z_S].log()[None], Q_Z[z_S].log()[None], -LIKELIHOOD_Z[z_S].log()[None], of_posterior)
        mean += chance * math.exp(-float(iw_1))
    assert mean == pytest.approx(float((P_Z * LIKELIHOOD_Z).sum()), rel=1e-6)


def test_half_of_the_draws_are_the_posteriors_and_a_single_one_is() -> None:
    assert [posterior_draws(draws) for draws in (1, 2, 5, 500)] == [1, 1, 3, 250]


def test_one_draw_is_worth_a_sample_of_rec_plus_kl() -> None:
    iw_1 = weighed_nats(torch.tensor([[-3.0]]), torch.tensor([[-1.25]]), torch.tensor([[7.0]]), 1)
    assert iw_1.tolist() == [7.0 + 3.0 - 1.25]


def test_an_ignored_narrow_posterior_loses_nothing_with_draws_from_the_prior() -> None:
    """Sixteen dimensions that the text does not depend on, as free bits make them: the likelihood is e^-9."""
    torch.manual_seed(0)
    prior, posterior = Normal(0.0, 1.0), Normal(0.3, 0.6)
    rows, draws, dims = 400, 20, 16

    def mean_nats(of_posterior: int) -> float:
        z_BSD = torch.cat(
            [posterior.sample((rows, of_posterior, dims)), prior.sample((rows, draws - of_posterior, dims))], 1
        )
        logp_BS, logq_BS = (each.log_prob(z_BSD).sum(2) for each in (prior, posterior))
        return float(weighed_nats(logp_BS, logq_BS, torch.full((rows, draws), 9.0), of_posterior).mean())

    assert mean_nats(draws) > 9.7
    assert mean_nats(draws // 2) == pytest.approx(9, abs=0.05)
