"""Ray Data: committed rows, read, mapped by a fixed pool of actors, and written.

Without torch: what reads and writes runs in processes of its own, and each would take seconds to import it.
"""

import contextlib
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray import exceptions
from ray.data import ActorPoolStrategy, Dataset

from cluster.session import actor_cpus, most_resources
from davam import errors
from davam.data import fs
from davam.errors import ClusterFaultError, DavamError
from davam.execution import BLOCK_ROWS, Execution

LOST = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.LocalRayletDiedError,
    exceptions.OutOfMemoryError,
)


@contextlib.contextmanager
def counted(counter: Any, rows: int) -> Iterator[None]:
    """Tells the counter of so many rows, and of the seconds that they took, once they are done."""
    began = time.monotonic()
    yield
    counter.add.remote(busy_s=time.monotonic() - began, done=rows)


def labels_of(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The column of labels, where the rows have one."""
    return {"label": table["label"]} if "label" in table.column_names else {}


def read_parts(batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
    """The rows of listed part files, with their split."""
    for uri, split in zip(batch["uri"], batch["split"], strict=True):
        filesystem, path = fs.resolve(str(uri))
        table = pq.read_table(path, filesystem=filesystem, partitioning=None)
        yield table.append_column("split", pa.array([str(split)] * table.num_rows))


def block_rows(total: int, execution: Execution) -> int:
    """Rows per block, so that every worker gets some."""
    return max(1, min(BLOCK_ROWS, -(-total // execution.workers)))


def committed_rows(parts: list[tuple[str, str]], rows_per_block: int) -> Dataset:
    """The rows of (file URI, split) pairs: only what a manifest lists is ever read."""
    items = [{"uri": uri, "split": split} for uri, split in parts]
    rows = ray.data.from_items(items, override_num_blocks=len(items))
    return rows.map_batches(read_parts, batch_size=1, batch_format="numpy").repartition(
        target_num_rows_per_block=rows_per_block
    )


def map_model(
    rows: Dataset,
    actor: type,
    arguments: dict[str, Any],
    execution: Execution,
    batch_rows: int,
    spare_cpus: int = 1,
) -> Dataset:
    """The rows mapped by a pool of actors, one per worker, that leave so many CPUs of the cluster to others."""
    cpus = actor_cpus(execution, most_resources(), spare_cpus)
    resources: dict[str, Any] = {"num_gpus": 1} if execution.gpu else {"num_cpus": cpus}
    return rows.map_batches(
        actor,
        fn_constructor_kwargs={**arguments, "gpu": execution.gpu},
        batch_size=batch_rows,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=execution.at_least.workers, max_size=execution.workers),
        **resources,
    )


def write(rows: Dataset, uri: str, by_split: bool) -> None:
    """Writes the rows as Parquet under the URI. Raises the user's error when one of the tasks did, and
    ClusterFaultError when the cluster lost what the work cannot do without."""
    filesystem, path = fs.resolve(uri)
    partition: dict[str, Any] = {"partition_cols": ["split"]} if by_split else {}
    try:
        # Object stores must not get directory markers.
        rows.write_parquet(
            path, filesystem=filesystem, try_create_dir=fs.is_local(uri), compression="zstd", **partition
        )
    except Exception as error:
        raise users_error(error) or loss_error(error) or error from None


def tables(rows: Dataset) -> Iterator[pa.Table]:
    """The rows, a block at a time. Raises as `write` does."""
    try:
        yield from rows.iter_batches(batch_size=None, batch_format="pyarrow")
    except Exception as error:
        raise users_error(error) or loss_error(error) or error from None


def users_error(error: BaseException) -> DavamError | None:
    """The DavamError behind an error of Ray's, if one of the user's tasks raised it."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, DavamError):
            return _plain_copy(current)
        current = getattr(current, "cause", None) or current.__cause__ or current.__context__
    # On its way out of an actor an error keeps its text alone.
    told = re.search(r"^davam\.errors\.(\w+): (.+)$", str(error), re.MULTILINE)
    return None if told is None else getattr(errors, told[1], DavamError)(told[2])


def loss_error(error: Exception) -> ClusterFaultError | None:
    """The error for a process or a machine that was lost, if that is what the error says."""
    if not isinstance(error, LOST):
        return None
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ClusterFaultError(
        f"the cluster lost a part of the work ({reason}); the same command goes on with what is missing"
    )


def _plain_copy(error: DavamError) -> DavamError:
    """Ray's errors are also instances of the class they carry, but add its advice and a traceback: keep the first
    line, which is the message."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == "davam.errors")
    message = str(error.args[0] if error.args else error)
    return kind(message.splitlines()[0])
