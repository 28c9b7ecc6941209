"""Where the reports of a real cluster's own processes go."""

import time

import pytest
from ray._private.utils import publish_error_to_driver
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from cluster.session import address
from davam.log import result
from pipelines.stage import guarded

REPORT = "8 PYTHON worker processes have been started"


def test_reports_of_the_raylet_are_not_among_the_results(connected: None, capsys: pytest.CaptureFixture[str]) -> None:
    given, told = "", ""

    def act() -> None:
        nonlocal given, told
        result("rows 3")
        publish_error_to_driver("worker_pool", REPORT, GcsClient(address=address()))
        deadline = time.monotonic() + 60
        while REPORT not in given + told and time.monotonic() < deadline:
            time.sleep(0.1)
            captured = capsys.readouterr()
            given, told = given + captured.out, told + captured.err

    assert guarded(act) == 0
    assert given == "rows 3\n"
    assert REPORT in told
