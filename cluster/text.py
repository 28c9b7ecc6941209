"""Ray Data: reading a corpus, counting its words, and tokenizing it."""

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import ray
from ray.data import Dataset

from cluster.batch import labels_of, tables
from davam.data import source
from davam.data.schemas import SCHEMAS
from davam.data.tokenizer import EOS_ID, TextTokenizer, count_words

ROWS = "rows"
BLANK = "blank"
WORD = "word"


class ReadChunks:
    """Rows id, text, split and, where there are any, label of listed chunks; rows without a given split get one from
    the hash of their text."""

    def __init__(self, columns: source.Columns, valid_share: float, test_share: float) -> None:
        self.columns = columns
        self.shares = (valid_share, test_share)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """One table per batch of lines."""
        for values in batch.to_pylist():
            chunk = source.Chunk(**values)
            for lines in source.read_chunk(chunk, self.columns):
                texts = lines["text"].to_pylist()
                splits = [chunk.split or source.split_by_hash(text, *self.shares) for text in texts]
                yield pa.Table.from_batches([lines]).append_column("split", pa.array(splits, pa.string()))


class Tokenize:
    """Rows of `tokens/1` with their split; blank and too long rows are left out."""

    def __init__(self, tokenizer_json: str, max_tokens: int) -> None:
        self.tokenizer = TextTokenizer.from_json(tokenizer_json)
        self.max_tokens = max_tokens

    def __call__(self, table: pa.Table) -> pa.Table:
        """Columns id, tokens, length, text, split and, where there are any, label."""
        encoded = self.tokenizer.encode(table["text"].to_pylist())
        keep = pa.array([1 <= len(row) <= self.max_tokens for row in encoded])
        tokens = [[*row, EOS_ID] for row in encoded if 1 <= len(row) <= self.max_tokens]
        kept = table.filter(keep)
        schema = SCHEMAS["tokens/1"]
        columns = {
            "id": kept["id"],
            "tokens": pa.array(tokens, schema.field("tokens").type),
            "length": pa.array([len(row) for row in tokens], pa.int32()),
            "text": kept["text"],
            "split": kept["split"],
        }
        return pa.table(columns | labels_of(kept))


class Timed:
    """Tells a counter the seconds that a function takes, from a table to a table or to several, one after the other."""

    def __init__(self, function: Callable[[pa.Table], pa.Table | Iterator[pa.Table]], counter: Any) -> None:
        self.function = function
        self.counter = counter

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """The function's tables; what others do between two of them does not count."""
        began = time.monotonic()
        made = self.function(table)
        for part in (made,) if isinstance(made, pa.Table) else made:
            self.counter.add.remote(busy_s=time.monotonic() - began)
            yield part
            began = time.monotonic()


def mapped(rows: Dataset, function: Any, counter: Any, batch_rows: int | None = None) -> Dataset:
    """The rows mapped by a function of tables, whose seconds the counter is told, if there is one."""
    timed = function if counter is None else Timed(function, counter).__call__
    return rows.map_batches(timed, batch_size=batch_rows, batch_format="pyarrow")


def read_corpus(
    chunks: list[source.Chunk],
    columns: source.Columns,
    valid_share: float,
    test_share: float,
    counter: Any = None,
) -> Dataset:
    """The corpus as rows id, text, split, perhaps label; lazily, so that it is read again by each pass."""
    items = pa.Table.from_pylist([asdict(chunk) for chunk in chunks], schema=_CHUNK_SCHEMA)
    reader = ReadChunks(columns, valid_share, test_share)
    rows = ray.data.from_arrow([items.slice(i, 1) for i in range(len(items))])
    return mapped(rows, reader.__call__, counter, batch_rows=1)


def tally(table: pa.Table) -> pa.Table:
    """How often each word of the training rows occurs, and how many rows of each split there are, and blank ones."""
    texts, splits = table["text"].to_pylist(), table["split"].to_pylist()
    words = count_words(text for text, split in zip(texts, splits, strict=True) if split == "train")
    rows = Tally(splits)
    blank = sum(not text.strip() for text in texts)
    entries = [(WORD, word, count) for word, count in words.items()]
    entries += [(ROWS, split, count) for split, count in rows.items()] + [(BLANK, "", blank)]
    return pa.table(
        {
            "what": [e[0] for e in entries],
            "key": [e[1] for e in entries],
            "count": pa.array([e[2] for e in entries], pa.int64()),
        }
    )


def count_corpus(rows: Dataset, counter: Any = None) -> dict[str, Tally[str]]:
    """The first pass: word counts of the training rows, row counts by split, and blank rows."""
    totals: dict[str, Tally[str]] = {what: Tally() for what in (WORD, ROWS, BLANK)}
    for table in tables(mapped(rows, tally, counter)):
        for what, key, count in zip(*(table[name].to_pylist() for name in ("what", "key", "count")), strict=True):
            totals[what][key] += count
    return totals


def training_texts(rows: Dataset) -> Iterator[str]:
    """The texts of the training rows, for tokenizers that are fitted on text rather than counts."""
    for table in tables(rows):
        for text, split in zip(table["text"].to_pylist(), table["split"].to_pylist(), strict=True):
            if split == "train" and text.strip():
                yield text


def tokenized(rows: Dataset, tokenizer: TextTokenizer, max_tokens: int, counter: Any = None) -> Dataset:
    """The second pass: rows of `tokens/1` with their split."""
    return mapped(rows, Tokenize(tokenizer.to_json(), max_tokens).__call__, counter)


_CHUNK_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("format", pa.string()),
        ("file_index", pa.int64()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("split", pa.string()),
    ]
)
