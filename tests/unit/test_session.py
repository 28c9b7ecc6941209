"""Sizes of requests to a cluster."""

import pytest
import ray

from cluster.session import actor_cpus, connect
from davam.errors import ClusterFaultError
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


def test_a_ray_that_does_not_start_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def overloaded(**settings: object) -> None:
        raise Exception("The current node timed out during startup.\nIn detail: ...")

    monkeypatch.setattr(ray, "init", overloaded)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(
        ClusterFaultError, match=r"Ray did not start on this machine \(The current node timed out during"
    ) as at:
        connect(Execution())
    assert "\n" not in str(at.value)
