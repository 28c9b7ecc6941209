"""Ray Data: the candidates of one range, each computed once however often the work is interrupted.

Ray Data's own checkpoint remembers which rows of the range were written; the same call goes on with the others.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import DataContext
from ray.data.checkpoint import CheckpointConfig

from cluster import actors, batch
from davam.api import SAMPLE_ROWS
from davam.data import fs
from davam.data.artifacts import read_tables
from davam.data.schemas import SCHEMAS
from davam.errors import ArtifactError, GenerationError
from davam.execution import Execution
from davam.generation.candidates import CandidateMaker, most_nats_per_token
from davam.generation.spec import Spec
from davam.nn.precision import set_precision
from davam.quality.copies import CopyIndex

CALL_ROWS = 4 * SAMPLE_ROWS  # rows that a model makes in one call
BLOCK_ROWS = 8 * CALL_ROWS  # rows of a file, and what a killed process loses at most


@dataclass(frozen=True)
class Source:
    """What every range is made with; `index` is a reference to the training text's index, or nothing."""

    model_uri: str
    spec: Spec
    index: Any
    most_nats_per_token: float


class Candidates:
    """Turns rows of a range, counted from its beginning, into candidates under the same numbers."""

    def __init__(self, counter: Any, gpu: bool, source: Source, first: int) -> None:
        model = actors.load_model(source.model_uri, gpu)
        if gpu:
            set_precision(model.core, "auto")  # of samples alone: what judges a model stays in fp32
        index = None if source.index is None else ray.get(source.index)
        self.make = CandidateMaker(model, source.spec, index, source.most_nats_per_token)
        self.counter = counter
        self.first = first

    def __call__(self, table: pa.Table) -> pa.Table:
        """The schema `candidates/2`."""
        with batch.counted(self.counter, table.num_rows):
            candidates = self.make([self.first + row for row in table["id"].to_pylist()])
        return candidates.set_column(0, "id", table["id"])


@ray.remote
def _calibrated(model_uri: str, spec: Spec) -> float:
    return most_nats_per_token(actors.load_model(model_uri, gpu=False), spec)


def source_of(model_uri: str, spec: Spec, index: CopyIndex | None) -> Source:
    """What every range is made with: the index in memory that all actors of a machine share, and the threshold of
    `unlikely`, found on the cluster."""
    limit = ray.get(_calibrated.remote(model_uri, spec)) if "unlikely" in spec.filters.drop else math.inf
    return Source(model_uri, spec, None if index is None else ray.put(index), limit)


def make_once(source: Source, rows: int, execution: Execution, counter: Any) -> pa.Table:
    """The first so many candidates, kept nowhere."""
    ids = ray.data.range(rows, override_num_blocks=max(execution.workers, rows // SAMPLE_ROWS))
    arguments = {"source": source, "first": 0, "counter": counter}
    made = batch.map_model(ids, Candidates, arguments, execution, SAMPLE_ROWS)
    tables = [table.select(SCHEMAS["candidates/2"].names) for table in batch.tables(made)]
    return pa.concat_tables(tables).cast(SCHEMAS["candidates/2"])


def make_range(source: Source, first: int, stop: int, pending_uri: str, execution: Execution, counter: Any) -> pa.Table:
    """The candidates of the ids [first, stop), some of them perhaps twice after an interruption."""
    rows = stop - first
    block_rows = max(1, min(BLOCK_ROWS, -(-rows // execution.workers)))
    with _checkpointed(fs.join(pending_uri, "checkpoint")):
        ids = ray.data.range(rows, override_num_blocks=-(-rows // block_rows))
        arguments = {"source": source, "first": first, "counter": counter}
        # One for reading and writing, one for the actor that knows what is there.
        made = batch.map_model(ids, Candidates, arguments, execution, CALL_ROWS, spare_cpus=2)
        batch.write(made, fs.join(pending_uri, "candidates"), by_split=False)
    folder = fs.join(pending_uri, "candidates")
    uris = [fs.join(folder, path) for path, _ in fs.list_files(folder) if path.endswith(".parquet")]
    try:
        table = read_tables(uris, "candidates/2")
    except ArtifactError as error:
        fault = str(error).split(";", 1)[0]
        raise GenerationError(f"{fault}; delete {pending_uri}, and give the command again") from None
    return table.set_column(0, SCHEMAS["candidates/2"].field("id"), pa.array(table["id"].to_numpy() + np.int64(first)))


@contextlib.contextmanager
def _checkpointed(uri: str) -> Iterator[None]:
    """Ray Data writes each row once, across calls. The setting is the process's, so it is put back."""
    context = DataContext.get_current()
    # Without deleting: a finished range that was not committed would be appended to itself.
    settings = CheckpointConfig(
        id_column="id",
        checkpoint_path=uri,
        override_filesystem=fs.resolve_without_markers(uri)[0],
        delete_checkpoint_on_success=False,
    )
    settings.checkpoint_actor_pool_max_size = 1
    context.checkpoint_config = settings
    try:
        yield
    finally:
        context.checkpoint_config = None
