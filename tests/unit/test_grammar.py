"""The embedded corpus: its entropy is exact, its recogniser strict, its sentences fixed by their seed."""

import math
import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from davam.data import grammar
from davam.data.grammar import END, FINAL, Automaton, Option
from davam.errors import DataError


def coin() -> tuple[Automaton, int]:
    """`a` with 3/4 or `b` with 1/4, then perhaps `c`, the end; with `a` written as two options."""
    automaton = Automaton()
    end = automaton.state([Option(1.0, END, FINAL)])
    more = automaton.state([Option(0.5, "c", end), Option(0.5, END, FINAL)])
    start = automaton.state([Option(0.5, "a", more), Option(0.25, "a", end), Option(0.25, "b", end)])
    return automaton, start


def test_a_small_automaton_in_closed_form() -> None:
    automaton, start = coin()
    probabilities = {"a": 0.5, "a c": 0.25, "b": 0.25}  # both ways to `a` are added
    for text, probability in probabilities.items():
        assert automaton.nats(start, text.split()) == pytest.approx(-math.log(probability))
    entropy, tokens = automaton.expected(start)
    assert entropy == pytest.approx(sum(-p * math.log(p) for p in probabilities.values()))
    assert tokens == pytest.approx(2.25)
    assert automaton.nats(start, ["c"]) is None


def test_every_state_has_a_distribution_and_leads_down() -> None:
    automaton = grammar.captions().automaton
    for state, arcs in enumerate(automaton.arcs):
        assert sum(p for p, _ in arcs.values()) == pytest.approx(1.0)
        assert all(to < state for _, to in arcs.values())


def test_the_entropy_is_that_of_the_samples() -> None:
    nats = np.array([grammar.sentence_nats(text) for text in grammar.sample_sentences(6000, seed=5)], dtype=float)
    error = nats.std() / math.sqrt(len(nats))
    assert abs(nats.mean() - grammar.entropy_nats()) < 4 * error
    assert grammar.ppl_floor() == pytest.approx(math.exp(grammar.entropy_nats() / grammar.mean_tokens()))


def test_sentences_are_fixed_by_seed_and_number() -> None:
    few, many = grammar.sample_sentences(50, seed=1), grammar.sample_sentences(200, seed=1)
    assert many[:50] == few
    assert grammar.sample_sentences(50, seed=2) != few
    assert len(set(many)) > 180


def test_the_recogniser_is_strict() -> None:
    texts = grammar.sample_sentences(400, seed=3)
    assert all(grammar.is_grammatical(text) for text in texts)
    rng, words = random.Random(0), grammar.vocabulary()
    shuffled, replaced = [], []
    for text in texts:
        mixed = text.split()
        rng.shuffle(mixed)
        shuffled.append(grammar.is_grammatical(" ".join(mixed)))
        other = text.split()
        other[rng.randrange(len(other))] = rng.choice(words)
        replaced.append(grammar.is_grammatical(" ".join(other)))
    assert np.mean(shuffled) < 0.02
    assert np.mean(replaced) < 0.1


def test_articles_and_verbs_agree() -> None:
    seen: Counter[str] = Counter()
    for text in grammar.sample_sentences(2000, seed=4):
        words = text.split()
        for word, following in pairwise(words):
            if word in ("a", "an"):
                assert (following[0] in "aeiou") == (word == "an"), text
                seen[word] += 1
        if words[0] in ("two", "three", "many", "several"):
            assert "is" not in words, text
    assert min(seen.values()) > 50


def test_the_floor_of_a_draw() -> None:
    texts = grammar.sample_sentences(20, seed=6)
    nats, tokens = grammar.draw_floor(texts)
    assert nats == pytest.approx(sum(grammar.sentence_nats(text) or 0.0 for text in texts))
    assert tokens == sum(len(text.split()) + 1 for text in texts)
    with pytest.raises(DataError, match="'not of it' is not a sentence of the embedded grammar, so it has no floor"):
        grammar.draw_floor([*texts, "not of it"])
