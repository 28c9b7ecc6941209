"""The measures of a training by epoch, in the store: while it runs, when it was stopped, and once it is finished."""

import json
from typing import Any

from davam.data import fs
from davam.data.artifacts import Store, read_manifest, short

HISTORY = "history.json"
RECORD = "metrics.json"  # of a model folder


def run_name(stage: str, identity: str) -> str:
    """The name of the training of that fingerprint."""
    return f"{stage}-{short(identity)}"


def training_uri(store: str, name: str) -> str:
    """The folder of an unfinished training."""
    return fs.join(store, "train", name)


def write_history(store: str, name: str, history: list[dict[str, float]]) -> None:
    """Keeps the measures of the epochs so far beside the training's checkpoints."""
    fs.write_bytes_atomic(fs.join(training_uri(store, name), HISTORY), json.dumps(history).encode())


def read_history(store: Store, stage: str, identity: str) -> list[dict[str, float]]:
    """The measures of each epoch so far, finished or not; empty before the first epoch has ended."""
    record = read_record(store, stage, identity)
    if record is not None:
        history: list[dict[str, float]] = record["history"]
        return history
    try:
        uri = fs.join(training_uri(store.uri, run_name(stage, identity)), HISTORY)
        history = json.loads(fs.read_bytes(uri))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return history


def read_record(store: Store, stage: str, identity: str) -> dict[str, Any] | None:
    """What a finished training left of itself, `davam.train.state.training_record`; nothing before it is finished."""
    manifest = read_manifest(store.artifact_uri(stage, identity))
    if manifest is None:
        return None
    record: dict[str, Any] = json.loads(fs.read_bytes(fs.join(store.files_uri(manifest), RECORD)))[stage]
    return record
