"""What codes stand for, which training sentence a sample is nearest to, and the way between two texts."""

import math

import pyarrow as pa
import pytest
import sacrebleu
import torch
from hypothesis import given
from hypothesis import strategies as st

import davam
from davam.data import grammar
from davam.errors import DataError
from davam.evaluate.code_browser import CodeEntry, Context, browse_codes
from davam.evaluate.faithfulness import (
    Faithfulness,
    Interpolation,
    Nearest,
    corpus_bleu,
    from_json,
    nearest_of,
    to_json,
)
from davam.families.codes import QuantizedFamily
from davam.families.text import Latents
from davam.quality.copies import CopyIndex
from davam.recipe import load_recipe
from pipelines.faithfulness import equal_diversity, reconstruction_measures, unknown_rate
from tests.small import CODES, small_davam, spread_codebook

FEW = ["stage_one.epochs=2", "stage_two.epochs=1", "model.codebook_size=16"]


def test_codes_are_shown_by_their_words_and_first_contexts() -> None:
    words = [["a", "dog", "runs"], ["a", "cat", "runs", "far", "away", "from", "a"]]
    entries = browse_codes([[0, 1, 2], [0, 1, 2, 7, 7, 7, 0]], words)
    assert [(entry.code, entry.positions) for entry in entries] == [(0, 3), (7, 3), (1, 2), (2, 2)]
    assert entries[0].words == (("a", 3),)
    assert entries[2] == CodeEntry(
        1, 2, (("cat", 1), ("dog", 1)), (Context("a", "dog", "runs"), Context("a", "cat", "runs far away from"))
    )
    assert entries[1].contexts[2] == Context("cat runs far away", "from", "a")


@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc")), max_size=8), max_size=8))
def test_every_position_is_counted_once(rows: list[list[tuple[int, str]]]) -> None:
    entries = browse_codes([[code for code, _ in row] for row in rows], [[word for _, word in row] for row in rows])
    assert sum(entry.positions for entry in entries) == sum(map(len, rows))
    for entry in entries:
        assert sum(count for _, count in entry.words) == entry.positions  # there are but three words
        assert all(context.word in dict(entry.words) for context in entry.contexts)


def test_codes_of_other_texts_are_refused() -> None:
    with pytest.raises(DataError, match="text 1 has 2 words and 1 codes: they do not belong together"):
        browse_codes([[0], [1]], [["a"], ["b", "c"]])


def test_the_nearest_sentence_shares_the_longest_run() -> None:
    training, texts = [[5, 6, 7], [7, 8, 9, 10]], ["t u v", "v w x y"]
    index = CopyIndex.build(training, texts)
    found = nearest_of(index, texts, [3, 4], [[1, 8, 9, 10], [1, 2]], ["q w x y", "q r"])
    assert found == (Nearest(3, "q w x y", "v w x y", 3), Nearest(4, "q r", "", 0))


def test_bleu_of_reconstructions_by_hand_and_by_the_library() -> None:
    # 8 of 9 words, 6 of 8 pairs, 4 of 7 triples and 3 of 6 quadruples are of the text, which is not longer.
    text, rebuilt = ["a b c d e f g h"], ["a b x c d e f g h"]
    by_hand = (8 / 9 * 6 / 8 * 4 / 7 * 3 / 6) ** 0.25
    assert corpus_bleu(rebuilt, text) == pytest.approx(by_hand)
    assert corpus_bleu(text, text) == pytest.approx(1)
    assert corpus_bleu(rebuilt, text) == pytest.approx(sacrebleu.corpus_bleu(rebuilt, [text]).score / 100)


def test_reconstructions_are_measured_where_there_are_latents() -> None:
    columns = {"text": ["a b c d", "e f g h"], "reconstruction": ["a b c d", ""]}
    assert reconstruction_measures(pa.table(columns | {"num_latents": [4, 0]})) == {
        "free_running_bleu": pytest.approx(1)
    }
    assert reconstruction_measures(pa.table(columns | {"num_latents": [0, 0]})) == {}


