"""Checks of generated rows, against brute force and by hand."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from davam.errors import DataError
from davam.quality.checks import ACROSS_ROWS, CHECKS, FLAGS, Columns, Filters, flag_rows, repeated_share
from davam.quality.copies import LONGEST, CopyIndex
from davam.quality.duplicates import Earlier, repeats
from davam.quality.near import BANDS, band_hashes
from davam.quality.personal import has_personal_data, passes_luhn
from davam.quality.text import hash_texts, is_among, normalized

UNKNOWN = 3


def longest_shared(row: list[int], training: list[list[int]]) -> int:
    best = 0
    for other in training:
        for i in range(len(row)):
            for j in range(len(other)):
                k = 0
                while i + k < len(row) and j + k < len(other) and row[i + k] == other[j + k]:
                    k += 1
                best = max(best, k)
    return min(best, LONGEST)


@pytest.mark.parametrize("words", [2, 5, 40])
def test_copied_runs_are_those_of_brute_force(words: int) -> None:
    rng = np.random.default_rng(words)
    training = [rng.integers(0, words, size=rng.integers(1, 25)).tolist() for _ in range(30)]
    rows = [rng.integers(0, words + 2, size=rng.integers(0, 25)).tolist() for _ in range(60)]
    rows += [training[3], [*training[4], *training[5]], training[7][1:-1], []]
    index = CopyIndex.build(training, ["x"] * len(training))
    assert index.copied_tokens(rows).tolist() == [longest_shared(row, training) for row in rows]
    length_N, row_N = index.longest_runs(rows)
    shared = [longest_shared(row, [training[found]]) for row, found in zip(rows, row_N, strict=True)]
    assert [length for length in shared if length] == [length for length in length_N if length]


def test_copied_runs_do_not_cross_training_rows_and_end_at_the_longest() -> None:
    index = CopyIndex.build([[5, 6], [7, 8], [9] * 200], ["a", "b", "c"])
    assert index.copied_tokens([[5, 6, 7, 8], [6, 7], [9] * 150, [1]]).tolist() == [2, 1, LONGEST, 0]
    assert CopyIndex.build([], []).copied_tokens([[1, 2], []]).tolist() == [0, 0]


def test_whole_copies_are_found_whatever_their_case_and_spacing() -> None:
    index = CopyIndex.build([[1]], ["A  man runs .", "ﬁne"])
    assert index.is_copy(hash_texts(["a man runs .", "A man ran .", "fine", ""])).tolist() == [True, False, True, False]
    assert normalized(" Ａ\tb\u00a0C ") == "a b c"
    assert is_among(hash_texts(["x"]), hash_texts([])).tolist() == [False]


def test_near_copies_share_a_band() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in rng.integers(0, 10_000, 40)) for _ in range(300)]
    index = CopyIndex.build([[1]], texts)

    def found(changed: int) -> float:
        moved = [text.split() for text in texts]
        for words in moved:
            for place in rng.choice(40, changed, replace=False):
                words[place] = "other"
        return float(index.is_near_copy(band_hashes([" ".join(words).upper() for words in moved])).mean())

    assert found(0) == 1
    assert found(1) > 0.95  # a Jaccard similarity of 0.9
    assert found(8) < 0.2  # about 0.45
    assert not index.is_near_copy(band_hashes(["two men in red shirts", ""])).any()
    assert band_hashes([]).shape == (0, BANDS)


def test_repeats_are_those_of_earlier_rows() -> None:
    hash_N = np.array([5, 9, 5, 7, 9, 1], np.uint64)
    assert repeats(hash_N[:, None], []).tolist() == [False, False, True, False, True, False]
    assert repeats(hash_N[:, None], [np.array([1, 2], np.uint64)]).tolist()[-1]
    pair_NB = np.array([[1, 2], [3, 2], [3, 4], [5, 6]], np.uint64)
    assert repeats(pair_NB, []).tolist() == [False, True, True, False]


@given(st.lists(st.lists(st.integers(0, 50), max_size=8), max_size=20))
def test_hashes_of_earlier_rows_stay_all_there_in_few_arrays(parts: list[list[int]]) -> None:
    earlier = Earlier()
    for stop, part in enumerate(parts, 1):
        earlier.add(np.array(part, np.uint64), stop)
        assert earlier.stop == stop
    assert sorted(value for array in earlier.sorted_M for value in array.tolist()) == sorted(itertools.chain(*parts))
    assert all(np.array_equal(array, np.sort(array)) for array in earlier.sorted_M)
    lengths = [len(array) for array in earlier.sorted_M]
    assert all(longer >= 2 * shorter for longer, shorter in itertools.pairwise(lengths))


def test_more_text_than_can_be_searched_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("davam.quality.copies.MOST_POSITIONS", 6)
    CopyIndex.build([[4, 5], [6, 7]], ["a b", "c d"])
    with pytest.raises(
        DataError, match="the training text has 7 tokens and ends of rows, and 6 at most can be searched"
    ):
        CopyIndex.build([[4, 5], [6, 7, 8]], ["a b", "c d e"])


def test_arrays_of_earlier_rows_do_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("davam.quality.duplicates.MOST_TOGETHER", 4)
    earlier = Earlier()
    for stop in range(1, 14):
        earlier.add(np.array([stop], np.uint64), stop)
    assert [len(array) for array in earlier.sorted_M] == [4, 4, 4, 1]


@pytest.mark.parametrize("together", [1, 3, 100])
def test_bands_and_prefixes_do_not_depend_on_what_is_made_together(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"row {i} of {i % 3} and {i % 5} words" for i in range(10)]
    rows = [[4 + (i * j) % 7 for j in range(6)] for i in range(10)]
    whole, bands = CopyIndex.build(rows, texts), band_hashes(texts)
    monkeypatch.setattr("davam.quality.near.TOGETHER", together)
    monkeypatch.setattr("davam.quality.copies.TOGETHER", together)
    assert np.array_equal(band_hashes(texts), bands)
    for name, values in dataclasses.asdict(CopyIndex.build(rows, texts)).items():
        assert np.array_equal(values, getattr(whole, name)), name


@pytest.mark.parametrize(
    "text",
    [
        "write to jane.doe+x@mail.example.org now",
        "write to jane.doe @ example . org now",
        "call +44 20 7946 0958",
        "call (030) 1234-5678",
        "call 555-867-5309",
        "card 4111 1111 1111 1111",
        "card 5500-0000-0000-0004.",
        "card 4111 1111 1111 1111 12/25",
        "card 4111 1111 1111 1111 123",
        "1 4111 1111 1111 1111",
        "card 4111  1111  1111  1111",
        "card 4111 - 1111 - 1111 - 1111 .",
        "card 3782 822463 10005",
        "card 4111111111111111 or 5",
        "call 555 123 4567",
        "call 555 - 123 - 4567 .",
        "call ( 555 ) 123 - 4567",
        "write to a＠b.com",
        "token sk_live_" + "a1B2" * 6,
        "token github_pat_" + "a1B2" * 6,
        "AKIAIOSFODNN7EXAMPLE",
        "token ghp_" + "a1B2" * 9,
        "-----BEGIN RSA PRIVATE KEY-----",
        "eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeK",
    ],
)
def test_personal_data_is_found(text: str) -> None:
    assert has_personal_data(text)


@pytest.mark.parametrize(
    "text",
    [
        "a man is running in the park",
        "in 1987 the index fell N points to 2,345.67",
        "12 13 14 15 16 and 21.11.2026",
        "version 1.2.3 of 2026-11-21",
        "card 4111 1111 1111 1112",
        "9 8 7 6 5 4 3 2 1 0 1 2 3 4 5 6 7 8 9 10",
        "in 200 300 of 4000",
        "1234567890123456789012345678901234567890",
        "1999 2000 2001",
        "at 12:30 @ home",
        "123 456",
        "= 1 + 2 - 3",
        "",
    ],
)
def test_harmless_text_is_left_alone(text: str) -> None:
    assert not has_personal_data(text)


def test_the_check_digit() -> None:
    assert passes_luhn("79927398713")
    assert [d for d in "0123456789" if passes_luhn("7992739871" + d)] == ["3"]


def columns(words: list[list[int]], texts: list[str] | None = None, index: CopyIndex | None = None) -> Columns:
    texts = texts or [" ".join(map(str, row)) for row in words]
    copied_N = index.copied_tokens(words) if index else np.zeros(len(words), np.int32)
    return Columns(
        texts,
        words,
        np.array([2.0 * (len(row) + 1) for row in words]),
        np.array([len(row) == 6 for row in words]),
        hash_texts(texts),
        band_hashes(texts),
        copied_N,
        index,
        UNKNOWN,
        1.5,
    )


def test_every_flag() -> None:
    index = CopyIndex.build([[11, 12, 13, 14], [4, 5]], ["11 12 13 14", "4 5"])
    rows = columns(
        [[11, 12, 13, 14], [4], [9, 9, 9, 9], [7, 3, 8], [21, 22, 23, 24, 25, 26], [11, 12, 13, 99]], None, index
    )
    flags = flag_rows(rows, Filters(min_tokens=2, max_tokens=5, max_copied_tokens=2, max_unknown_share=0.2))
    found = {name: np.flatnonzero(mask).tolist() for name, mask in flags.items() if name != "unlikely"}
    assert found == {
        "truncated": [4],
        "too_short": [1],
        "too_long": [4],
        "unknown_words": [3],
        "repetitive": [2],
        "personal_data": [],
        "copy": [0],
        "copied_run": [0, 5],
        "near_copy": [0],
    }
    assert flags["unlikely"].all()
    assert set(CHECKS) | set(ACROSS_ROWS) == set(FLAGS)


def test_without_a_training_text_nothing_is_a_copy() -> None:
    flags = flag_rows(columns([[1, 2], []]), Filters())
    assert not flags["copy"].any()
    assert not flags["near_copy"].any()
    assert not flags["unknown_words"].any()
    assert repeated_share([1, 2, 1, 2, 1]) == 0.5
    assert repeated_share([1]) == 0
