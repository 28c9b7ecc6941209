"""What each code stands for: the words that it is given to, and the places where it is.

Legend: N positions of all texts in one flat row.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from davam.errors import DataError

MOST_WORDS, MOST_CONTEXTS = 6, 3
BESIDE = 4  # words on each side of a context


@dataclass(frozen=True)
class Context:
    """A word among those before and after it."""

    before: str
    word: str
    after: str


@dataclass(frozen=True)
class CodeEntry:
    """A code that occurs: at how many positions, its commonest words with their counts, and its first contexts."""

    code: int
    positions: int
    words: tuple[tuple[str, int], ...]
    contexts: tuple[Context, ...]


def browse_codes(codes: Sequence[Sequence[int]], words: Sequence[Sequence[str]]) -> list[CodeEntry]:
    """The entry of every code that occurs, the commonest first; equal counts in the order of codes and of words.

    Raises DataError unless every text has a code for each of its words.
    """
    counted: dict[int, Counter[str]] = {}
    contexts: dict[int, list[Context]] = {}
    for row, (code_row, word_row) in enumerate(zip(codes, words, strict=True)):
        if len(code_row) != len(word_row):
            raise DataError(
                f"text {row} has {len(word_row)} words and {len(code_row)} codes: they do not belong together"
            )
        for place, code in enumerate(code_row):
            counted.setdefault(code, Counter())[word_row[place]] += 1
            found = contexts.setdefault(code, [])
            if len(found) < MOST_CONTEXTS:
                found.append(_context(word_row, place))
    entries = [
        CodeEntry(code, count.total(), _commonest(count), tuple(contexts[code])) for code, count in counted.items()
    ]
    return sorted(entries, key=lambda entry: (-entry.positions, entry.code))


def _commonest(count: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(count.items(), key=lambda item: (-item[1], item[0]))[:MOST_WORDS])


def _context(words: Sequence[str], place: int) -> Context:
    before, after = words[max(0, place - BESIDE) : place], words[place + 1 : place + 1 + BESIDE]
    return Context(" ".join(before), words[place], " ".join(after))
