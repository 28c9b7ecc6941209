"""One condition of the experiment in one process: real sentences, what a source adds to them, and its worth."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from davam.augment.measure import classifier_accuracy, language_model
from davam.augment.rows import Encode, Source, Texts, drawn, encoder
from davam.augment.study import Cell
from davam.data.batches import Rows
from davam.data.labels import Labels
from davam.data.tokenizer import UNK_ID, TextTokenizer
from davam.errors import DataError
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
        """Texts to rows of the experiment's vocabulary.

        Where no real sentence holds `<unk>`, nothing can be learned of it: sentences with a word that the vocabulary
        lacks are then neither added nor judged. Each would cost what training happens to have left of a probability
        that it only ever lowers, and one line of a generator that holds `<unk>` would pass for a gain.
        """
        real = encoder(self.tokenizer, self.lm.data.max_tokens, unknown=True)(self.real.texts)
        return encoder(self.tokenizer, self.lm.data.max_tokens, unknown=any(UNK_ID in row for row in real))

    def held_out(self, split: str) -> Texts:
        """The sentences of `valid` or `test` that can be judged. Raises DataError when there are none."""
        texts: Texts = getattr(self, split)
        places = [place for place, row in enumerate(self.encode(texts.texts)) if row]
        if not places:
            raise DataError(
                f"data.{split}: of {len(texts.texts):,} sentences that were taken each holds a word that the training "
                "text lacks; give held-out text of the same kind, or larger --sizes"
            )
        return texts.take(places)

    def budget_tokens(self, ratio: float) -> int:
        """The tokens that are added at the ratio: so many times those of the real sentences, ends counted."""
        return round(ratio * sum(len(row) for row in self.encode(self.real.texts)))


def measured(ground: Ground, protocol: str, name: str, source: Source, ratio: float) -> Cell:
    """The cell of that source at that ratio."""
    began = time.monotonic()
    budget_tokens = ground.budget_tokens(ratio)
    added = drawn(source, ground.encode, budget_tokens)
    real = ground.encode(ground.real.texts)
    held_out = [ground.held_out("valid"), ground.held_out("test")]
    parts = [[*real, *added.tokens], *(ground.encode(texts.texts) for texts in held_out)]
    lm = language_model(ground.lm, ground.tokenizer.vocab_size, [_rows(tokens) for tokens in parts])
    return Cell(
        protocol=protocol,
        source=name,
        size=len(real),
        ratio=ratio,
        seed=ground.lm.seed,
        ppl_exact=lm.ppl_exact,
        accuracy=_accuracy(ground, [added.texts, *held_out], parts),
        tokens_real=sum(len(row) for row in real),
        tokens_added=budget_tokens,
        rows_added=len(added.tokens),
        rows_judged=len(parts[-1]),
        steps=lm.steps,
        epochs=lm.epochs,
        wall_s=round(time.monotonic() - began, 2),
    )


def _accuracy(ground: Ground, texts: Sequence[Texts], parts: list[list[list[int]]]) -> float | None:
    """The classifier's, by the texts that are added, that choose and that judge; nothing where the real or the added
    sentences have no labels."""
    added, valid, test = texts
    if ground.real.labels is None or (added.texts and added.labels is None):
        return None
    train = [*ground.real.labels, *(added.labels or [])]
    columns = [train, valid.labels or [], test.labels or []]
    rows = [_rows(tokens, ground.labels.numbers(names)) for tokens, names in zip(parts, columns, strict=True)]
    return classifier_accuracy(ground.tokenizer.vocab_size, len(ground.labels), ground.lm.seed, rows)


def _rows(tokens: list[list[int]], labels: list[int] | None = None) -> Rows:
    return Rows.from_lists(range(len(tokens)), tokens, labels)
