"""Planted effects: the experiment must see that true sentences help, and that shuffled words hurt."""

import math
from collections.abc import Iterator, Sequence

import pytest

import davam
from davam.augment.eda import eda
from davam.augment.experiment import Ground, measured
from davam.augment.rows import Source, Texts, nothing, repeated
from davam.augment.study import (
    EDA,
    HELPS,
    HURTS,
    LSTM_LM,
    REAL,
    REPEAT,
    SAME_DATA,
    Cell,
    Summary,
    summaries,
    verdict,
)
from davam.data import grammar
from davam.data.labels import NO_LABELS
from davam.data.tokenizer import TextTokenizer, count_words
from davam.nn.noise import Stream, generator
from davam.recipe import load_recipe

ROWS, SEEDS = 200, 3
SMALL = ["model.hidden_dim=32", "model.embed_dim=24", "stage_one.epochs=30", "stage_one.optimizer.lr=0.02"]


def fresh(seed: int) -> Source:
    """New sentences of the grammar itself."""
    pool = grammar.sample_sentences(1000, seed=100 + seed)
    return lambda rows: Texts([pool[row % len(pool)] for row in rows])


def shuffled(seed: int) -> Source:
    """The same with the words of each in any order."""
    true = fresh(seed)

    def source(rows: Sequence[int]) -> Texts:
        words = [text.split() for text in true(rows).texts]
        for row, sentence in zip(rows, words, strict=True):
            generator(seed, Stream.EDA, row).shuffle(sentence)
        return Texts([" ".join(sentence) for sentence in words])

    return source


def cells() -> Iterator[Cell]:
    texts = grammar.sample_sentences(4000, seed=0)
    tokenizer = TextTokenizer.fit_words(count_words(texts), None, 1)
    for seed in range(SEEDS):
        real = texts[seed * ROWS : (seed + 1) * ROWS]
        lm = load_recipe(["lstm_lm", "quick", "tiny"], [*SMALL, f"seed={seed}"])
        ground = Ground(lm, tokenizer, NO_LABELS, Texts(real), Texts(texts[-340:-300]), Texts(texts[-300:]))
        for name, source, ratio in (
            (REAL, nothing, 0.0),
            ("true", fresh(seed), 1.0),
            ("shuffled", shuffled(seed), 1.0),
            (REPEAT, repeated(ground.real), 1.0),
            (EDA, eda(ground.real, seed), 1.0),
            (LSTM_LM, learned(ground), 1.0),
        ):
            yield measured(ground, SAME_DATA, name, source, ratio)


def learned(ground: Ground) -> Source:
    """Samples of the language model itself, trained on the same real sentences."""
    model = davam.fit(ground.real.texts, ground.lm)
    return lambda rows: Texts(model.sample_ids(rows, seed=ground.lm.seed).texts)


@pytest.fixture(scope="module")
def measured_cells() -> list[Cell]:
    return list(cells())


@pytest.fixture(scope="module")
def found(measured_cells: list[Cell]) -> dict[str, Summary]:
    return {each.source: each for each in summaries(measured_cells)}


def test_fresh_sentences_of_the_grammar_help(found: dict[str, Summary]) -> None:
    assert found["true"].difference.below_zero


def test_shuffled_words_hurt(found: dict[str, Summary]) -> None:
    assert found["shuffled"].difference.above_zero


def test_the_verdict_is_that_true_sentences_help_and_shuffled_ones_hurt(measured_cells: list[Cell]) -> None:
    helps, hurts = (verdict(measured_cells, name, ROWS) for name in ("true", "shuffled"))
    assert (helps.says, helps.best_ratio) == (HELPS, 1.0)
    assert (hurts.says, hurts.best_ratio) == (HURTS, 0.0)


def test_no_perplexity_is_below_the_grammars_floor(found: dict[str, Summary]) -> None:
    test = grammar.sample_sentences(4000, seed=0)[-300:]
    nats, tokens = grammar.draw_floor(test)
    assert min(each.ppl.mean for each in found.values()) > math.exp(nats / tokens)
