"""One condition of the experiment in one process: real sentences, what a source adds to them, and its worth."""

import time
from dataclasses import dataclass
from functools import cached_property

from davam.augment.measure import classifier_accuracy, language_model
from davam.augment.rows import Encode, Source, Texts, drawn, encoder
from davam.augment.study import Cell
from davam.data.batches import Rows
from davam.data.labels import Labels
from davam.data.tokenizer import TextTokenizer
from davam.recipe import Recipe


@dataclass(frozen=True)
class Ground:
    """What all conditions of one size and seed share: the language model's recipe, with the seed; the one vocabulary of
    the experiment, and its labels; the real sentences, and those that choose and judge."""

    lm: Recipe
    tokenizer: TextTokenizer
    labels: Labels
    real: Texts
    valid: Texts
    test: Texts

    @cached_property
    def encode(self) -> Encode:
        """Texts to rows of the experiment's vocabulary."""
        return encoder(self.tokenizer, self.lm.data.max_tokens)

    def budget_tokens(self, ratio: float) -> int:
        """The tokens that are added at the ratio: so many times those of the real sentences, ends counted."""
        return round(ratio * sum(len(row) for row in self.encode(self.real.texts)))


def measured(ground: Ground, protocol: str, name: str, source: Source, ratio: float) -> Cell:
    """The cell of that source at that ratio."""
    began = time.monotonic()
    budget_tokens = ground.budget_tokens(ratio)
    added = drawn(source, ground.encode, budget_tokens)
    real = ground.encode(ground.real.texts)
    held_out = [ground.encode(part.texts) for part in (ground.valid, ground.test)]
    parts = [[*real, *added.tokens], *held_out]
    lm = language_model(ground.lm, ground.tokenizer.vocab_size, [_rows(tokens) for tokens in parts])
    return Cell(
        protocol=protocol,
        source=name,
        size=len(real),
        ratio=ratio,
        seed=ground.lm.seed,
        ppl_exact=lm.ppl_exact,
        accuracy=_accuracy(ground, added.texts, parts),
        tokens_real=sum(len(row) for row in real),
        tokens_added=budget_tokens,
        rows_added=len(added.tokens),
        steps=lm.steps,
        epochs=lm.epochs,
        wall_s=round(time.monotonic() - began, 2),
    )


def _accuracy(ground: Ground, added: Texts, parts: list[list[list[int]]]) -> float | None:
    """The classifier's; nothing where the real or the added sentences have no labels."""
    if ground.real.labels is None or (added.texts and added.labels is None):
        return None
    train = [*ground.real.labels, *(added.labels or [])]
    columns = [train, ground.valid.labels or [], ground.test.labels or []]
    rows = [_rows(tokens, ground.labels.numbers(names)) for tokens, names in zip(parts, columns, strict=True)]
    return classifier_accuracy(ground.tokenizer.vocab_size, len(ground.labels), ground.lm.seed, rows)


def _rows(tokens: list[list[int]], labels: list[int] | None = None) -> Rows:
    return Rows.from_lists(range(len(tokens)), tokens, labels)