def test_what_was_written_is_read() -> None:
    found = Faithfulness(
        (Nearest(0, "a", "b", 1),),
        (Interpolation("a", "b", ("a", "c", "b")),),
        (CodeEntry(1, 2, (("cat", 2),), (Context("", "cat", "é"),)),),
    )
    assert from_json(to_json(found)) == found


@pytest.mark.parametrize("lengths", [(3, 3), (2, 7), (6, 1)])
def test_steps_begin_and_end_with_the_two_rows(lengths: tuple[int, int]) -> None:
    family = spread_codebook(small_davam())
    codes_BT = torch.randint(CODES, (2, 8), generator=torch.Generator().manual_seed(1))
    steps = family.between(family.code_latents(codes_BT, torch.tensor(lengths)), 5)
    assert steps.codes_BT is not None
    assert steps.length_B.tolist()[:: len(steps.length_B) - 1] == list(lengths)
    for row, place in ((0, 0), (1, -1)):
        assert steps.codes_BT[place, : lengths[row]].tolist() == codes_BT[row, : lengths[row]].tolist()
    between = steps.length_B.tolist()
    assert between == sorted(between, reverse=lengths[0] > lengths[1])


def test_without_codes_the_steps_are_on_a_straight_line() -> None:
    latent_BTD = torch.tensor([[[0.0, 0.0], [8.0, 0.0]], [[4.0, 4.0], [0.0, 4.0]]])
    family = spread_codebook(small_davam())
    steps = super(QuantizedFamily, family).between(Latents(latent_BTD, torch.tensor([2, 2])), 3)
    assert torch.equal(steps.latent_BTD[1], torch.tensor([[2.0, 2.0], [4.0, 2.0]]))
    assert torch.equal(steps.latent_BTD[[0, 2]], latent_BTD)


@pytest.fixture(scope="module")
def model() -> davam.TextModel:
    return davam.fit(grammar.sample_sentences(900, seed=3), load_recipe(["recommended", "tiny", "brief"], FEW))


def test_the_way_from_text_to_text_starts_and_ends_at_their_reconstructions(model: davam.TextModel) -> None:
    longer, shorter = sorted(grammar.sample_sentences(40, seed=5), key=len)[-1], "a man runs"
    for first, second in ((longer, shorter), (shorter, longer)):
        steps = model.interpolate(first, second, 4)
        assert len(steps) == 4
        assert [steps[0], steps[-1]] == model.reconstruct([first, second])


def test_ways_that_there_are_not(model: davam.TextModel) -> None:
    with pytest.raises(DataError, match="steps=1: from one text to another takes at least 2"):
        model.interpolate("a man", "a dog", 1)
    with pytest.raises(DataError, match="trained without labels"):
        model.interpolate("a man", "a dog", label="x")
    plain = davam.fit(grammar.sample_sentences(300, seed=3), load_recipe(["lstm_lm", "tiny"], ["stage_one.epochs=1"]))
    with pytest.raises(DataError, match="a lstm_lm has no latents, so there is nothing between two texts"):
        plain.interpolate("a man", "a dog")


def test_samples_and_real_text_are_as_diverse_as_their_first_words_are() -> None:
    found = equal_diversity(["a a b", "c d e"], ["a b", "a b"])
    assert found["equal_words"] == 4
    assert (found["sample_rows"], found["test_rows"]) == (2, 2)
    assert (found["sample_dist_1_equal_words"], found["test_dist_1_equal_words"]) == (3 / 4, 2 / 4)
    assert (found["sample_dist_2_equal_words"], found["test_dist_2_equal_words"]) == (1, 2 / 3)
    assert found["test_entropy_nats_equal_words"] == pytest.approx(math.log(2))
    assert equal_diversity([""], ["a b"]) == {"equal_words": 0, "sample_rows": 1, "test_rows": 1}


def test_unknown_words_of_real_text_are_those_that_the_model_cannot_know() -> None:
    assert unknown_rate([[4, 3, 5], [3]]) == 0.5
