"""Small models and rows for tests."""

from collections.abc import Sequence

import numpy as np
import torch

from davam.data.batches import Rows, plan_in_order, take_slice
from davam.families.base import Trainable
from davam.families.davam import Davam, DavamConfig
from davam.families.text import TextFamily
from davam.nn.codebook import Codebook
from davam.nn.priors import Prior
from davam.recipe import AdamW, Sgd, TrainConfig
from davam.train.loop import Hooks
from davam.train.state import TrainState
from davam.train.step import Job

VOCAB, WIDEST, CODES, LABELS = 30, 40, 8, 3


def random_rows(count: int, seed: int = 0, terminator: int = 2, first: int = 4, last: int = VOCAB) -> Rows:
    """Rows of 1 to 10 random symbols and the terminator, each with one of three labels."""
    rng = np.random.default_rng(seed)
    rows = [[*rng.integers(first, last, size=rng.integers(1, 11)).tolist(), terminator] for _ in range(count)]
    return Rows.from_lists(range(count), rows, rng.integers(LABELS, size=count).tolist())


def small_davam(**changes: object) -> Davam:
    """A model with every size small; settings can be changed."""
    values = {"embed_dim": 12, "hidden_dim": 16, "code_dim": 8, "codebook_size": CODES, "dropout": 0.2} | changes
    model = Davam(DavamConfig.model_validate(values), VOCAB, WIDEST)
    model.init_weights(0)
    return model


def spread_codebook(model: Davam, seed: int = 0) -> Davam:
    """The model with a random codebook of the size of normalised states, and words far apart."""
    model.encoder_embedding.weight.data *= 20
    spread(model.codebook, seed)
    return model


def spread(codebook: Codebook, seed: int = 0) -> None:
    """Random codes of the size of normalised states, used alike."""
    size, dim = codebook.code_KD.shape
    code_KD = torch.randn(size, dim, generator=torch.Generator().manual_seed(seed))
    codebook.initialize(code_KD, torch.full((size,), 1 / size), 40.0)


def adamw(epochs: int, batch_rows: int) -> TrainConfig:
    """AdamW for a few epochs."""
    return TrainConfig(epochs=epochs, batch_rows=batch_rows, optimizer=AdamW(lr=0.01, warmup_steps=2))


def sgd(epochs: int, batch_rows: int) -> TrainConfig:
    """SGD whose plateau rule can act from the first epoch on."""
    return TrainConfig(
        epochs=epochs, batch_rows=batch_rows, optimizer=Sgd(lr=0.5, patience_epochs=1, first_decay_epoch=0)
    )


def job_of(module: Trainable, config: TrainConfig, train: Rows, valid: Rows) -> Job:
    """The job of a module in one process."""
    return Job(module, module, train, valid, config, seed=3)


def quiet() -> Hooks:
    """Hooks that do nothing."""
    return Hooks(lambda values: None, lambda state, module, optimizer: None)


def fresh() -> TrainState:
    """The state before training."""
    return TrainState()


@torch.no_grad()
def text_nats(model: TextFamily, prior: Prior | None, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """Rec + KL of rows of ids, each with its end or without, nats_N."""
    rows, nats_N = Rows.from_lists(range(len(texts)), texts), np.zeros(len(texts))
    for indices in plan_in_order(rows.lengths, 64):
        scores = model.row_scores(take_slice(rows, indices), prior)
        nats_N[indices] = (scores.rec_B + scores.kl_B).double().numpy()
    return nats_N
