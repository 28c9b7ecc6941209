"""A cluster of several nodes on one machine, that finds out soon when one of them is gone."""

from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Its head, with one CPU."""
    beats = {
        "health_check_initial_delay_ms": 500,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 3,
    }
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": beats})
    yield made
    made.shutdown()
