"""The rows of the experiment: which real ones a condition has, and what a source adds within a budget of tokens.

A source is a function from row numbers to texts, of which there are as many as one asks for.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from davam.data import fs
from davam.data.tokenizer import EOS_ID, UNK_ID, TextTokenizer
from davam.errors import DataError
from davam.nn.noise import Stream, generator

BLOCK_ROWS = 256  # asked of a source at a time
VALID_SHARE = 0.1  # of a subset's size: what a person with so little text would hold out


@dataclass(frozen=True)
class Texts:
    """Sentences and, of a corpus with labels, the label of each."""

    texts: list[str]
    labels: list[str] | None = None

    def take(self, places: Sequence[int]) -> "Texts":
        """Those at the places, in that order."""
        labels = None if self.labels is None else [self.labels[place] for place in places]
        return Texts([self.texts[place] for place in places], labels)


Source = Callable[[Sequence[int]], Texts]
Encode = Callable[[Sequence[str]], list[list[int]]]


@dataclass(frozen=True)
class Added:
    """What a source adds: texts as they came, and their tokens within the budget."""

    texts: Texts
    tokens: list[list[int]]


def subset(total: int, rows: int, seed: int) -> list[int]:
    """The places of so many of all rows: the first of one permutation, so that a larger subset holds every smaller one.
    A function of (total, rows, seed)."""
    return [int(place) for place in generator(seed, Stream.SUBSET).permutation(total)[:rows]]


def valid_rows(rows: int) -> int:
    """How many validation rows go with so many training rows."""
    return max(1, round(VALID_SHARE * rows))


def encoder(tokenizer: TextTokenizer, max_tokens: int, unknown: bool) -> Encode:
    """Texts to rows that end with `</s>`; of a longer one the first tokens without an end. There is nothing of a blank
    one nor, without `unknown`, of one that holds `<unk>`."""

    def encode(texts: Sequence[str]) -> list[list[int]]:
        rows = [row if unknown or UNK_ID not in row else [] for row in tokenizer.encode(list(texts))]
        return [[*row, EOS_ID] if 1 <= len(row) <= max_tokens else row[:max_tokens] for row in rows]

    return encode


def drawn(source: Source, encode: Encode, budget_tokens: int) -> Added:
    """The source's first rows that hold exactly so many tokens, ends counted: the last one is cut, and then has no end.

    Raises DataError for a source that gives no sentences.
    """
    texts: list[str] = []
    labels: list[str] = []
    tokens: list[list[int]] = []
    left, first = budget_tokens, 0
    while left > 0:
        block = source(range(first, first + BLOCK_ROWS))
        before = len(tokens)
        for place, row in enumerate(encode(block.texts)):
            if row and left > 0:
                tokens.append(row[:left])
                left -= len(tokens[-1])
                texts.append(block.texts[place])
                if block.labels is not None:
                    labels.append(block.labels[place])
        if len(tokens) == before:
            raise DataError(
                f"rows {first} to {first + BLOCK_ROWS} of a source are all blank or hold words that the real text does "
                "not have; leave the source out"
            )
        first += BLOCK_ROWS
    return Added(Texts(texts, labels or None), tokens)


def nothing(rows: Sequence[int]) -> Texts:
    """No rows at all: the source of ratio 0."""
    return Texts([])


def repeated(real: Texts) -> Source:
    """The real rows, again and again."""
    return lambda rows: real.take([row % len(real.texts) for row in rows])


def listed(texts: Texts) -> Source:
    """Rows that are there already; beyond them there are none."""
    return lambda rows: texts.take([row for row in rows if row < len(texts.texts)])


def write_texts(uri: str, texts: Texts) -> None:
    """Writes JSONL with the keys `text` and, where there are any, `label`."""
    rows: list[dict[str, str]] = [{"text": text} for text in texts.texts]
    if texts.labels is not None:
        rows = [row | {"label": label} for row, label in zip(rows, texts.labels, strict=True)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    fs.write_bytes_atomic(uri, lines.encode())


def read_texts(uri: str) -> Texts:
    """The rows that `write_texts` wrote."""
    rows = [json.loads(line) for line in fs.read_bytes(uri).decode().split("\n") if line]
    labels = [row["label"] for row in rows] if rows and "label" in rows[0] else None
    return Texts([row["text"] for row in rows], labels)
