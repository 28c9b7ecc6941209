"""What must hold of the measures for any data."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from davam.evaluate import metrics

CODEBOOK_SIZE = 12
SLACK = 1e-9
code_and_word = st.tuples(st.integers(0, CODEBOOK_SIZE - 1), st.integers(0, 40))
pairs = st.lists(code_and_word, min_size=1, max_size=80)
nats = st.floats(0, 300)
sentence = st.lists(st.sampled_from(["a", "b", "c", "<unk>", "d"]), max_size=6).map(" ".join)
sentences = st.lists(sentence, min_size=1, max_size=12)


def measure(rows: list[tuple[int, int]]) -> metrics.CodeMeasures:
    codes_N, words_N = np.array(rows).T
    return metrics.code_measures(codes_N, words_N, CODEBOOK_SIZE)


def entropy_nats(values: list[int]) -> float:
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log(share)).sum())


@given(pairs)
def test_information_is_at_most_either_entropy(rows: list[tuple[int, int]]) -> None:
    codes, words = zip(*rows, strict=True)
    information_nats = measure(rows).mutual_information_nats
    assert 0 <= information_nats <= min(entropy_nats(list(codes)), entropy_nats(list(words))) + SLACK


@given(pairs)
def test_codes_measure_within_their_limits(rows: list[tuple[int, int]]) -> None:
    measures = measure(rows)
    words = len({word for _, word in rows})
    assert 1 / words - SLACK <= measures.purity <= 1
    used = metrics.code_use(np.array([code for code, _ in rows]))
    assert 1 <= used.code_perplexity <= used.codes_used + SLACK
    assert used.codes_used <= CODEBOOK_SIZE
    assert 1 <= measures.words_per_code_mean <= measures.words_per_code_max <= words


@given(pairs, st.randoms(use_true_random=False))
def test_neither_order_nor_names_matter(rows: list[tuple[int, int]], random: object) -> None:
    code_names, word_names = list(range(CODEBOOK_SIZE)), list(range(41))
    shuffled = list(rows)
    for values in (shuffled, code_names, word_names):
        random.shuffle(values)  # type: ignore[attr-defined]
    assert measure([(code_names[code], word_names[word]) for code, word in shuffled]) == measure(rows)


@given(pairs)
def test_codes_that_are_the_words_tell_everything(rows: list[tuple[int, int]]) -> None:
    codes = [code for code, _ in rows]
    measures = measure([(code, code) for code in codes])
    assert measures.mutual_information_nats == pytest.approx(entropy_nats(codes), abs=SLACK)
    assert measures.purity == 1


@given(nats, nats, st.integers(1, 100))
def test_a_bound_is_at_least_one_and_grows_with_the_cost(rec: float, kl: float, tokens: int) -> None:
    bound = metrics.ppl_bound(rec, kl, tokens)
    assert bound >= 1
    assert metrics.ppl_bound(rec, kl + 1, tokens) > bound
    assert math.log(bound) * tokens == pytest.approx(rec + kl, abs=1e-6)


@given(st.lists(st.tuples(nats, nats, st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=20))
def test_the_papers_figure_never_exceeds_the_bound(rows: list[tuple[float, float, int, int]]) -> None:
    rec_B, kl_B, codes_B, tokens_B = (np.array(column) for column in zip(*rows, strict=True))
    paper = metrics.ppl_paper(rec_B, kl_B, codes_B, tokens_B)
    assert 1 <= paper <= metrics.ppl_bound(rec_B.sum(), kl_B.sum(), tokens_B.sum()) * (1 + SLACK)
    one_code = metrics.ppl_paper(rec_B, kl_B, np.ones_like(codes_B), tokens_B)
    assert one_code == pytest.approx(metrics.ppl_bound(rec_B.sum(), kl_B.sum(), tokens_B.sum()))


@given(sentences, st.sets(sentence))
def test_shares_are_shares(texts: list[str], train_texts: set[str]) -> None:
    measures = metrics.sample_measures(texts, train_texts, "<unk>")
    for share in (measures.dist_1, measures.dist_2, measures.unk_rate, measures.copies_of_train_rate):
        assert 0 <= share <= 1
    assert 0 < measures.unique_rate <= 1
    types = len(set(" ".join(texts).split()))
    assert 0 <= measures.entropy_nats <= math.log(max(types, 1)) + SLACK
    assert measures.length_min_tokens <= measures.length_mean_tokens <= measures.length_max_tokens


@given(sentences, st.sets(sentence))
def test_copies_are_those_of_a_plain_search(texts: list[str], train_texts: set[str]) -> None:
    measures = metrics.sample_measures([f" {text}\n" for text in texts], train_texts, "<unk>")
    assert measures.copies_of_train_rate == pytest.approx(sum(t in train_texts for t in texts) / len(texts))


@given(sentences, st.randoms(use_true_random=False))
def test_only_dist_2_depends_on_the_order_of_the_samples(texts: list[str], random: object) -> None:
    shuffled = list(texts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    before, after = (vars(metrics.sample_measures(rows, {"a b"}, "<unk>")) for rows in (texts, shuffled))
    for name in before.keys() - {"dist_2"}:
        assert before[name] == pytest.approx(after[name]), name
