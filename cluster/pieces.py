"""Ray tasks of one CPU, each of which builds and commits one small artifact: what is done stays done, whatever happens
to the rest."""

from collections.abc import Sequence

import ray
import torch

from cluster.batch import loss_error, users_error
from cluster.progress import progress
from cluster.session import task_cpus
from davam.data.artifacts import Store
from davam.data.pieces import Piece


@ray.remote(num_cpus=1)
def _built(store_uri: str, piece: Piece) -> None:
    torch.set_num_threads(1)
    piece.build(Store(store_uri))


def build_all(store: Store, pieces: Sequence[Piece], what: str, unit: str) -> None:
    """Builds the pieces, as many at a time as there are CPUs, in their order.

    Raises the user's error when one of the tasks did, and ClusterFaultError when a task is lost for good.
    """
    waiting = list(pieces)
    running: list[ray.ObjectRef] = []
    at_once = task_cpus()
    with progress(what, len(pieces), unit) as counter:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(_built.remote(store.uri, waiting.pop(0)))
            done, running = ray.wait(running)
            try:
                ray.get(done)
            except Exception as error:
                raise users_error(error) or loss_error(error) or error from None
            counter.add.remote(done=len(done))
