"""How many workers are asked for: a number, or the fewest and the most."""

import pytest

from cluster.train import _worker_numbers
from davam import config
from davam.errors import ConfigError
from davam.execution import BLOCK_ROWS, Execution
from pipelines.stage import arguments_of, execution_of, parser


@pytest.mark.parametrize(
    ("given", "least", "most", "numbers"), [("3", None, 3, 3), ("2:8", 2, 8, (2, 8)), ("4:4", 4, 4, (4, 4))]
)
def test_a_number_or_a_range(given: str, least: int | None, most: int, numbers: object) -> None:
    execution = execution_of(parser("full").parse_args(["--workers", given]))
    assert (execution.least_workers, execution.workers) == (least, most)
    assert _worker_numbers(execution) == numbers
    arguments = list(arguments_of("tiny", execution, []))
    assert execution_of(parser("full").parse_args(arguments)) == execution
    assert execution.at_least.workers == (least or most)


def test_what_is_no_range_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser("full").parse_args(["--workers", "2:many"])
    assert "argument --workers: 2:many: give a number, or MIN:MAX" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--workers 8:2: give the fewest first"):
        config.validate(Execution, {"least_workers": 8, "workers": 2})


@pytest.mark.parametrize(
    ("rows", "passes", "workers"),
    [(0, 1, 1), (BLOCK_ROWS, 1, 1), (BLOCK_ROWS + 1, 1, 2), (BLOCK_ROWS, 3, 3), (100 * BLOCK_ROWS, 1, 8)],
)
def test_little_work_gets_few_workers(rows: int, passes: int, workers: int) -> None:
    """And where machines come and go, the fewest are no more than the most."""
    fixed, elastic = Execution(workers=8), Execution(workers=8, least_workers=2)
    assert fixed.for_rows(rows, passes) == fixed.model_copy(update={"workers": workers})
    found = elastic.for_rows(rows, passes)
    assert (found.least_workers, found.workers) == (min(2, workers), workers)
