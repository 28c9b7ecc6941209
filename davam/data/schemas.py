"""Arrow schemas of the tables that stages hand to each other, and the check every reader makes.

One row is one sentence. `id` is stable and unique within a table. Tokens are words followed by `</s>`, without
`<s>`, so that `length` is the number of predicted tokens. Log-probabilities are negated and in nats per sentence.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from davam.errors import ArtifactError

SCHEMA_KEY = "davam.schema"

_INT32_LIST = pa.list_(pa.int32())

_COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "tokens/1": {
        "id": pa.int64(),
        "tokens": _INT32_LIST,
        "length": pa.int32(),
        "text": pa.string(),
    },
    "codes/1": {
        "id": pa.int64(),
        "codes": _INT32_LIST,
        "length": pa.int32(),
    },
    "samples/1": {
        "id": pa.int64(),
        "seed": pa.int64(),
        "codes": _INT32_LIST,
        "tokens": _INT32_LIST,
        "text": pa.string(),
        "prior_nats": pa.float64(),
        "decode_nats": pa.float64(),
        "truncated": pa.bool_(),
    },
    "scores/1": {
        "id": pa.int64(),
        "num_tokens": pa.int32(),
        "num_codes": pa.int32(),
        "rec_nats": pa.float64(),
        "kl_nats": pa.float64(),
        "text": pa.string(),
        "reconstruction": pa.string(),
        "tokens_matched": pa.int32(),
    },
}

SCHEMAS: dict[str, pa.Schema] = {
    name: pa.schema(
        [pa.field(column, dtype, nullable=False) for column, dtype in columns.items()],
        metadata={SCHEMA_KEY: name},
    )
    for name, columns in _COLUMNS.items()
}


def check(table_or_schema: pa.Table | pa.Schema, name: str, columns: Sequence[str] | None = None) -> None:
    """Nothing when the columns are those of the schema `name`, or those of them listed in `columns`.

    Column order, metadata and the nullable flag are not compared, since Parquet writers drop them; nulls in a table
    are looked for instead. Raises ArtifactError that names every missing, extra, mistyped or null-holding column.
    """
    expected = {column: SCHEMAS[name].field(column).type for column in columns or SCHEMAS[name].names}
    is_table = isinstance(table_or_schema, pa.Table)
    schema = table_or_schema.schema if is_table else table_or_schema
    faults = _schema_faults(schema, expected)
    if is_table and not faults:
        faults = _null_faults(table_or_schema)
    if faults:
        raise ArtifactError(f"not a {name} table: {'; '.join(faults)}")


def empty(name: str) -> pa.Table:
    """A table of the schema `name` with no rows."""
    return SCHEMAS[name].empty_table()


def _schema_faults(schema: pa.Schema, expected: dict[str, pa.DataType]) -> list[str]:
    names = schema.names
    faults = [f"column '{column}' is missing" for column in expected if column not in names]
    faults += [f"column '{column}' is extra" for column in names if column not in expected]
    faults += [f"column '{column}' appears {names.count(column)} times" for column in expected
               if names.count(column) > 1]
    faults += [
        f"column '{field.name}' is {field.type} instead of {expected[field.name]}"
        for field in schema
        if field.name in expected and not _same_type(field.type, expected[field.name])
    ]
    return faults


def _same_type(actual: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_list(actual) and pa.types.is_list(expected):
        # The type equality of Arrow also compares the items' nullable flag.
        return bool(actual.value_type == expected.value_type)
    return bool(actual == expected)


def _null_faults(table: pa.Table) -> list[str]:
    faults = []
    for column, values in zip(table.column_names, table.columns, strict=True):
        null_count = values.null_count
        if pa.types.is_list(values.type):
            null_count += pc.list_flatten(values).null_count
        if null_count:
            faults.append(f"column '{column}' holds {null_count} null{'s' if null_count > 1 else ''}")
    return faults
