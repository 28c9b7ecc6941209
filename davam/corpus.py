"""A recipe's corpus before it is read: its pieces, and how much text there is, judged by its first rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from davam.data import fs, grammar, source
from davam.errors import DataError
from davam.recipe import DataConfig, FileData, GrammarData, Recipe

BYTES_PER_BPE_TOKEN = 4  # of English, with some thousands of tokens


@dataclass(frozen=True)
class Corpus:
    """Rows of each split, the tokens of a row with its end, and how many pieces can be read side by side."""

    rows: Mapping[str, float]
    tokens_per_row: float
    pieces: int


def corpus_of(recipe: Recipe) -> Corpus:
    """How much text there is: of the embedded corpus exactly, of files as the first rows have it.

    Raises DataError for what cannot be read.
    """
    if isinstance(recipe.data, GrammarData):
        rows = {split: float(getattr(recipe.data, f"{split}_rows")) for split in source.SPLITS}
        return Corpus(rows, grammar.mean_tokens(), 1)
    chunks = chunks_of(recipe.data)
    read, first = _first_rows(chunks, columns_of(recipe.data))
    counted = dict.fromkeys(source.SPLITS, 0.0)
    for chunk in chunks:
        row_bytes = 1.0 if chunk.format == "parquet" else _row_bytes(read, first)
        for split, share in _shares(chunk, recipe.data).items():
            counted[split] += share * (chunk.stop - chunk.start) / row_bytes
    return Corpus(counted, _tokens_per_row(first, recipe.tokenizer.kind), len(chunks))


def chunks_of(data: FileData) -> list[source.Chunk]:
    """The pieces of the corpus that are read in parallel. Raises DataError for what cannot be read."""
    patterns = {
        name: None if value is None else fs.join(data.root, value) if data.root else value
        for name, value in (("train", data.train), ("valid", data.valid), ("test", data.test))
    }
    return source.plan_chunks(patterns, data.format, columns_of(data))


def columns_of(data: FileData) -> source.Columns:
    """The columns that are read."""
    return source.Columns(data.text_column, data.label_column)


def _shares(chunk: source.Chunk, data: DataConfig) -> dict[str, float]:
    assert isinstance(data, FileData)
    if chunk.split is not None:
        return {chunk.split: 1.0}
    held_out = data.valid_share + data.test_share
    return {"train": 1 - held_out, "valid": data.valid_share, "test": data.test_share}


def _first_rows(chunks: Sequence[source.Chunk], columns: source.Columns) -> tuple[source.Chunk, pa.RecordBatch]:
    """The first piece with rows, and those. The pieces of `train` come first, so a model is trained on them."""
    for chunk in chunks:
        for rows in source.read_chunk(chunk, columns):
            return chunk, rows
    raise DataError(f"{chunks[0].uri}: no rows, here or in the corpus's other files; add text")


def _row_bytes(chunk: source.Chunk, rows: pa.RecordBatch) -> float:
    """Bytes of a line with its end, by where the first lines begin: an id holds its row's place in the file."""
    if rows.num_rows < source.BATCH_ROWS:  # there are no more than these
        return (chunk.stop - chunk.start) / rows.num_rows
    place_N = rows["id"].to_numpy() & ((1 << source.OFFSET_BITS) - 1)
    return float((place_N[-1] - place_N[0]) / (rows.num_rows - 1))


def _tokens_per_row(rows: pa.RecordBatch, kind: str) -> float:
    texts = [text for text in rows["text"].to_pylist() if text]
    if kind == "bpe":
        tokens = [len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_BPE_TOKEN for text in texts]
    else:
        tokens = [len(text.split()) for text in texts]
    return float(np.mean(tokens)) + 1 if texts else 1.0
