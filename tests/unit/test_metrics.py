"""Measures against closed forms and against counting by hand."""

import math
from collections import Counter

import numpy as np
import pytest

from davam.errors import DataError
from davam.evaluate import metrics


def brute_information_nats(codes: list[int], words: list[int]) -> float:
    pairs, code, word, n = Counter(zip(codes, words, strict=True)), Counter(codes), Counter(words), len(codes)
    return sum(c / n * math.log(c * n / (code[k] * word[w])) for (k, w), c in pairs.items())


def brute_purity(codes: list[int], words: list[int]) -> float:
    majority = 0
    for code in set(codes):
        majority += Counter(w for k, w in zip(codes, words, strict=True) if k == code).most_common(1)[0][1]
    return majority / len(codes)


class TestPerplexity:
    def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(self) -> None:
        assert metrics.ppl_bound(12 * math.log(50), 0.0, 12) == pytest.approx(50)

    def test_kl_counts_as_much_as_rec(self) -> None:
        assert metrics.ppl_bound(30.0, 12.0, 14) == pytest.approx(metrics.ppl_bound(12.0, 30.0, 14))
        assert metrics.ppl_bound(30.0, 12.0, 14) == pytest.approx(math.exp(3))

    def test_a_hopeless_model_has_infinite_perplexity(self) -> None:
        assert metrics.ppl_bound(1e6, 0.0, 10) == math.inf

    def test_the_papers_formula_reproduces_table_two(self) -> None:
        # PTB, K=512: Rec 60.16 and 3.12 nats per code print as 17.94, at 21.917 tokens and one code more.
        rows = 1000
        ours = metrics.ppl_paper(
            np.full(rows, 60.16), np.full(rows, 22.917 * 3.12), np.full(rows, 22.917), np.full(rows, 21.917)
        )
        assert ours == pytest.approx(17.94, abs=0.01)

    def test_the_papers_formula_averages_within_each_sentence(self) -> None:
        rec_B, kl_B = np.array([4.0, 10.0]), np.array([6.0, 20.0])
        codes_B, tokens_B = np.array([2, 5]), np.array([3, 6])
        by_hand = math.exp((4 + 6 / 2 + 10 + 20 / 5) / 9)
        assert metrics.ppl_paper(rec_B, kl_B, codes_B, tokens_B) == pytest.approx(by_hand)

    def test_messages(self) -> None:
        one = np.ones(1)
        with pytest.raises(DataError, match=r"^ppl_bound: no tokens to average over; score at least one sentence$"):
            metrics.ppl_bound(1.0, 1.0, 0)
        with pytest.raises(DataError, match=r"^ppl_paper: a sentence has no codes; the formula needs a model with"):
            metrics.ppl_paper(one, one, np.zeros(1), one)
        with pytest.raises(DataError, match=r"^ppl_paper: columns of unequal length \[1, 1, 2, 1\]; pass one"):
            metrics.ppl_paper(one, one, np.ones(2), one)
        with pytest.raises(DataError, match=r"^ppl_paper: nothing to measure; pass at least one row$"):
            metrics.ppl_paper(*[np.ones(0)] * 4)


