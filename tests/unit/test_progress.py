"""The progress line."""

from typing import Any
from unittest.mock import Mock

import pytest
import ray

from cluster.progress import _print_until, render


@pytest.mark.parametrize(
    ("values", "rate_per_s", "line"),
    [
        ({"done": 10.0, "show:epoch": 0.5}, 0.0, "stage_one   10/1,000 steps  epoch 0.5"),
        (
            {"done": 200.0, "show:rec_nats": 41.66123},
            4.0,
            "stage_one   200/1,000 steps  4.0 steps/s  0:03:20 left  rec_nats 41.66",
        ),
        ({"done": 1000.0}, 5.0, "stage_one   1,000/1,000 steps  5.0 steps/s"),
        ({"done": 10.0}, 0.0123, "stage_one   10/1,000 steps  0.012 steps/s  22:21:28 left"),
        ({}, 0.0, "stage_one   0/1,000 steps"),
    ],
)
def test_the_line_says_what_how_far_rate_and_time_left(values: dict[str, float], rate_per_s: float, line: str) -> None:
    assert render("stage_one", values, 1000, "steps", rate_per_s) == line


def test_a_late_answer_does_not_end_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: Any = Mock(side_effect=[ray.exceptions.GetTimeoutError("late"), {"done": 5.0}])
    monkeypatch.setattr("cluster.progress.ray.get", answers)
    _print_until(Mock(), "stage_one", 10, "steps", Mock(wait=Mock(side_effect=[False, False, True])))
    assert "5/10 steps" in capsys.readouterr().err
