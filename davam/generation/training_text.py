"""The text that a model was trained on, which new rows are compared with."""

from dataclasses import dataclass
from functools import cached_property

from davam.data import fs
from davam.data.artifacts import Manifest, Store, read_manifest, read_run
from davam.data.tokenizer import EOS_ID
from davam.errors import ConfigError
from davam.quality.copies import CopyIndex

ARTIFACTS = "/artifacts/"


@dataclass(frozen=True)
class TrainingText:
    """A `tokens` artifact of a store."""

    store: Store
    manifest: Manifest

    @property
    def is_all(self) -> bool:
        """Whether its model has seen no other text, as one has that began with another model's weights; then the text
        has that model's tokenizer."""
        return "tokenizer" not in self.manifest.inputs

    @cached_property
    def index(self) -> CopyIndex:
        """The training rows in searchable form, made once."""
        return CopyIndex.build(*self.rows("train"))

    def rows(self, split: str) -> tuple[list[list[int]], list[str]]:
        """The split's rows of tokens, without their ends, and its texts."""
        table = self.store.read_table(self.manifest, "tokens/1", split=split, columns=["tokens", "text"])
        words = [row[:-1] if row[-1] == EOS_ID else row for row in table["tokens"].to_pylist()]
        return words, table["text"].to_pylist()


def text_at(uri: str) -> TrainingText:
    """That of a `tokens` artifact. Raises ConfigError when there is none."""
    manifest = read_manifest(uri)
    if manifest is None or manifest.stage != "tokens" or ARTIFACTS not in uri:
        raise ConfigError(f"--training-text {uri}: no `tokens` artifact; give one, or none")
    return TrainingText(Store(uri.rsplit(ARTIFACTS, 1)[0]), manifest)


def text_of(model_uri: str) -> TrainingText | None:
    """That of a model inside a store; nothing for a plain model folder."""
    if fs.exists(fs.join(model_uri, "run.json")):
        model_uri = read_run(model_uri)["model_uri"]
    manifest = read_manifest(model_uri)
    if manifest is None or ARTIFACTS not in model_uri:
        return None
    store = Store(model_uri.rsplit(ARTIFACTS, 1)[0])
    if "tokens" not in manifest.inputs and "stage_one" in manifest.inputs:
        manifest = store.find("stage_one", manifest.inputs["stage_one"])
    tokens = None if manifest is None else store.find("tokens", manifest.inputs["tokens"])
    return None if tokens is None else TrainingText(store, tokens)
