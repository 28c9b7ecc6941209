"""Stage two: the prior learns the code sequences of the frozen model, Eq. (9)."""

import torch

from davam.data.batches import Batch
from davam.families.base import Clock, StepTerms, Trainable
from davam.nn.noise import RowNoise, Stream, generator
from davam.nn.priors import Prior


class PriorTraining(Trainable):
    """A prior as a `Trainable`; its rows are codes that end with the end code."""

    objective = "kl_nats_sum"

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def init_weights(self, seed: int) -> None:
        """Draw all weights from the seed alone."""
        random = torch.Generator().manual_seed(int(generator(seed, Stream.INIT, 1).integers(2**62)))
        for name, weight in self.named_parameters():
            bound = 0.1 if "embedding" in name else weight.shape[-1] ** -0.5
            torch.nn.init.uniform_(weight, -bound, bound, generator=random)

    def forward(self, batch: Batch, clock: Clock, noise: RowNoise | None) -> StepTerms:
        """Cross-entropy of the codes and the end, summed over rows, in nats."""
        nll_B = self.prior.nll(batch.tokens_BS, batch.length_B, noise, batch.label_B)
        loss_sum = (nll_B * batch.weight_B).sum()
        sums = {
            "kl_nats_sum": loss_sum.detach(),
            "codes": (batch.length_B * batch.weight_B).sum(),
            "rows": batch.weight_B.sum(),
        }
        return StepTerms(loss_sum, sums)
