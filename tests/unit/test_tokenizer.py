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


def test_words_are_cut_the_same_when_counted_and_when_encoded() -> None:
    """Python's spaces include the separators U+001C to U+001F, which the tokenizers library does not know."""
    text = "a\x1cb\x1dc\x1ed\x1fe\x85f\u2028g\u3000h"
    tokenizer = TextTokenizer.fit_words(count_words([text]), None, 1)
    assert UNK_ID not in tokenizer.encode([text])[0]
    assert tokenizer.decode(tokenizer.encode([text])) == ["a b c d e f g h"]


def test_the_message_of_a_missing_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        TextTokenizer.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'tokenizer.json'} cannot be read (")
    assert str(caught.value).endswith("; copy the model folder again")


def test_the_message_of_an_empty_vocabulary() -> None:
    with pytest.raises(DataError) as caught:
        TextTokenizer.fit_words({"<pad>": 7, "a": 1}, None, 2)
    assert str(caught.value) == (
        "every word would be <unk>: none occurs 2 times (the most frequent 7); lower tokenizer.min_count, or add text"
    )


def test_bpe_never_takes_text_for_a_control_symbol() -> None:
    """Not even when the corpus is full of their spellings, so that merging could assemble them."""
    texts = ["</s></s> <s> <pad><unk>"] * 200
    tokenizer = TextTokenizer.fit_bpe(texts, 400)
    ids = tokenizer.encode(texts[:1])[0]
    assert min(ids) > UNK_ID
    assert tokenizer.decode([ids]) == texts[:1]
