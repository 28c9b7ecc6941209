"""Reading committed rows back: for the workers of the training stages and for the checks before they start."""

import json

from davam.data.artifacts import Manifest, Store, localize
from davam.data.batches import Rows
from davam.data.labels import LABELS, NO_LABELS, Labels
from davam.data.tokenizer import TextTokenizer
from davam.errors import ConfigError, DataError
from davam.recipe import Recipe
from davam.train.stages import check_enough

TOKENIZER = "tokenizer"


def read_rows(store_uri: str, manifest: Manifest, split: str, end_code: int | None, labels: Labels) -> Rows:
    """The split's rows of `tokens/1`, or of `codes/1` with the end code appended when one is given; with their labels,
    where there are any."""
    store = Store(store_uri)
    numbers = None
    if labels:
        numbers = labels.numbers(store.read_table(manifest, "labels/1", split=split)["label"].to_pylist())
    if end_code is None:
        table = store.read_table(manifest, "tokens/1", split=split, columns=["id", "tokens"])
        return Rows.from_lists(table["id"].to_pylist(), table["tokens"].to_pylist(), numbers)
    table = store.read_table(manifest, "codes/1", split=split, columns=["id", "codes"])
    codes = [[*row, end_code] for row in table["codes"].to_pylist()]
    return Rows.from_lists(table["id"].to_pylist(), codes, numbers)


def read_tokenizer(store_uri: str, manifest: Manifest) -> TextTokenizer:
    """The tokenizer of a `tokens` artifact."""
    folder = localize(Store(store_uri).artifact_uri(manifest.stage, manifest.fingerprint), TOKENIZER)
    return TextTokenizer.load(folder / TOKENIZER)


def read_labels(store_uri: str, manifest: Manifest) -> Labels:
    """The labels of a `tokens` artifact; none of a corpus without."""
    if f"{manifest.attempt}/{LABELS}" not in {entry.path for entry in manifest.files}:
        return NO_LABELS
    folder = localize(Store(store_uri).artifact_uri(manifest.stage, manifest.fingerprint), LABELS)
    return Labels(json.loads((folder / LABELS).read_bytes()))


def split_rows(manifest: Manifest, split: str) -> int:
    """How many rows the split has, by the manifest alone."""
    return sum(entry.rows or 0 for entry in manifest.files if entry.split == split)


def require_rows(rows: Manifest, recipe: Recipe) -> None:
    """Raises DataError for a corpus that cannot be trained on, or that has nothing to be judged on."""
    check_enough(split_rows(rows, "train"), split_rows(rows, "valid"), recipe.model)
    if not split_rows(rows, "test"):
        raise DataError("no test sentences: give data.valid and data.test, or raise data.test_share")


def require_codes(recipe: Recipe) -> None:
    """Raises ConfigError for a family whose sentences have no codes."""
    if not recipe.discrete:
        raise ConfigError(f"codes: model.kind={recipe.model.kind} has no codes, and so no such stage")


def require_prior(recipe: Recipe) -> None:
    """Raises ConfigError for a family without codes that a prior learns afterwards."""
    if not recipe.has_codes:
        what = "learns its prior in stage one" if recipe.discrete else "has no codes"
        raise ConfigError(f"stage_two: model.kind={recipe.model.kind} {what}, and so no such stage")
