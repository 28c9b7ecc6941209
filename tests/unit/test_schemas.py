import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from davam.data import schemas
from davam.errors import ArtifactError

DRAWN = ["id", "text", "label", "codes", "tokens", "prior_nats", "decode_nats", "copied_tokens", "flags"]
ORIGIN = ["seed", "model_sha256", "spec_sha256", "is_synthetic"]
COLUMNS = {
    "tokens/1": ["id", "tokens", "length", "text"],
    "codes/1": ["id", "codes", "length"],
    "labels/1": ["id", "label"],
    "samples/2": ["id", "seed", "codes", "latents", "tokens", "text", "prior_nats", "decode_nats", "truncated"],
    "scores/2": [
        "id",
        "num_tokens",
        "num_latents",
        "rec_nats",
        "kl_nats",
        "length_nats",
        "iw_nats",
        "posterior_mean",
        "posterior_logvar",
        "text",
        "reconstruction",
        "tokens_matched",
    ],
    "frozen/1": ["id", "text", "label"],
    "draws/1": ["setting", "id", "text"],
    "judged/2": ["setting", "id", "text", "nats", "tokens", "unknown"],
    "candidates/2": [
        *DRAWN,
        "text_hash",
        "band_hashes",
    ],
    "generated/2": [
        *DRAWN,
        *ORIGIN,
    ],
    "varied/1": ["id", "variation", "given", "label", "text", *ORIGIN],
    "augment_cells/2": [
        "protocol",
        "source",
        "size",
        "ratio",
        "seed",
        "ppl_exact",
        "accuracy",
        "tokens_real",
        "tokens_added",
        "rows_added",
        "rows_judged",
        "steps",
        "epochs",
        "wall_s",
    ],
    "sweep/1": [
        "trial",
        "presets",
        "settings",
        "state",
        "reason",
        "metric",
        "value",
        "measures",
        "fingerprints",
        "epochs",
        "train_s",
    ],
}


def codes_table(**columns: pa.Array) -> pa.Table:
    content = {
        "id": pa.array([0, 1], pa.int64()),
        "codes": pa.array([[3, 1], []], pa.list_(pa.int32())),
        "length": pa.array([2, 0], pa.int32()),
    }
    return pa.table(content | columns)


def test_the_columns_are_the_published_contract() -> None:
    assert {name: schema.names for name, schema in schemas.SCHEMAS.items()} == COLUMNS


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_every_schema_carries_its_name_and_forbids_nulls(name: str) -> None:
    schema = schemas.SCHEMAS[name]
    assert schema.metadata == {b"davam.schema": name.encode()}
    assert not any(field.nullable for field in schema)


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_every_schema_survives_parquet(name: str) -> None:
    buffer = io.BytesIO()
    pq.write_table(schemas.SCHEMAS[name].empty_table(), buffer)
    schemas.check(pq.read_schema(buffer), name, "part.parquet")


def test_order_metadata_and_nullable_flags_do_not_matter() -> None:
    schema = codes_table().select(["length", "codes", "id"]).schema
    assert schema.metadata is None
    assert schema.field("id").nullable
    schemas.check(schema, "codes/1", "part.parquet")


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.field("element", pa.int32(), nullable=False)), pa.large_list(pa.int32())],
)
def test_lists_of_the_same_items_are_the_same_type(kind: pa.DataType) -> None:
    schemas.check(codes_table(codes=pa.array([[3, 1], []], kind)).schema, "codes/1", "part.parquet")


def test_a_missing_column_is_named_with_its_file_and_those_there() -> None:
    with pytest.raises(ArtifactError) as caught:
        schemas.check(codes_table().drop_columns("length").schema, "codes/1", "s3://b/part.parquet")
    assert str(caught.value) == (
        "s3://b/part.parquet: column 'length' of codes/1 is missing; it holds id, codes; build the stage again with "
        "--force"
    )


@pytest.mark.parametrize(
    ("column", "values", "found", "wanted"),
    [
        ("codes", pa.array([[3], [1]], pa.list_(pa.int64())), "list<item: int64>", "list<item: int32>"),
        ("codes", pa.array([3, 1], pa.int32()), "int32", "list<item: int32>"),
        ("length", pa.array([2, 0], pa.int64()), "int64", "int32"),
        ("id", pa.array(["0", "1"]), "string", "int64"),
    ],
)
def test_a_mistyped_column_is_named_with_both_types(column: str, values: pa.Array, found: str, wanted: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        schemas.check(codes_table(**{column: values}).schema, "codes/1", "part.parquet")
    assert str(caught.value) == (
        f"part.parquet: column '{column}' is {found}, but codes/1 has {wanted}; build the stage again with --force"
    )
