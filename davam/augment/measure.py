"""What a corpus is worth: the exact perplexity of a language model trained on it, or the accuracy of a classifier.

Everything is a function of (rows, recipe); nothing here knows where the rows come from.

Legend: B rows, N tokens of all rows in one flat row, L labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from davam.data.batches import Rows, plan_epoch, plan_in_order, take_slice
from davam.evaluate import metrics
from davam.families.text import TextFamily
from davam.nn.noise import Stream, generator
from davam.nn.precision import set_precision
from davam.recipe import Recipe, TrainConfig
from davam.train.loop import Hooks, train
from davam.train.optim import build_optimizer
from davam.train.stages import build_job, stage_one_module
from davam.train.state import TrainState

SCORE_ROWS = 64
QUIET = Hooks(lambda values: None, lambda state, module, optimizer: None)
CLASSIFIER_DIM, CLASSIFIER_LR, CLASSIFIER_EPOCHS, CLASSIFIER_BATCH_ROWS = 64, 0.005, 20, 32


@dataclass(frozen=True)
class Measured:
    """The perplexity of the test rows, and the training that led to it."""

    ppl_exact: float
    epochs: int
    best_epoch: int
    steps: int


def language_model(recipe: Recipe, vocab_size: int, rows: Sequence[Rows]) -> Measured:
    """The language model of the recipe, trained on the first rows, chosen on the second and measured on the third.

    Raises TrainingError when the training diverges.
    """
    train_rows, valid_rows, test_rows = rows
    module = stage_one_module(recipe, vocab_size)
    job = build_job(module, module, train_rows, valid_rows, recipe, "stage_one")
    state = train(job, build_optimizer(module, job.config), TrainState(), QUIET)
    steps = state.epoch * -(-len(train_rows) // job.config.batch_rows)
    set_precision(module, "fp32")
    return Measured(exact_ppl(module.eval(), test_rows), state.epoch, state.best_epoch + 1, steps)


@torch.no_grad()
def exact_ppl(model: TextFamily, rows: Rows) -> float:
    """exp(total nats / tokens) of the rows under a model with an exact likelihood."""
    nats = 0.0
    for places in plan_in_order(rows.lengths, SCORE_ROWS):
        scores = model.row_scores(take_slice(rows, places), None)
        nats += float((scores.rec_B + scores.kl_B).double().sum())
    return metrics.ppl_bound(nats, 0.0, int(rows.lengths.sum()))


def lengthened(config: TrainConfig, rows: int, least_steps: int) -> TrainConfig:
    """The training with as many epochs as make so many steps on so few rows; its own epochs if they are more."""
    steps_per_epoch = -(-rows // config.batch_rows)
    return config.model_copy(update={"epochs": max(config.epochs, -(-least_steps // steps_per_epoch))})


class BagOfWords(nn.Module):
    """A linear classifier of the mean of a sentence's word vectors."""

    def __init__(self, vocab_size: int, labels: int, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(int(generator(seed, Stream.INIT).integers(2**62)))
        self.words = nn.EmbeddingBag(vocab_size, CLASSIFIER_DIM, mode="mean")
        self.labels = nn.Linear(CLASSIFIER_DIM, labels)
        for weight in self.parameters():
            nn.init.uniform_(weight, -0.1, 0.1, generator=random)

    def forward(self, rows: Rows, places: Sequence[int] | np.ndarray) -> Tensor:
        """The logits of the rows at the places, logits_BL."""
        parts = [rows.flat[rows.start[place] : rows.start[place + 1]] for place in places]
        offset_B = np.cumsum([0, *(len(part) for part in parts[:-1])])
        words_N = torch.from_numpy(np.concatenate(parts).astype(np.int64))
        return self.labels(self.words(words_N, torch.from_numpy(offset_B)))


def classifier_accuracy(vocab_size: int, labels: int, seed: int, rows: Sequence[Rows]) -> float:
    """The share of the third rows whose label a classifier finds that was trained on the first rows and chosen, by the
    epoch of the least cross entropy, on the second."""
    train_rows, valid_rows, test_rows = rows
    model = BagOfWords(vocab_size, labels, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=CLASSIFIER_LR)
    least_nats, accuracy = math.inf, 0.0
    for epoch in range(CLASSIFIER_EPOCHS):
        for places in plan_epoch(train_rows.lengths, seed, epoch, CLASSIFIER_BATCH_ROWS):
            optimizer.zero_grad()
            _cross_entropy(model, train_rows, places).backward()
            optimizer.step()
        with torch.no_grad():
            nats = float(_cross_entropy(model, valid_rows, np.arange(len(valid_rows))))
            if nats < least_nats:
                found_B = model(test_rows, np.arange(len(test_rows))).argmax(1).numpy()
                least_nats, accuracy = nats, float((found_B == test_rows.label).mean())
    return accuracy


def _cross_entropy(model: BagOfWords, rows: Rows, places: np.ndarray) -> Tensor:
    assert rows.label is not None
    return F.cross_entropy(model(rows, places), torch.from_numpy(rows.label[places]))
