"""The seconds that tasks and actors tell of change nothing in what they make."""

from collections.abc import Iterator
from unittest.mock import Mock

import pyarrow as pa
import pytest

from cluster.batch import counted
from cluster.text import Timed, tally

ROWS = pa.table({"text": ["a man", "", "two men"], "split": ["train", "train", "test"]})


def told(counter: Mock) -> list[set[str]]:
    return [set(call.kwargs) for call in counter.add.remote.call_args_list]


def test_a_timed_function_gives_what_the_function_gives() -> None:
    counter = Mock()
    (made,) = Timed(tally, counter)(ROWS)
    assert made.equals(tally(ROWS))
    assert told(counter) == [{"busy_s"}]


def test_a_timed_reader_gives_one_table_after_the_other() -> None:
    def halves(table: pa.Table) -> Iterator[pa.Table]:
        yield table.slice(0, 2)
        yield table.slice(2)

    counter = Mock()
    reading = Timed(halves, counter)(ROWS)
    assert next(reading).num_rows == 2
    assert len(told(counter)) == 1
    assert next(reading)["text"].to_pylist() == ["two men"]
    assert list(reading) == []
    assert told(counter) == [{"busy_s"}, {"busy_s"}]


def test_rows_count_once_they_are_done() -> None:
    counter = Mock()
    with pytest.raises(ValueError, match="torn"), counted(counter, 3):
        raise ValueError("torn")
    assert told(counter) == []
    with counted(counter, 3):
        assert told(counter) == []
    assert told(counter) == [{"busy_s", "done"}]
    assert counter.add.remote.call_args.kwargs["done"] == 3
