"""The progress line."""

import pytest

from cluster.progress import render


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
        ({}, 0.0, "stage_one   0/1,000 steps"),
    ],
)
def test_the_line_says_what_how_far_rate_and_time_left(values: dict[str, float], rate_per_s: float, line: str) -> None:
    assert render("stage_one", values, 1000, "steps", rate_per_s) == line
