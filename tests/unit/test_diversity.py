"""Diversity against counting by hand and against sacrebleu."""

import math
from itertools import pairwise

import numpy as np
import pytest
import sacrebleu

from davam.errors import DataError
from davam.evaluate.diversity import diversity, evenly, self_bleu


def random_texts(count: int, seed: int, shortest: int = 1, longest: int = 9) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(list("abcdef"), size=rng.integers(shortest, longest + 1))) for _ in range(count)]


def plain_self_bleu(texts: list[str]) -> float:
    scores = [
        sacrebleu.sentence_bleu(text, [*texts[:place], *texts[place + 1 :]], tokenize="none").score
        for place, text in enumerate(texts)
    ]
    return sum(scores) / len(scores) / 100


def test_by_hand() -> None:
    # a b a, b c: five words, of the pairs ab ba ab bc three differ; the real text has four types, six words.
    found = diversity(["a b a", "b  c"], ["a a b", "x y", "a"])
    assert not found.absent
    entropy = -sum(p * math.log(p) for p in (2 / 5, 2 / 5, 1 / 5))
    assert found.measures == {
        "entropy_nats": pytest.approx(entropy),
        "dist_1": 3 / 5,
        "dist_2": 3 / 4,
        "sentence_dist_1": pytest.approx((2 / 3 + 1) / 2),
        "sentence_dist_2": 1.0,
        "self_bleu": pytest.approx(plain_self_bleu(["a b a", "b c"])),
        "vocabulary_types": 2 / 4,
        "vocabulary_mass": 4 / 6,
    }


def test_pairs_of_a_sentence_are_counted_within_it() -> None:
    assert diversity(["a a a a", "b c"]).measures["sentence_dist_2"] == pytest.approx((1 / 3 + 1) / 2)
    assert diversity(["a", "a", "b c"]).measures["sentence_dist_2"] == 1.0


def test_real_text_covers_itself() -> None:
    texts = random_texts(20, 1)
    measures = diversity(texts, texts).measures
    assert (measures["vocabulary_types"], measures["vocabulary_mass"]) == (1.0, 1.0)


def test_of_the_first_words_alone() -> None:
    # Three of the five words: a b a, with the pairs ab and ba.
    found = diversity(["a b", "a c d"], ["a b x"], words=3)
    assert (found.measures["dist_1"], found.measures["dist_2"]) == (2 / 3, 1.0)
    assert found.measures["vocabulary_types"] == 2 / 3
    assert found.measures["sentence_dist_1"] == 1.0
    few = diversity(["a b", "a c d"], ["a b x"], words=6)
    assert few.absent == dict.fromkeys(
        ("entropy_nats", "dist_1", "dist_2", "vocabulary_types", "vocabulary_mass"), "5 of 6 words"
    )
    assert set(few.measures) == {"sentence_dist_1", "sentence_dist_2", "self_bleu"}


def test_what_texts_are_too_few_for_is_said() -> None:
    one = diversity(["a"], ["a b"])
    assert set(one.measures) == {"entropy_nats", "dist_1", "sentence_dist_1", "vocabulary_types", "vocabulary_mass"}
    assert one.absent == {
        "dist_2": "one word makes no pair",
        "sentence_dist_2": "no text has 2 words",
        "self_bleu": "1 text has no other to be compared with",
    }
    blank = diversity(["", " "])
    assert blank.measures == {"self_bleu": 0.0}
    assert blank.absent["entropy_nats"] == "the texts have no words"
    assert blank.absent["vocabulary_mass"] == "no words of real text to be covered"
    with pytest.raises(DataError, match=r"^diversity: no texts; pass at least one$"):
        diversity([])


@pytest.mark.parametrize("seed", range(5))
def test_self_bleu_is_sacrebleus_sentence_bleu_against_all_others(seed: int) -> None:
    texts = random_texts(25, seed)
    assert self_bleu(texts) == pytest.approx(plain_self_bleu(texts), rel=1e-12)


def test_self_bleu_of_what_is_alike_and_of_what_is_not() -> None:
    assert self_bleu(["a b c d e"] * 3) == pytest.approx(1)
    assert self_bleu(["a b c d", "e f g h", "i j k l"]) == 0
    # Two of three are equal, and the third shares nothing.
    assert self_bleu(["a b c d", "a b c d", "e f g h"]) == pytest.approx(2 / 3)
    with pytest.raises(DataError, match=r"^self-BLEU: 1 sentences; pass at least two$"):
        self_bleu(["a b"])


def test_self_bleu_of_many_is_that_of_a_thousand_evenly_spaced() -> None:
    texts = random_texts(2500, 7)
    assert evenly(2500, 1000)[:4] == [0, 2, 5, 7]
    assert diversity(texts).measures["self_bleu"] == self_bleu([texts[place] for place in evenly(2500, 1000)])


def test_evenly_spaced_places() -> None:
    assert evenly(3, 5) == [0, 1, 2]
    assert evenly(0, 5) == []
    for count, most in ((10, 4), (1001, 1000), (7, 7)):
        places = evenly(count, most)
        assert len(set(places)) == min(count, most)
        assert all(0 < b - a <= -(-count // most) for a, b in pairwise(places))
        assert places[0] == 0
        assert places[-1] < count
