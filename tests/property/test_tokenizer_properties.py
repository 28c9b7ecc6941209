"""What must hold of a tokenizer for any text."""

import pickle

from hypothesis import given, settings
from hypothesis import strategies as st

from davam.data.tokenizer import EOS_ID, SPECIALS, UNK, UNK_ID, TextTokenizer, count_words

TEXTS = st.lists(st.text(max_size=20), min_size=1, max_size=6)
WORD = st.sampled_from(["a", "bb", "é", "字", "<s", "a<s>b", "😀", *SPECIALS])
SPACE = st.sampled_from([" ", "  ", "\t", "\n", "\x1c", "\x1f", "\x85", "\u00a0", "\u2028", "\u3000"])
SPACED = st.lists(st.tuples(WORD, SPACE), min_size=1, max_size=8).map(lambda pairs: "".join(map("".join, pairs)))
BPE = TextTokenizer.fit_bpe(["the cat <s> sat </s> on the <pad> mat", "über 字 😀"] * 20, 320)


@given(TEXTS, st.sampled_from(["", "</s>", " <unk>", "<pad><s>"]))
def test_bpe_writes_every_text(texts: list[str], control: str) -> None:
    marked = [text + control for text in texts]
    rows = BPE.encode(marked)
    assert BPE.decode(rows) == marked
    assert all(index > UNK_ID for row in rows for index in row)
    assert BPE.decode([[*row, EOS_ID, 9] for row in rows]) == marked


@settings(max_examples=15)
@given(TEXTS)
def test_bpe_writes_what_it_was_not_fitted_on(texts: list[str]) -> None:
    tokenizer = TextTokenizer.fit_bpe(texts, 270)
    assert tokenizer.decode(tokenizer.encode(["other text, 字"])) == ["other text, 字"]
    assert 260 <= tokenizer.vocab_size <= 270


@given(st.lists(SPACED, min_size=1, max_size=6))
def test_words_come_back(texts: list[str]) -> None:
    counts = count_words([*texts, "a"])
    tokenizer = TextTokenizer.fit_words(counts, None, 1)
    rows = tokenizer.encode(texts)
    expected = [[UNK if word in SPECIALS else word for word in text.split()] for text in texts]
    assert tokenizer.decode(rows) == [" ".join(words) for words in expected]
    assert [[tokenizer.words()[index] for index in row] for row in rows] == expected


@given(st.lists(SPACED, min_size=1, max_size=6), st.integers(5, 9))
def test_the_vocabulary_is_a_prefix_by_frequency(texts: list[str], vocab_size: int) -> None:
    counts = count_words([*texts, "a"])
    small = TextTokenizer.fit_words(counts, vocab_size, 1).words()
    full = TextTokenizer.fit_words(counts, None, 1).words()
    assert small == full[:vocab_size]
    assert tuple(full[:4]) == SPECIALS
    frequencies = [counts[word] for word in full[4:]]
    assert frequencies == sorted(frequencies, reverse=True)


@given(st.lists(SPACED, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_texts_does_not_matter(texts: list[str], random: object) -> None:
    shuffled = [*texts, "a"]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = (TextTokenizer.fit_words(count_words(rows), None, 1) for rows in ([*texts, "a"], shuffled))
    assert one.digest() == other.digest() == pickle.loads(pickle.dumps(one)).digest()
