"""A generated corpus as lines of JSON or CSV."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from davam.generation.corpus import read_corpus

ROWS_TOGETHER = 4096
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def json_lines(uri: str) -> Iterator[str]:
    """One JSON object a row."""
    for table in read_corpus(uri):
        for row in _rows(table):
            yield json.dumps(row, ensure_ascii=False) + "\n"


def csv_lines(uri: str) -> Iterator[str]:
    """A header, and a record a row; lists are JSON. Text that a spreadsheet would take for a formula begins with an
    apostrophe."""
    names: list[str] = []
    for table in read_corpus(uri):
        if not names:
            names = table.schema.names
            yield _record(names)
        for row in _rows(table):
            yield _record([_cell(row[name]) for name in names])


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows as Python objects, which take many times the table's memory, a few at a time."""
    for batch in table.to_batches(ROWS_TOGETHER):
        yield from batch.to_pylist()


def _cell(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(FORMULA_STARTS) else text


def _record(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
