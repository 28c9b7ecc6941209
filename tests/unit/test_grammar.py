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


def test_the_probabilities_of_all_sentences_sum_to_one() -> None:
    """Mass that flows down the automaton from the start all arrives at the end."""
    captions = grammar.captions()
    mass = np.zeros(captions.start + 1)
    mass[captions.start], ended = 1.0, 0.0
    for state in range(captions.start, -1, -1):
        for probability, to in captions.automaton.arcs[state].values():
            if to == FINAL:
                ended += mass[state] * probability
            else:
                mass[to] += mass[state] * probability
    assert ended == pytest.approx(1.0, abs=1e-9)


def test_entropy_and_length_by_enumeration() -> None:
    """A random automaton, against the list of all its sentences."""
    rng = random.Random(7)
    automaton = Automaton()
    states = [automaton.state([Option(1.0, END, FINAL)])]
    for _ in range(9):
        weights = [rng.random() for _ in range(4)]
        shares = [weight / sum(weights) for weight in weights]
        options = [Option(share, rng.choice("abc"), rng.choice(states[-2:])) for share in shares[:3]]
        states.append(automaton.state([*options, Option(shares[3], END, FINAL)]))

    def sentences(state: int, probability: float, words: tuple[str, ...]) -> list[tuple[float, tuple[str, ...]]]:
        found = []
        for word, (share, to) in automaton.arcs[state].items():
            ended = [(probability * share, words)]
            found += ended if to == FINAL else sentences(to, probability * share, (*words, word))
        return found

    start = states[-1]
    listed = sentences(start, 1.0, ())
    assert len({words for _, words in listed}) == len(listed) > 20
    for probability, words in listed:
        assert automaton.nats(start, words) == pytest.approx(-math.log(probability))
    entropy, tokens = automaton.expected(start)
    assert entropy == pytest.approx(sum(-p * math.log(p) for p, _ in listed))
    assert tokens == pytest.approx(sum(p * (len(words) + 1) for p, words in listed))


def test_the_longest_sentence_fits_the_presets_length() -> None:
    """Neither the sampler's 32 numbers nor max_tokens=32 can cut a sentence."""
    captions = grammar.captions()
    longest = {FINAL: 0}
    for state in range(captions.start + 1):
        longest[state] = max(longest[to] + (word != END) for word, (_, to) in captions.automaton.arcs[state].items())
    assert longest[captions.start] < 32


def test_words_are_drawn_as_often_as_they_should_be() -> None:
    captions = grammar.captions()
    texts = grammar.sample_sentences(3000, seed=8)
    firsts = Counter(text.split()[0] for text in texts)
    for word, (probability, _) in captions.automaton.arcs[captions.start].items():
        error = math.sqrt(probability * (1 - probability) / len(texts))
        assert abs(firsts[word] / len(texts) - probability) < 4.5 * error, word


def test_what_is_no_sentence() -> None:
    text = grammar.sample_sentences(1, seed=9)[0]
    assert not grammar.is_grammatical("")
    assert not grammar.is_grammatical(text.rsplit(" ", 1)[0] + " zebra")
    assert not grammar.is_grammatical(f"{text} {text}")
