"""What Ray Data's actors do: each class holds a loaded model and calls the library; Ray gives it tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from cluster.batch import counted, labels_of
from davam import api
from davam.data.schemas import SCHEMAS
from davam.generation.spec import Variation
from davam.sampling import Sampling


class Encoder:
    """Adds the codes of each row's text."""

    def __init__(self, model_uri: str, counter: Any, gpu: bool) -> None:
        self.model = load_model(model_uri, gpu)
        self.counter = counter

    def __call__(self, table: pa.Table) -> pa.Table:
        """Columns id, codes, length, split and, where there are any, label."""
        with counted(self.counter, table.num_rows):
            codes = self.model.encode_tokens(table["tokens"].to_pylist())
        columns = {
            "id": table["id"],
            "codes": pa.array(codes, SCHEMAS["codes/1"].field("codes").type),
            "length": pa.array([len(row) for row in codes], pa.int32()),
            "split": table["split"],
        }
        return pa.table(columns | labels_of(table))


class Sampler:
    """Turns row ids into samples."""

    def __init__(self, model_uri: str, counter: Any, gpu: bool, seed: int, sampling: Sampling) -> None:
        self.model = load_model(model_uri, gpu)
        self.counter = counter
        self.seed = seed
        self.sampling = sampling

    def __call__(self, table: pa.Table) -> pa.Table:
        """The schema `samples/2`."""
        with counted(self.counter, table.num_rows):
            return self.model.sample_ids(table["id"].to_pylist(), seed=self.seed, sampling=self.sampling).table()


class GridSampler:
    """Turns the ids of several settings into texts, each setting with a sampling of its own."""

    def __init__(self, model_uri: str, counter: Any, gpu: bool, seed: int, samplings: Sequence[Sampling]) -> None:
        self.model = load_model(model_uri, gpu)
        self.counter = counter
        self.seed = seed
        self.samplings = samplings

    def __call__(self, table: pa.Table) -> pa.Table:
        """The schema `draws/1`."""
        parts = []
        with counted(self.counter, table.num_rows):
            for setting in table["setting"].unique().to_pylist():
                rows = table.filter(pc.equal(table["setting"], setting))
                drawn = self.model.sample_ids(rows["id"].to_pylist(), seed=self.seed, sampling=self.samplings[setting])
                parts.append(rows.append_column("text", pa.array(drawn.texts, pa.string())))
        return pa.concat_tables(parts).cast(SCHEMAS["draws/1"])


class Pricer:
    """Adds what each text costs under a judge."""

    def __init__(self, judge: str, counter: Any, gpu: bool, download: bool) -> None:
        torch.set_num_threads(1)
        self.judge = api.load_judge(judge, download, "cuda" if gpu else "cpu")
        self.counter = counter

    def __call__(self, table: pa.Table) -> pa.Table:
        """The schema `judged/2`."""
        with counted(self.counter, table.num_rows):
            costs = self.judge(table["text"].to_pylist())
        priced = table.append_column("nats", pa.array(costs.nats_N, pa.float64()))
        for name, column_N in (("tokens", costs.tokens_N), ("unknown", costs.unknown_N)):
            priced = priced.append_column(name, pa.array(column_N, pa.int32()))
        return priced.cast(SCHEMAS["judged/2"])


class Varier:
    """Turns rows of `tokens/1` into variations of their texts."""

    def __init__(self, model_uri: str, counter: Any, gpu: bool, variation: Variation, origin: dict[str, Any]) -> None:
        self.model = load_model(model_uri, gpu)
        self.counter = counter
        self.variation = variation
        self.origin = origin

    def __call__(self, table: pa.Table) -> pa.Table:
        """The schema `varied/1`."""
        ids, given = table["id"].to_pylist(), table["text"].to_pylist()
        labels = table["label"].to_pylist() if self.model.labels else None
        n, share, seed, sampling = (getattr(self.variation, name) for name in ("n", "share", "seed", "sampling"))
        with counted(self.counter, table.num_rows):
            varied = self.model.vary(given, n, share=share, seed=seed, sampling=sampling, labels=labels, ids=ids)
        columns = {
            "id": np.repeat(ids, n),
            "variation": np.tile(np.arange(n), len(ids)),
            "given": [text for text in given for _ in range(n)],
            "label": [label for label in labels or [""] * len(ids) for _ in range(n)],
            "text": [text for row in varied for text in row],
        }
        columns |= {name: [value] * (n * len(ids)) for name, value in self.origin.items()}
        return pa.Table.from_pydict(columns, schema=SCHEMAS["varied/1"])


class Scorer:
    """Scores and reconstructs given texts."""

    def __init__(self, model_uri: str, counter: Any, gpu: bool, importance_draws: int) -> None:
        self.model = load_model(model_uri, gpu)
        self.counter = counter
        self.importance_draws = importance_draws

    def __call__(self, table: pa.Table) -> pa.Table:
        """The schema `scores/2`."""
        tokens, texts, ids = (table[name].to_pylist() for name in ("tokens", "text", "id"))
        labels = table["label"].to_pylist() if self.model.labels else None
        with counted(self.counter, table.num_rows):
            return self.model.score_tokens(tokens, texts, ids, self.importance_draws, labels).table()


def load_model(model_uri: str, gpu: bool) -> api.TextModel:
    """The model in an actor: one thread, on its GPU where it has one."""
    torch.set_num_threads(1)
    return api.load(model_uri, "cuda" if gpu else "cpu")
