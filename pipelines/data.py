"""Reading committed rows back: for the workers of the training stages and for the checks before they start."""

from davam.data.artifacts import Manifest, Store, localize
from davam.data.batches import Rows
from davam.data.tokenizer import TextTokenizer
from davam.errors import ConfigError, DataError
from davam.recipe import Recipe
from davam.train.stages import check_enough


def read_rows(store_uri: str, manifest: Manifest, split: str, end_code: int | None) -> Rows:
    """The split's rows of `tokens/1`, or of `codes/1` with the end code appended when one is given."""
    store = Store(store_uri)
    if end_code is None:
        table = store.read_table(manifest, "tokens/1", split=split, columns=["id", "tokens"])
        return Rows.from_lists(table["id"].to_pylist(), table["tokens"].to_pylist())
    table = store.read_table(manifest, "codes/1", split=split, columns=["id", "codes"])
    return Rows.from_lists(table["id"].to_pylist(), [[*row, end_code] for row in table["codes"].to_pylist()])


def read_tokenizer(store_uri: str, manifest: Manifest) -> TextTokenizer:
    """The tokenizer of a `tokens` artifact."""
    folder = localize(Store(store_uri).artifact_uri(manifest.stage, manifest.fingerprint))
    return TextTokenizer.load(folder / "tokenizer")


def split_rows(manifest: Manifest, split: str) -> int:
    """How many rows the split has, by the manifest alone."""
    return sum(entry.rows or 0 for entry in manifest.files if entry.split == split)


def require_rows(rows: Manifest, recipe: Recipe) -> None:
    """Raises DataError for a corpus that cannot be trained on, or that has nothing to be judged on."""
    check_enough(split_rows(rows, "train"), split_rows(rows, "valid"), recipe.model)
    if not split_rows(rows, "test"):
        raise DataError("no test sentences: give data.valid and data.test, or raise data.test_share")


def require_codes(recipe: Recipe, stage: str) -> None:
    """Raises ConfigError for a stage that the recipe's family does not have."""
    if not recipe.has_codes:
        raise ConfigError(f"{stage}: model.kind={recipe.model.kind} has no codes, and so no such stage")
