import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from davam.data import schemas
from davam.errors import ArtifactError


def codes_table(**columns: pa.Array) -> pa.Table:
    content = {
        "id": pa.array([0, 1], pa.int64()),
        "codes": pa.array([[3, 1], []], pa.list_(pa.int32())),
        "length": pa.array([2, 0], pa.int32()),
    }
    return pa.table(content | columns)


@pytest.mark.parametrize("name", sorted(schemas.SCHEMAS))
def test_every_schema_is_named_non_null_and_accepts_its_own_empty_table(name: str) -> None:
    table = schemas.empty(name)
    schemas.check(table, name)
    assert table.num_rows == 0
    assert table.schema.metadata == {b"davam.schema": name.encode()}
    assert not any(field.nullable for field in table.schema)


def test_the_columns_are_the_published_contract() -> None:
    assert schemas.SCHEMAS["tokens/1"].names == ["id", "tokens", "length", "text"]
    assert schemas.SCHEMAS["codes/1"].names == ["id", "codes", "length"]
    assert schemas.SCHEMAS["samples/1"].names == [
        "id", "seed", "codes", "tokens", "text", "prior_nats", "decode_nats", "truncated",
    ]  # fmt: skip
    assert schemas.SCHEMAS["scores/1"].names == [
        "id", "num_tokens", "num_codes", "rec_nats", "kl_nats", "text", "reconstruction", "tokens_matched",
    ]  # fmt: skip


def test_order_metadata_and_nullable_flags_do_not_matter() -> None:
    table = codes_table().select(["length", "codes", "id"])
    assert table.schema.metadata is None
    assert table.schema.field("id").nullable
    schemas.check(table, "codes/1")
    schemas.check(table.schema, "codes/1")


def test_a_list_with_non_null_items_of_another_name_is_the_same_type() -> None:
    item = pa.field("element", pa.int32(), nullable=False)
    schemas.check(codes_table(codes=pa.array([[3, 1], []], pa.list_(item))), "codes/1")


def test_a_parquet_round_trip_still_passes() -> None:
    buffer = io.BytesIO()
    pq.write_table(codes_table(), buffer)
    schemas.check(pq.read_table(buffer), "codes/1")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (codes_table().drop_columns("length"), "not a codes/1 table: column 'length' is missing"),
        (codes_table(split=pa.array(["a", "b"])), "not a codes/1 table: column 'split' is extra"),
        (
            codes_table(codes=pa.array([[3], [1]], pa.list_(pa.int64()))),
            "not a codes/1 table: column 'codes' is list<item: int64> instead of list<item: int32>",
        ),
        (
            codes_table().rename_columns({"id": "row"}),
            "not a codes/1 table: column 'id' is missing; column 'row' is extra",
        ),
        (
            pa.Table.from_arrays([*codes_table().columns, codes_table()["id"]], ["id", "codes", "length", "id"]),
            "not a codes/1 table: column 'id' appears 2 times",
        ),
        (
            codes_table(length=pa.array([2, None], pa.int32())),
            "not a codes/1 table: column 'length' holds 1 null",
        ),
        (
            codes_table(codes=pa.array([[3, None], None], pa.list_(pa.int32()))),
            "not a codes/1 table: column 'codes' holds 2 nulls",
        ),
    ],
)
def test_each_fault_names_its_column(table: pa.Table, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        schemas.check(table, "codes/1")
    assert str(caught.value) == message


def test_a_subset_is_checked_against_that_subset() -> None:
    subset = codes_table().select(["id", "length"])
    schemas.check(subset, "codes/1", columns=["length", "id"])
    with pytest.raises(ArtifactError, match="column 'codes' is missing"):
        schemas.check(subset, "codes/1", columns=["id", "codes", "length"])