class TestCodeMeasures:
    def test_codes_that_name_the_words(self) -> None:
        words_N = np.array([7, 7, 9, 9, 11, 11, 30, 30])
        codes_N = np.array([3, 3, 0, 0, 1, 1, 5, 5])
        assert metrics.code_measures(codes_N, words_N, 8) == metrics.CodeMeasures(
            mutual_information_nats=pytest.approx(math.log(4)),
            purity=1.0,
            words_per_code_mean=1.0,
            words_per_code_max=1,
        )

    def test_one_code_for_everything_says_nothing(self) -> None:
        measures = metrics.code_measures(np.zeros(6, dtype=int), np.array([1, 1, 1, 2, 2, 3]), 4)
        assert measures == metrics.CodeMeasures(0.0, 0.5, 3.0, 3)

    def test_independent_codes_carry_no_information(self) -> None:
        codes_N, words_N = np.divmod(np.arange(35), 7)
        assert metrics.code_measures(codes_N, words_N, 5).mutual_information_nats == pytest.approx(0, abs=1e-12)

    def test_against_counting_by_hand(self) -> None:
        rng = np.random.default_rng(5)
        codes_N = rng.integers(0, 13, 400)
        words_N = (codes_N * 3 + rng.geometric(0.4, 400)) % 29
        measures = metrics.code_measures(codes_N, words_N, 20)
        codes, words = codes_N.tolist(), words_N.tolist()
        per_code = [len({w for k, w in zip(codes, words, strict=True) if k == code}) for code in set(codes)]
        assert measures.mutual_information_nats == pytest.approx(brute_information_nats(codes, words))
        assert measures.purity == pytest.approx(brute_purity(codes, words))
        assert measures.words_per_code_mean == pytest.approx(sum(per_code) / len(per_code))
        assert measures.words_per_code_max == max(per_code)

    def test_the_use_of_codes(self) -> None:
        used = metrics.code_use(np.array([3, 3, 0, 0, 1, 1, 5, 5]))
        assert used == metrics.CodeUse(codes_used=4, code_perplexity=pytest.approx(4))
        assert metrics.code_use(np.zeros(6, dtype=int)) == metrics.CodeUse(1, 1.0)
        shares = [0.5, 0.25, 0.25]
        used = metrics.code_use(np.array([7, 7, 8, 9]))
        assert used.code_perplexity == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))

    def test_messages(self) -> None:
        with pytest.raises(DataError, match=r"^code measures: codes run from 0 to 4, outside a codebook of 4; codes"):
            metrics.code_measures(np.array([0, 4]), np.array([1, 1]), 4)
        with pytest.raises(DataError, match=r"^code measures: codes run from -1 to 2, outside a codebook of 4"):
            metrics.code_measures(np.array([-1, 2]), np.array([1, 1]), 4)
        with pytest.raises(DataError, match=r"^code measures: columns of unequal length \[2, 1\]"):
            metrics.code_measures(np.array([0, 1]), np.array([1]), 4)
        with pytest.raises(DataError, match=r"^code measures: nothing to measure"):
            metrics.code_measures(np.array([], dtype=int), np.array([], dtype=int), 4)


class TestSampleMeasures:
    def test_by_hand(self) -> None:
        # a b a, b c, a b a: eight words; of the bigrams ab ba ab bc ca ab ba four differ.
        measures = metrics.sample_measures(["a b a", "b  c", "a b a"], {" b c ", "a b"}, unk="c")
        entropy = -sum(p * math.log(p) for p in (4 / 8, 3 / 8, 1 / 8))
        assert measures == metrics.SampleMeasures(
            count=3,
            dist_1=3 / 8,
            dist_2=4 / 7,
            entropy_nats=pytest.approx(entropy),
            unk_rate=1 / 8,
            length_mean_tokens=pytest.approx(8 / 3),
            length_std_tokens=pytest.approx(math.sqrt(2 / 9)),
            length_min_tokens=2,
            length_max_tokens=3,
            copies_of_train_rate=pytest.approx(1 / 3),
            unique_rate=pytest.approx(2 / 3),
        )

    def test_bigrams_cross_the_ends_of_sentences(self) -> None:
        assert metrics.sample_measures(["a", "b", "a"], (), "<unk>").dist_2 == 1.0
        assert metrics.sample_measures(["a", "a", "a"], (), "<unk>").dist_2 == 0.5

    def test_every_repetition_of_a_training_text_is_a_copy(self) -> None:
        measures = metrics.sample_measures(["x y", "x\ty", "z", "x y z"], {"x y"}, "<unk>")
        assert measures.copies_of_train_rate == 0.5

    def test_samples_without_words_measure_zero(self) -> None:
        measures = metrics.sample_measures(["", "  "], {"a"}, "<unk>")
        assert measures == metrics.SampleMeasures(2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.5)

    def test_message(self) -> None:
        with pytest.raises(DataError, match=r"^sample measures: no samples; draw at least one$"):
            metrics.sample_measures([], {"a"}, "<unk>")


class TestReconstructionMeasures:
    def test_by_hand(self) -> None:
        measures = metrics.reconstruction_measures(["a b c", "d e", "f"], ["a x c", "d  e", ""])
        assert measures == metrics.ReconstructionMeasures(word_accuracy=4 / 6, exact_rate=pytest.approx(1 / 3))

    def test_a_shifted_reconstruction_is_wrong_everywhere(self) -> None:
        assert metrics.reconstruction_measures(["a b c"], ["x a b c"]).word_accuracy == 0

    def test_words_in_excess_are_not_exact(self) -> None:
        assert metrics.reconstruction_measures(["a b"], ["a b c"]) == metrics.ReconstructionMeasures(1.0, 0.0)

    def test_message(self) -> None:
        with pytest.raises(DataError, match=r"^reconstruction measures: columns of unequal length \[1, 2\]"):
            metrics.reconstruction_measures(["a"], ["a", "b"])
