"""Posteriors q(z_1..z_N | x) over a fixed number of codes, as what draws from them and weighs the draws needs.

Legend: B rows, S draws a row, T positions, N codes or places, C channels, H hidden, K codes of the codebook.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from davam.nn import ops

AVERAGE_DECAY = 0.9  # of the running averages of the features
LEAST_VARIANCE = 1e-4  # under which a difference between texts is as good as rounding
FAN_IN_DEVIATION = 3**-0.5  # of the product of standard features and weights U(-C^-0.5, C^-0.5)


class CodeHead(nn.Module):
    """From features to logits that differ between texts, at first with a given deviation.

    A decoder that reads the words before is better off without codes until it has learned what they say, so an encoder
    soon gives all texts the same ones, and never comes back. Here the features have mean 0 and variance 1 over the
    texts, by running averages that no gradient touches, and no bias stands after them: there is little to shift all
    texts by (compare Zhu et al., 2020, for Gaussian latents).
    """

    mean_NC: Tensor
    square_NC: Tensor

    def __init__(self, places: int, channels: int, logits: int, deviation: float) -> None:
        super().__init__()
        self.scale = deviation / FAN_IN_DEVIATION
        self.linear = nn.Linear(channels, logits, bias=False)
        self.register_buffer("mean_NC", torch.zeros(places, channels, dtype=torch.float64))
        self.register_buffer("square_NC", torch.ones(places, channels, dtype=torch.float64))

    def forward(self, feature_BNC: Tensor) -> Tensor:
        """The logits at all places, in fp32."""
        return self.at(slice(None), feature_BNC)

    def at(self, place: int | slice, feature_BC: Tensor) -> Tensor:
        """The logits at one place, in fp32."""
        mean, square = self.mean_NC[place], self.square_NC[place]
        deviation = (square - mean.square()).clamp_min(LEAST_VARIANCE).sqrt()
        return (self.linear((feature_BC - mean.float()) / deviation.float()) * self.scale).float()

    @staticmethod
    def sums(feature_BSNC: Tensor, weight_B: Tensor) -> Tensor:
        """What this worker's rows add to the averages, sum_3NC: of 1, of the features and of their squares."""
        feature_BSNC = feature_BSNC.detach().double()  # the squares, less the square of the mean, cancel
        weight_BSNC = weight_B[:, None, None, None].expand_as(feature_BSNC)
        return torch.stack([(weight_BSNC * part).sum((0, 1)) for part in (1, feature_BSNC, feature_BSNC.square())])

    @torch.no_grad()
    def learn(self, sum_3NC: Tensor, all_reduce: Callable[[Tensor], Tensor], decay: float = AVERAGE_DECAY) -> None:
        """Moves the averages towards those of the global batch."""
        count_NC, mean_NC, square_NC = all_reduce(sum_3NC).unbind()
        self.mean_NC.lerp_(mean_NC / count_NC, 1 - decay)
        self.square_NC.lerp_(square_NC / count_NC, 1 - decay)


class Posterior(ABC):
    """The posterior of the rows of one batch."""

    @abstractmethod
    def hold(self) -> None:
        """From here on its ln q move nothing. Their gradient is zero rather than none: DDP waits for it."""

    @abstractmethod
    def draw(self, uniform_BSN: Tensor) -> Tensor:
        """Codes by uniform numbers, one a code, codes_BSN; without a gradient."""

    @abstractmethod
    def mode(self) -> Tensor:
        """The likeliest code at each place, left to right, codes_BN."""

    @abstractmethod
    def features(self, codes_BSN: Tensor) -> Tensor:
        """What becomes the logits at each place, given the row's codes before it, feature_BSNC."""

    @abstractmethod
    def log_probs(self, feature_BSNC: Tensor) -> Tensor:
        """ln q of every code at each place, logq_BSNK."""


class FactorisedPosterior(Posterior):
    """q(z|x) = prod_n q(z_n|x), all from the same features."""

    def __init__(self, feature_BC: Tensor, head: CodeHead, codes: int) -> None:
        self.feature_BC = feature_BC
        self.logq_BNK = head(feature_BC[:, None])[:, 0].unflatten(1, (codes, -1)).log_softmax(-1)

    def hold(self) -> None:
        """From here on its ln q move nothing."""
        self.logq_BNK = held(self.logq_BNK)

    @torch.no_grad()
    def draw(self, uniform_BSN: Tensor) -> Tensor:
        """Codes by uniform numbers, codes_BSN."""
        weight_BSNK = self.logq_BNK.exp()[:, None].expand(-1, uniform_BSN.shape[1], -1, -1)
        return draw_codes(weight_BSNK, uniform_BSN)

    @torch.no_grad()
    def mode(self) -> Tensor:
        """The likeliest code at each place, codes_BN."""
        return self.logq_BNK.argmax(-1)

    def features(self, codes_BSN: Tensor) -> Tensor:
        """The same for all draws and places, once, feature_B11C."""
        return self.feature_BC[:, None, None]

    def log_probs(self, feature_BSNC: Tensor) -> Tensor:
        """ln q of every code at each place, logq_B1NK: the same for all draws."""
        return self.logq_BNK[:, None]


def held(value: Tensor) -> Tensor:
    """The value, with a gradient of zero."""
    return value.detach() + 0 * value


def mean_state(enc_BTH: Tensor, length_B: Tensor) -> Tensor:
    """The mean of each row's states at its real positions, mean_BH."""
    mask_BT1 = ops.length_mask(length_B, enc_BTH.shape[1])[..., None]
    return (enc_BTH * mask_BT1).sum(1) / length_B[:, None]


def draw_codes(weight_BNK: Tensor, uniform_BN: Tensor) -> Tensor:
    """One code a place in proportion to the weights, in the shape of the uniform numbers."""
    flat_M = ops.inverse_cdf(weight_BNK.reshape(-1, weight_BNK.shape[-1]), uniform_BN.reshape(-1).to(weight_BNK))
    return flat_M.view(uniform_BN.shape)
