"""Easy data augmentation without synonyms (Wei and Zou, 2019): a sentence with a few of its own words swapped, deleted
or inserted once more."""

from collections.abc import Sequence

import numpy as np

from davam.augment.rows import Source, Texts
from davam.nn.noise import Stream, generator

CHANGED_SHARE = 0.1  # of a sentence's words, as its authors advise; at least one

Random = np.random.Generator


def eda(real: Texts, seed: int) -> Source:
    """The real rows, again and again, each changed by one operation: a function of (seed, row)."""

    def changed(rows: Sequence[int]) -> Texts:
        given = real.take([row % len(real.texts) for row in rows])
        texts = [
            " ".join(altered(text.split(), generator(seed, Stream.EDA, row)))
            for row, text in zip(rows, given.texts, strict=True)
        ]
        return Texts(texts, given.labels)

    return changed


def altered(words: list[str], random: Random) -> list[str]:
    """The words after one operation, each equally probable, on a share of them."""
    operation = (swapped, deleted, inserted)[random.integers(3)]
    return operation(words, changes(len(words)), random)


def changes(words: int) -> int:
    """How many words of so many are changed."""
    return max(1, round(CHANGED_SHARE * words))


def swapped(words: list[str], count: int, random: Random) -> list[str]:
    """So many times, two places exchange their words."""
    words = list(words)
    for _ in range(count if len(words) > 1 else 0):
        one, other = random.choice(len(words), 2, replace=False)
        words[one], words[other] = words[other], words[one]
    return words


def deleted(words: list[str], count: int, random: Random) -> list[str]:
    """So many words are left out, but never the last one."""
    gone = set(random.choice(len(words), min(count, len(words) - 1), replace=False).tolist()) if words else set()
    return [word for place, word in enumerate(words) if place not in gone]


def inserted(words: list[str], count: int, random: Random) -> list[str]:
    """So many times, a word of the sentence is put in once more, anywhere."""
    given, words = words, list(words)
    for _ in range(count if given else 0):
        words.insert(int(random.integers(len(words) + 1)), given[random.integers(len(given))])
    return words
