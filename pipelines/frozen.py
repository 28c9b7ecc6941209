"""The sentences on which every model of a channel is judged, frozen when its first model was promoted, and what a model
makes of them.

    <store>/channels/<name>/frozen.parquet      written once
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from davam import api
from davam.data import fs
from davam.data.artifacts import Attempt, Manifest, Store, parquet_bytes, read_tables
from davam.data.schemas import SCHEMAS
from davam.data.tokenizer import EOS_ID, UNK, UNK_ID
from davam.errors import DataError
from davam.evaluate.metrics import ppl_bound, spelling_nats
from pipelines.stage import Built, Run, Stage

SCORED_ROWS = 256  # that an actor takes at a time: always the same together, so that rounding is the same


def frozen_uri(store_uri: str, channel: str) -> str:
    """Where the channel's sentences are, or will be."""
    return fs.join(store_uri, "channels", channel, "frozen.parquet")


def freeze(store: Store, channel: str, tokens: Manifest, labelled: bool) -> None:
    """Freezes the test sentences of a corpus for the channel, unless it has some."""
    rows = store.read_table(tokens, "tokens/1", split="test", columns=["id", "text"]).sort_by("id")
    labels = [""] * len(rows)
    if labelled:
        labels = store.read_table(tokens, "labels/1", split="test").sort_by("id")["label"].to_pylist()
    table = rows.append_column("label", pa.array(labels, pa.string())).cast(SCHEMAS["frozen/1"])
    fs.create_bytes(frozen_uri(store.uri, channel), parquet_bytes(table))


def frozen_stage(model_uri: str, model_sha256: str, uri: str) -> Stage:
    """The stage that scores a model on frozen sentences; it depends on the two of them alone."""

    def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
        run.connect()
        import ray

        from cluster import actors, batch
        from cluster.progress import progress

        rows = tokenized(read_tables([uri], "frozen/1"), api.load(model_uri))
        blocks = [rows.slice(first, SCORED_ROWS) for first in range(0, len(rows), SCORED_ROWS)]
        execution = run.execution.for_rows(len(rows))
        with progress("frozen", len(rows), "rows") as counter:
            arguments = {"model_uri": model_uri, "counter": counter, "importance_draws": 0}
            scored = batch.map_model(ray.data.from_arrow(blocks), actors.Scorer, arguments, execution, SCORED_ROWS)
            batch.write(scored, attempt.uri, by_split=False)
        scores = attempt.read_table("scores/2")
        if len(scores) != len(rows):
            raise DataError(f"{len(scores)} scores for {len(rows)} rows; score them again with --force frozen")
        return Built({"rows": len(rows)}, measures(scores, rows))

    sources = {"model": model_sha256, "frozen": hashlib.sha256(fs.read_bytes(uri)).hexdigest()}
    return Stage("frozen", 1, lambda recipe: (), lambda recipe: {}, build, lambda recipe: sources)


def tokenized(rows: pa.Table, model: api.TextModel) -> pa.Table:
    """The rows with their tokens, as the model reads them. Raises DataError for one that is too long for it."""
    tokens = [[*row, EOS_ID] for row in model.tokenizer.encode(rows["text"].to_pylist())]
    longest = max(map(len, tokens), default=1) - 1
    if longest > model.max_tokens:
        raise DataError(
            f"a frozen sentence has {longest} tokens, but the model reads {model.max_tokens}; raise data.max_tokens"
        )
    return rows.append_column("tokens", pa.array(tokens, SCHEMAS["tokens/1"].field("tokens").type))


def measures(scores: pa.Table, rows: pa.Table) -> dict[str, float]:
    """`frozen_ppl`, exact or a bound as the model's own is, for each word and end, and what it is made of."""
    model_nats = float(scores["rec_nats"].to_numpy().sum() + scores["kl_nats"].to_numpy().sum())
    texts = [text.split() for text in rows["text"].to_pylist()]
    unknown = unknown_words(rows["tokens"].to_pylist(), texts)
    words = sum(map(len, texts))
    return {
        "frozen_ppl": ppl_bound(model_nats, spelling_nats(unknown), words + len(texts)),
        "frozen_model_nats": model_nats / len(texts),
        "frozen_unknown_rate": len(unknown) / words,
    }


def unknown_words(tokens: Sequence[Sequence[int]], texts: Sequence[Sequence[str]]) -> list[str]:
    """The words that a word-level model reads as `<unk>`, but for those that are written so."""
    found: list[str] = []
    for row, words in zip(tokens, texts, strict=True):
        if len(row) == len(words) + 1:  # a token a word, and the end
            found += [word for token, word in zip(row, words, strict=False) if token == UNK_ID and word != UNK]
    return found


def measures_of(run_inputs: dict[str, str], store: Store) -> dict[str, Any]:
    """The measures that a run's own stages took."""
    found: dict[str, Any] = {}
    for name in ("evaluate", "faithfulness"):
        manifest = store.find(name, run_inputs[name])
        if manifest is None:
            raise DataError(f"{store.artifact_uri(name, run_inputs[name])} is not there; build the run again")
        found |= manifest.metrics
    return found
