"""How one of several is drawn: by its probability, or from a sharpened or shortened distribution.

Legend: B rows, K things to choose from.
"""

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from davam.config import Frozen
from davam.nn import ops


class Choice(Frozen):
    """Temperature, then the k likeliest, then the fewest of them that hold a share p. As it is: ancestral sampling."""

    temperature: float = Field(1.0, gt=0)
    top_k: int = Field(0, ge=0, description="draw from so many of the likeliest; 1: always the likeliest; 0: from all")
    top_p: float = Field(1.0, gt=0, le=1, description="draw from the likeliest that together hold this share")

    @property
    def greedy(self) -> bool:
        """Whether nothing is left to chance."""
        return self.top_k == 1


ANCESTRAL = Choice()


def draw(
    logits_BK: Tensor, uniform_B: Tensor, choice: Choice = ANCESTRAL, barred: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """One of K per row, none of the barred ones, and -ln softmax(logits) of it: the nats of the model as it is,
    whatever the choice. (index_B, nats_B)

    A row's draw depends on its own logits and its own uniform number alone.
    """
    logits_BK = logits_BK.float()
    allowed_BK = logits_BK
    if barred:
        allowed_BK = logits_BK.index_fill(1, torch.tensor(barred, device=logits_BK.device), -math.inf)
    best_B1 = allowed_BK.amax(1, keepdim=True)
    shifted_BK = allowed_BK - best_B1
    weight_BK = shifted_BK.exp()
    norm_B = weight_BK.sum(1).log()
    if barred:
        # What is barred is part of the model all the same.
        barred_BN = logits_BK[:, list(barred)] - best_B1
        norm_B = torch.cat([norm_B[:, None], barred_BN], dim=1).logsumexp(1)
    if choice.greedy:
        index_B = shifted_BK.argmax(1)
    elif choice == ANCESTRAL:
        index_B = ops.inverse_cdf(weight_BK, uniform_B)
    else:
        index_B = ops.inverse_cdf(restricted(shifted_BK, choice), uniform_B)
    return index_B, norm_B - shifted_BK.gather(1, index_B[:, None]).squeeze(1)


def restricted(logits_BK: Tensor, choice: Choice) -> Tensor:
    """The probabilities that the choice leaves, weight_BK; of equal ones at the border, all are left."""
    logits_BK = logits_BK / choice.temperature
    if 0 < choice.top_k < logits_BK.shape[1]:
        least_B1 = logits_BK.topk(choice.top_k, dim=1).values[:, -1:]
        logits_BK = logits_BK.masked_fill(logits_BK < least_B1, -math.inf)
    weight_BK = logits_BK.softmax(1)
    if choice.top_p < 1:
        ordered_BK = weight_BK.sort(dim=1, descending=True).values
        # What comes before a member must not hold the share already.
        needed_BK = ordered_BK.cumsum(1) - ordered_BK < choice.top_p
        least_B1 = ordered_BK.masked_fill(~needed_BK, math.inf).amin(1, keepdim=True)
        weight_BK = weight_BK * (weight_BK >= least_B1)
    return weight_BK
