"""Tokenizers: ordered by frequency, lossless where promised, loadable by transformers."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from davam.data.tokenizer import UNK_ID, TextTokenizer, count_words
from davam.errors import ArtifactError, DataError

TEXTS = ["the cat sat", "the dog sat", "the <unk> ran", "</s> the"]
BPE = TextTokenizer.fit_bpe(TEXTS * 5, 300)


def words() -> TextTokenizer:
    return TextTokenizer.fit_words(count_words(TEXTS), None, 1)


def test_words_are_ordered_by_frequency_and_specials_come_first() -> None:
    assert words().words() == ["<pad>", "<s>", "</s>", "<unk>", "the", "sat", "cat", "dog", "ran"]
    assert TextTokenizer.fit_words(dict(reversed(count_words(TEXTS).items())), None, 1).digest() == words().digest()
    assert TextTokenizer.fit_words(count_words(TEXTS), 6, 1).words()[4:] == ["the", "sat"]
    assert TextTokenizer.fit_words(count_words(TEXTS), None, 2).words()[4:] == ["the", "sat"]


def test_text_can_hold_no_control_symbols() -> None:
    assert words().encode(["the <unk> sat", "</s> cat", "never seen"]) == [[4, 3, 5], [3, 6], [3, 3]]
    assert words().decode([[4, 3, 5, 2, 6], [1, 6, 0]]) == ["the <unk> sat", "cat"]


def test_a_vocabulary_that_is_all_unknown_is_refused() -> None:
    with pytest.raises(DataError, match=r"every word would be <unk>: none occurs 9 times \(the most frequent 4\)"):
        TextTokenizer.fit_words(count_words(TEXTS), None, 9)


@given(st.text())
def test_bpe_is_lossless(text: str) -> None:
    ids = BPE.encode([text])[0]
    assert min(ids, default=UNK_ID + 1) > UNK_ID
    assert BPE.decode([ids]) == [text]


@pytest.mark.parametrize("tokenizer", [words(), BPE], ids=["word", "bpe"])
def test_saved_tokenizers_are_the_same_everywhere(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    again = TextTokenizer.load(tmp_path)
    hub = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in ("the cat ran", "the  dog"):
        ids = tokenizer.encode([text])[0]
        assert again.encode([text])[0] == pickle.loads(pickle.dumps(tokenizer)).encode([text])[0] == ids
        assert hub(text, add_special_tokens=False)["input_ids"] == ids
    assert (again.digest(), again.kind) == (tokenizer.digest(), tokenizer.kind)
    assert (hub.pad_token_id, hub.bos_token_id, hub.eos_token_id, hub.unk_token_id) == (0, 1, 2, 3)


def test_a_torn_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"tokenizer.json cannot be read .*; copy the model folder again"):
        TextTokenizer.load(tmp_path)
