"""Stage `tokens`: text becomes rows of tokens, in two passes of Ray Data (fit the tokenizer, then apply it)."""

import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pyarrow as pa

from davam import warm_start
from davam.corpus import chunks_of, columns_of
from davam.data import fs, grammar, source
from davam.data.artifacts import Attempt, Manifest, read_tables
from davam.data.labels import LABELS, Labels
from davam.data.tokenizer import TextTokenizer
from davam.errors import DataError
from davam.log import say
from davam.recipe import FileData, GrammarData, Recipe
from pipelines.data import TOKENIZER
from pipelines.stage import Built, Run, Stage, main

DEFAULT_BPE_SIZE = 8_000


def uses(recipe: Recipe) -> dict[str, Any]:
    """The data's settings without its location (the content's digest stands for that), and the tokenizer's."""
    # A corpus without labels is what it was before there were any.
    unused = {"root", "train", "valid", "test"} | (set() if recipe.data.label_column else {"label_column"})
    return {
        "data": recipe.data.model_dump(exclude=unused),
        "tokenizer": recipe.tokenizer.model_dump(),
    }


def sources(recipe: Recipe) -> dict[str, str]:
    """The digests of the corpus (the embedded one is determined by its settings) and of a tokenizer that is kept."""
    if isinstance(recipe.data, GrammarData):
        return warm_start.tokenizer_source(recipe)
    return {"text": source.content_digest(chunks_of(recipe.data))} | warm_start.tokenizer_source(recipe)


def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
    """Writes `tokens/1` by split, with labels `labels/1` as well, and the tokenizer."""
    recipe = run.recipe
    chunks = [] if isinstance(recipe.data, GrammarData) else chunks_of(recipe.data)
    run.connect()
    from cluster import batch, progress, text

    with progress.progress("tokens", 0, "rows") as counter:
        rows = _rows(recipe, chunks, counter)
        totals = text.count_corpus(rows, counter)
        tokenizer = _fit(recipe, totals[text.WORD], rows)
        batch.write(text.tokenized(rows, tokenizer, recipe.data.max_tokens, counter), attempt.uri, by_split=True)
        busy_s = progress.busy_s(counter)
    _save(tokenizer, attempt)
    if recipe.data.label_column is not None:
        labels = Labels.counted(_label_rows(attempt), f"data.label_column={recipe.data.label_column}")
        fs.write_bytes_atomic(fs.join(attempt.uri, LABELS), json.dumps(labels.rows).encode())
    built = _counts(attempt, totals[text.ROWS].total(), totals[text.BLANK].total(), tokenizer.vocab_size)
    return replace(built, busy_s=busy_s)


def _rows(recipe: Recipe, chunks: list[source.Chunk], counter: Any) -> Any:
    """The corpus as a lazy dataset of rows id, text, split, perhaps label."""
    from ray.data import from_arrow

    from cluster import text

    data = recipe.data
    if isinstance(data, FileData):
        return text.read_corpus(chunks, columns_of(data), data.valid_share, data.test_share, counter)
    began = time.monotonic()
    table = grammar_rows(data)
    counter.add.remote(busy_s=time.monotonic() - began)
    return from_arrow(table)


def grammar_rows(data: GrammarData) -> pa.Table:
    """The embedded corpus as rows id, text, split: one stream of sentences, cut in three."""
    wanted = {"train": data.train_rows, "valid": data.valid_rows, "test": data.test_rows}
    texts = grammar.sample_sentences(sum(wanted.values()), seed=0)
    splits = [name for name in source.SPLITS for _ in range(wanted[name])]
    columns = {"id": pa.array(range(len(texts)), pa.int64()), "text": texts, "split": splits}
    labels = {} if data.label_column is None else {"label": [str(grammar.category(text)) for text in texts]}
    return pa.table(columns | labels)


def _fit(recipe: Recipe, words: dict[str, int], rows: Any) -> TextTokenizer:
    from cluster import text

    settings = recipe.tokenizer
    if not words:
        raise DataError("no text to train on: no training row holds a word; add text, or check data.train")
    if recipe.warm_start is not None:
        return warm_start.tokenizer(recipe.warm_start)
    if settings.kind == "word":
        return TextTokenizer.fit_words(words, settings.vocab_size, settings.min_count)
    return TextTokenizer.fit_bpe(text.training_texts(rows), settings.vocab_size or DEFAULT_BPE_SIZE)


def _save(tokenizer: TextTokenizer, attempt: Attempt) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        fs.upload_folder(folder, fs.join(attempt.uri, TOKENIZER))


def _label_rows(attempt: Attempt) -> dict[str, Counter[str]]:
    """How many of the rows that were written have each label, by split."""
    paths = [path for path, _ in fs.list_files(attempt.uri) if path.endswith(".parquet")]
    counted = {}
    for split in source.SPLITS:
        uris = [fs.join(attempt.uri, path) for path in paths if path.startswith(f"split={split}/")]
        counted[split] = Counter(read_tables(uris, "labels/1", ["label"])["label"].to_pylist())
    return counted


def _counts(attempt: Attempt, rows: int, blank: int, vocab_size: int) -> Built:
    kept = attempt.rows()
    dropped_long = rows - blank - kept
    if dropped_long or blank:
        say(f"tokens: dropped {blank} blank rows and {dropped_long} rows longer than data.max_tokens")
    return Built({"rows": kept, "dropped_blank": blank, "dropped_too_long": dropped_long, "words": vocab_size})


TOKENS = Stage("tokens", 1, lambda recipe: (), uses, build, sources)

if __name__ == "__main__":
    sys.exit(main(TOKENS))
