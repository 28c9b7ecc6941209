"""A prior over a fixed number of codes: any other prior with its end made certain after so many, or the uniform one.

The end has no probability before its place and all of it there, so that p(z_1..z_N) sums to one over all K^N sequences,
and what draws, scores or varies sequences of any length works as it is.

Legend: B rows, T positions, N codes of a sequence, E embedding, K codes of the codebook.
"""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from davam.config import Frozen
from davam.nn.noise import RowNoise
from davam.nn.priors import Prior, PriorConfig, build_prior


class UniformPriorConfig(Frozen):
    """All codes alike, always: there is nothing to learn."""

    kind: Literal["uniform"] = "uniform"


LatentPriorConfig = Annotated[UniformPriorConfig | PriorConfig, Field(discriminator="kind")]


class FixedLengthPrior(Prior):
    """p(z_1..z_N) of another prior, or K^-N."""

    first_place: Tensor

    def __init__(self, codes: int, codebook_size: int, inner: Prior | None) -> None:
        nn.Module.__init__(self)  # its embeddings are those of the other
        self.codes = codes
        self.end_code = codebook_size
        self.inner = inner
        # On the device of the model, uniform or not.
        self.register_buffer("first_place", torch.zeros((), dtype=torch.long), persistent=False)

    @property
    def learned(self) -> bool:
        """Whether there is anything to learn."""
        return self.inner is not None

    def embedded(self, input_BT: Tensor, label_B: Tensor | None) -> Tensor:
        """The other's vectors of inputs; of the uniform one nothing, in the shape of vectors."""
        if self.inner is None:
            return torch.zeros(*input_BT.shape, 1, device=input_BT.device)
        return self.inner.embedded(input_BT, label_B)

    def mixed_inputs(self, share_BNK: Tensor, label_B: Tensor | None) -> Tensor:
        """The inputs that predict each code, x_BNE, where a code is a mixture of codes by these shares."""
        if self.inner is None:
            return self.embedded(share_BNK.argmax(-1), label_B)
        return self.inner.mixed_inputs(share_BNK[:, :-1], label_B)

    def log_probs(self, x_BNE: Tensor, noise: RowNoise | None) -> Tensor:
        """ln p of every code at its place, logp_BNK, given the inputs before it."""
        return self.logits(x_BNE, noise)[:, :, : self.end_code].float().log_softmax(-1)

    def logits(self, x_BTE: Tensor, noise: RowNoise | None) -> Tensor:
        """logits_BTK of each next code, -inf for what cannot be."""
        place_T = torch.arange(x_BTE.shape[1], device=x_BTE.device)
        if self.inner is None:
            return self._possible(x_BTE.new_zeros(*x_BTE.shape[:2], self.end_code + 1), place_T)
        return self._possible(self.inner.logits(x_BTE, noise), place_T)

    def start(self, rows: int) -> Any:
        """Each row's place, and the other's cache."""
        return self.first_place.repeat(rows), () if self.inner is None else self.inner.start(rows)

    def step(self, x_BE: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """logits_BK after one more input, and the moved cache."""
        place_B, inner = cache
        if self.inner is None:
            logits_BK = x_BE.new_zeros(len(x_BE), self.end_code + 1)
        else:
            logits_BK, inner = self.inner.step(x_BE, inner)
        return self._possible(logits_BK[:, None], place_B[:, None])[:, 0], (place_B + 1, inner)

    def _possible(self, logits_BTK: Tensor, place: Tensor) -> Tensor:
        """The logits with -inf for the end before its place and for everything else from there on; the places are of
        the columns, or of every row's."""
        is_end_K = torch.arange(self.end_code + 1, device=logits_BTK.device) == self.end_code
        return logits_BTK.masked_fill((place >= self.codes)[..., None] != is_end_K, -math.inf)


def fixed_length_prior(
    config: UniformPriorConfig | Any, codes: int, codebook_size: int, labels: int = 0
) -> FixedLengthPrior:
    """The prior that the settings describe, over so many codes of a codebook."""
    inner = None if isinstance(config, UniformPriorConfig) else build_prior(config, codebook_size, labels, codes)
    return FixedLengthPrior(codes, codebook_size, inner)


def code_nats(log_probs_BNK: Tensor, codes_BN: Tensor) -> Tensor:
    """-ln of the codes' probabilities, nats_BN."""
    return -log_probs_BNK.gather(-1, codes_BN[..., None]).squeeze(-1)
