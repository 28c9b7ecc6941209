"""The artifacts of the experiment on augmentation: a subset of the real sentences, what a generator adds to it, and one
cell. A task needs nothing but the store and plain data to make one."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from davam import api
from davam.augment.causal import causal_lm
from davam.augment.eda import eda
from davam.augment.experiment import Ground, measured
from davam.augment.rows import (
    Source,
    Texts,
    drawn,
    listed,
    nothing,
    read_texts,
    repeated,
    subset,
    valid_rows,
    write_texts,
)
from davam.augment.study import EDA, REAL, REPEAT, Cell
from davam.data import fs
from davam.data.artifacts import Attempt, Manifest, Store
from davam.data.source import SPLITS
from davam.recipe import FileData, Recipe
from davam.sampling import Sampling
from pipelines.data import read_labels, read_tokenizer
from pipelines.stage import Built, Run, Stage

TEXTS, CELL = "texts.jsonl", "cell.json"


@dataclass(frozen=True)
class Setting:
    """What all conditions of one size and seed share: the large corpus, the subset of it, and the language model's
    recipe, with the seed."""

    store: str
    tokens: Manifest
    subset: Manifest
    lm: Recipe

    @property
    def real_uri(self) -> str:
        """The subset's training sentences."""
        return fs.join(Store(self.store).files_uri(self.subset), "train.jsonl")

    def ground(self) -> Ground:
        """The same, read from the store."""
        valid_uri = fs.join(Store(self.store).files_uri(self.subset), "valid.jsonl")
        return Ground(
            self.lm,
            read_tokenizer(self.store, self.tokens),
            read_labels(self.store, self.tokens),
            read_texts(self.real_uri),
            read_texts(valid_uri),
            texts_of(self.store, self.tokens, "test"),
        )


def subset_stage(tokens: Manifest, rows: int, seed: int) -> Stage:
    """The stage whose output is so many training sentences of a corpus, a tenth as many to validate on, and all test
    sentences, as JSONL: a corpus of its own."""

    def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
        store = run.store.uri
        train = texts_of(store, tokens, "train")
        parts = {"train": train.take(subset(len(train.texts), rows, seed))}
        for split in ("valid", "test"):
            # A model that is conditional on labels cannot be given one that it has never seen.
            known = _with_labels(texts_of(store, tokens, split), parts["train"].labels)
            wanted = valid_rows(rows) if split == "valid" else len(known.texts)
            places = subset(len(known.texts), wanted, seed) if split == "valid" else range(wanted)
            parts[split] = known.take(places)
        for split, part in parts.items():
            write_texts(fs.join(attempt.uri, f"{split}.jsonl"), part)
        return Built({split: len(part.texts) for split, part in parts.items()})

    return Stage(
        "subset",
        1,
        lambda recipe: (),
        lambda recipe: {"rows": rows, "seed": seed},
        build,
        lambda recipe: {"tokens": tokens.fingerprint},
    )


def subset_data(store: str, found: Manifest, recipe: Recipe) -> FileData:
    """The subset as the data of a recipe."""
    return FileData(
        root=Store(store).files_uri(found),
        format="jsonl",
        label_column=None if recipe.data.label_column is None else "label",
        max_tokens=recipe.data.max_tokens,
        **{split: f"{split}.jsonl" for split in SPLITS},
    )


def texts_of(store: str, tokens: Manifest, split: str) -> Texts:
    """The split's sentences in the order of their ids, and their labels, where there are any."""
    table = Store(store).read_table(tokens, "tokens/1", split=split, columns=["id", "text"])
    texts = table.sort_by("id")["text"].to_pylist()
    if not read_labels(store, tokens):
        return Texts(texts)
    return Texts(texts, Store(store).read_table(tokens, "labels/1", split=split).sort_by("id")["label"].to_pylist())


def sample(attempt_uri: str, setting: Setting, model_uri: str, sampling: Sampling, ratio: float) -> dict[str, float]:
    """Writes sentences of a trained model as many as the ratio takes."""
    model, seed = api.load(model_uri), setting.lm.seed

    def sampled(rows: Sequence[int]) -> Texts:
        samples = model.sample_ids(rows, seed=seed, sampling=sampling)
        return Texts(samples.texts, samples.labels)

    return _write_drawn(attempt_uri, setting, sampled, ratio)


def write_on(attempt_uri: str, setting: Setting, folder: str, ratio: float) -> dict[str, float]:
    """Writes sentences of a pretrained causal model as many as the ratio takes."""
    source = causal_lm(folder, read_texts(setting.real_uri), setting.lm.seed)
    return _write_drawn(attempt_uri, setting, source, ratio)


def _write_drawn(attempt_uri: str, setting: Setting, source: Source, ratio: float) -> dict[str, float]:
    ground = setting.ground()
    added = drawn(source, ground.encode, ground.budget_tokens(ratio))
    write_texts(fs.join(attempt_uri, TEXTS), added.texts)
    return {"rows": float(len(added.tokens))}


def measure(
    attempt_uri: str, setting: Setting, protocol: str, name: str, ratio: float, texts_uri: str | None
) -> dict[str, float]:
    """Writes the cell of that source at that ratio; `texts_uri` holds what a generator gave."""
    ground = setting.ground()
    cell = measured(ground, protocol, name, _source(name, ground, texts_uri), ratio)
    fs.write_bytes_atomic(fs.join(attempt_uri, CELL), json.dumps(asdict(cell), indent=1).encode())
    return {"ppl_exact": cell.ppl_exact}


def read_cell(store: Store, found: Manifest) -> Cell:
    """The cell of an artifact."""
    values: dict[str, Any] = json.loads(fs.read_bytes(fs.join(store.files_uri(found), CELL)))
    return Cell(**values)


def _source(name: str, ground: Ground, texts_uri: str | None) -> Source:
    if texts_uri is not None:
        return listed(read_texts(texts_uri))
    return {REAL: nothing, REPEAT: repeated(ground.real), EDA: eda(ground.real, ground.lm.seed)}[name]


def _with_labels(texts: Texts, labels: list[str] | None) -> Texts:
    """Those whose label is among the labels."""
    if labels is None or texts.labels is None:
        return texts
    known = set(labels)
    return texts.take([place for place, label in enumerate(texts.labels) if label in known])
