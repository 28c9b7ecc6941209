"""What the training loop refuses."""

import math

import pytest
import torch

from davam.data.batches import Batch
from davam.errors import TrainingError
from davam.families.base import Clock, StepTerms
from davam.families.lstm_lm import LstmLm, LstmLmConfig
from davam.nn.noise import RowNoise
from davam.train.loop import train
from davam.train.optim import build_optimizer
from davam.train.step import Job
from tests.small import VOCAB, WIDEST, fresh, quiet, random_rows, sgd


class Overflowing(LstmLm):
    """Finite in training alone."""

    def forward(self, batch: Batch, clock: Clock, noise: RowNoise | None) -> StepTerms:
        """The terms, of which validation's are infinite."""
        terms = super().forward(batch, clock, noise)
        return terms if noise else StepTerms(terms.loss_sum, terms.sums | {"rec_nats": torch.tensor(math.inf)})


def test_a_validation_that_is_not_finite_is_refused() -> None:
    module, config, rows = (
        Overflowing(LstmLmConfig(embed_dim=8, hidden_dim=8), VOCAB, WIDEST),
        sgd(2, 7),
        random_rows(20),
    )
    module.init_weights(0)
    with pytest.raises(TrainingError, match=r"diverged in epoch 1: the validation rows' rec_nats is inf; lower the"):
        train(Job(module, module, rows, rows, config, 3), build_optimizer(module, config), fresh(), quiet())
