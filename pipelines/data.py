"""Reading committed rows back: for the workers of both training stages and for the checks before they start."""

from davam.data.artifacts import Manifest, Store, localize
from davam.data.batches import Rows
from davam.data.tokenizer import TextTokenizer
from davam.errors import DataError
from davam.recipe import TrainConfig
from pipelines.stage import Run


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


def train_steps(manifest: Manifest, config: TrainConfig) -> int:
    """Optimizer steps of the whole training."""
    return config.epochs * -(-split_rows(manifest, "train") // config.batch_rows)


def require_rows(run: Run, manifest: Manifest) -> None:
    """Raises DataError, before any worker starts, for a corpus that cannot be trained on."""
    size, train = run.recipe.model.codebook_size, split_rows(manifest, "train")
    if train < size:
        raise DataError(
            f"{train} training sentences for {size} codes: every code needs several; add text, or set "
            f"model.codebook_size={max(2, train // 10)}"
        )
    for split in ("valid", "test"):
        if not split_rows(manifest, split):
            raise DataError(f"no {split} sentences: give data.valid and data.test, or raise data.{split}_share")
