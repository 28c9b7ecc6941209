"""Sizes of requests to a cluster."""

import pytest

from cluster.session import actor_cpus
from davam.recipe import Execution


@pytest.mark.parametrize(
    ("workers", "cpus_per_worker", "cluster_cpus", "share"),
    [(2, 1, 3, 1), (2, 1, 2, 0.5), (1, 1, 1, 0), (2, 4, 9, 4), (2, 4, 8, 3.5), (2, 1, 64, 1)],
)
def test_actors_leave_a_cpu_for_reading_and_writing(
    workers: int, cpus_per_worker: int, cluster_cpus: float, share: float
) -> None:
    execution = Execution(workers=workers, cpus_per_worker=cpus_per_worker)
    assert actor_cpus(execution, {"CPU": cluster_cpus}) == share
