"""What the training stages share: one Ray Train run, and its outcome as a stage's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from davam.api import TextModel
from davam.data import fs
from davam.data.artifacts import Attempt, Manifest
from davam.data.batches import Rows
from davam.families.base import Trainable
from davam.families.text import TextFamily
from davam.recipe import TrainConfig
from davam.train.history import run_name, training_uri
from pipelines.data import read_labels, read_rows, read_tokenizer, require_rows, split_rows
from pipelines.stage import Built, Run


def trained(
    stage: str,
    run: Run,
    inputs: dict[str, Manifest],
    attempt: Attempt,
    rows: Manifest,
    build: Callable[[Any], tuple[Trainable, Rows, Rows]],
    export: Callable[[Any, Trainable], TextModel],
    split: str = "train",
) -> Built:
    """Trains the recipe's stage of that name on the rows of the split by Ray Train; rank 0 writes the model folder.

    Raises DataError, before any worker starts, for a corpus that cannot be trained on.
    """
    require_rows(rows, run.recipe)
    run.connect()
    from cluster.train import TrainTask, run_training

    name = run_name(attempt.stage, attempt.fingerprint)
    if attempt.stage in run.execution.force:
        fs.delete_folder(training_uri(run.store.uri, name))
    task = TrainTask(stage, name, run.recipe, run.execution, inputs, attempt.uri, build, export)
    result = run_training(task, train_steps(rows, getattr(run.recipe, stage), split))
    counts = {"epochs": int(result["epochs"]), "parameters": int(result["parameters"])}
    measures = {f"valid_{result['objective']}": float(result["best_valid"])}
    return Built(counts, measures | {name: float(result[name]) for name in ("train_s", "beside_s")})


def train_steps(rows: Manifest, config: TrainConfig, split: str = "train") -> int:
    """Optimizer steps of the whole training on the rows of the split."""
    return config.epochs * -(-split_rows(rows, split) // config.batch_rows)


@dataclass(frozen=True)
class TokenRows:
    """What a worker knows of the text: how many words and labels there are, and the rows."""

    vocab_size: int
    labels: int
    train: Rows
    valid: Rows


def token_rows(store: str, tokens: Manifest) -> TokenRows:
    """The rows of a `tokens` artifact."""
    labels = read_labels(store, tokens)
    train, valid = (read_rows(store, tokens, split, None, labels) for split in ("train", "valid"))
    return TokenRows(read_tokenizer(store, tokens).vocab_size, len(labels), train, valid)


def text_model(task: Any, module: Trainable) -> TextModel:
    """The trained family as a model; one with codes has no prior yet."""
    assert isinstance(module, TextFamily)
    store, tokens = task.execution.store, task.inputs["tokens"]
    tokenizer, labels = read_tokenizer(store, tokens), read_labels(store, tokens)
    model = TextModel(task.recipe.model, None, tokenizer, task.recipe.data.max_tokens, labels)
    model.core.load_state_dict(module.state_dict())
    return model
