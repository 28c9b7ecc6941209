"""A real cluster on this machine."""

from collections.abc import Iterator

import pytest
import ray

from cluster.session import connect
from davam.execution import Execution


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    connect(Execution())
    yield
    ray.shutdown()
