"""How far one step may carry the encoder: the multiplier eta of policy search, set by the effective number of draws.

Legend: B rows, S draws.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from davam import policy_search
from davam.config import Frozen

ADAM_DECAY, ADAM_EPSILON = (0.9, 0.999), 1e-8


class SolvedEta(Frozen):
    """In every step the eta at which the batch's mean effective draws are as wanted."""

    kind: Literal["solved"] = "solved"


class DescendedEta(Frozen):
    """ln eta takes one step of Adam a batch on (mean effective draws - wanted)^2: the source's rule. It moves by little
    more than the rate, so it takes thousands of steps to leave its start."""

    kind: Literal["descended"] = "descended"
    start: float = Field(100.0, gt=0)
    rate: float = Field(1e-3, gt=0)


EtaConfig = Annotated[SolvedEta | DescendedEta, Field(discriminator="kind")]


@dataclass(frozen=True)
class Reach:
    """What a batch says: the temperature eta + beta, the draws' weights, and sums over this worker's rows of the
    effective draws and of their derivative by ln eta."""

    temperature: float
    weight_BS: Tensor
    effective_sum: Tensor
    slope_sum: Tensor


class TrustRegion(nn.Module):
    """eta, and of the source's rule what Adam remembers."""

    log_eta: Tensor
    moments: Tensor
    steps: Tensor

    def __init__(self, config: SolvedEta | DescendedEta, wanted_draws: float) -> None:
        super().__init__()
        self.config = config
        self.wanted_draws = wanted_draws
        if isinstance(config, DescendedEta):
            self.register_buffer("log_eta", torch.tensor(config.start).log())
            self.register_buffer("moments", torch.zeros(2))
            self.register_buffer("steps", torch.zeros(()))

    @torch.no_grad()
    def reach(self, gain_BS: Tensor, weight_B: Tensor, beta: float, all_reduce: Callable[[Tensor], Tensor]) -> Reach:
        """The weights of the draws of a batch at the present eta, or at the one that it asks for."""
        if isinstance(self.config, SolvedEta):
            temperature = policy_search.solved_temperature(gain_BS, weight_B, self.wanted_draws, beta, all_reduce)
        else:
            temperature = float(self.log_eta.exp()) + beta
        weight_BS = policy_search.search_weights(gain_BS, temperature)
        ess_B = policy_search.effective_draws(weight_BS)
        # w' = -w (g - E_w g) / T^2, and ess' = -2 ess^2 sum of w w'
        centred_BS = gain_BS - (weight_BS * gain_BS).sum(1, keepdim=True)
        slope_B = 2 * ess_B.square() * (weight_BS.square() * centred_BS).sum(1) / temperature**2
        eta = temperature - beta
        return Reach(temperature, weight_BS, (ess_B * weight_B).sum(), (slope_B * eta * weight_B).sum())

    @torch.no_grad()
    def learn(self, reach: Reach, rows_sum: Tensor, all_reduce: Callable[[Tensor], Tensor]) -> None:
        """One step of the source's rule on the global batch."""
        if isinstance(self.config, SolvedEta):
            return
        ess, slope, rows = all_reduce(torch.stack([reach.effective_sum, reach.slope_sum, rows_sum])).unbind()
        gradient = 2 * (ess / rows - self.wanted_draws) * slope / rows
        self.steps += 1
        decay = gradient.new_tensor(ADAM_DECAY)
        self.moments.mul_(decay).add_((1 - decay) * torch.stack([gradient, gradient.square()]))
        mean, square = (self.moments / (1 - decay**self.steps)).unbind()
        self.log_eta -= self.config.rate * mean / (square.sqrt() + ADAM_EPSILON)
