"""The same code on object storage, a fake S3 server over HTTP; and what differs there: no folders, names that are
URIs, and buckets that are not there."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from davam.data import fs, source
from davam.data.artifacts import Store, fingerprint, localize
from davam.data.lease import held, leases
from davam.errors import ArtifactError, DataError
from tests.s3 import environment, fake_server

BUCKET = "corpora"
ROOT = f"s3://{BUCKET}"
TEXT = source.Columns("text")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with fake_server() as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    settings = environment(server) | {"DAVAM_CACHE": str(tmp_path / "cache")}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    yield
    emptied = boto3.resource("s3").Bucket(BUCKET)
    emptied.objects.all().delete()
    emptied.delete()


def keys() -> list[str]:
    """The keys of all objects, markers included."""
    return [entry["Key"] for entry in boto3.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def test_an_uploaded_folder_is_its_files_alone(tmp_path: Path) -> None:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "c.json").write_text("{}")
    (tmp_path / "model" / "sub" / "w.bin").write_bytes(b"123")
    fs.upload_folder(str(tmp_path / "model"), f"{ROOT}/x/y")
    assert keys() == ["x/y/c.json", "x/y/sub/w.bin"]
    assert fs.read_bytes(f"{ROOT}/x/y/sub/w.bin") == b"123"
    fs.delete_folder(f"{ROOT}/x/y")
    assert keys() == []


def test_a_store_is_probed_without_markers() -> None:
    Store(f"{ROOT}/deep/store").probe_writable()
    assert keys() == []


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("in", ["a b.txt", "c.txt", "sub/d.txt"]),
        ("in/*.txt", ["a b.txt", "c.txt"]),
        ("in/?.txt", ["c.txt"]),
        ("in/[c].txt", ["c.txt"]),
        ("in/**/*.txt", ["a b.txt", "c.txt", "sub/d.txt"]),
        ("in/a b.txt", ["a b.txt"]),
    ],
)
def test_sources_by_any_pattern(pattern: str, names: list[str]) -> None:
    for name in ("a b.txt", "c.txt", "sub/d.txt", "_skip.txt"):
        fs.write_bytes_atomic(f"{ROOT}/in/{name}", f"{name}\n".encode())
    chunks = source.plan_chunks({"train": f"{ROOT}/{pattern}"}, "auto", TEXT)
    assert [chunk.uri for chunk in chunks] == [f"{ROOT}/in/{name}" for name in names if name != "_skip.txt"]
    rows = [row["text"] for chunk in chunks for batch in source.read_chunk(chunk, TEXT) for row in batch.to_pylist()]
    assert rows == names


def test_a_bucket_that_is_not_there() -> None:
    with pytest.raises(
        ArtifactError, match=r"^cannot write s3://no-such-bucket/store/\.probe-\w+: .*choose another --store"
    ):
        Store("s3://no-such-bucket/store").probe_writable()
    assert Store("s3://no-such-bucket/store").find("codes", "0" * 64) is None
    with pytest.raises(DataError, match=r"^s3://no-such-bucket/x: no such file, folder or glob; check data\.root"):
        source.expand("s3://no-such-bucket/x")


def test_files_sources_and_artifacts() -> None:
    fs.write_bytes_atomic(f"{ROOT}/in/a.txt", b"one two\nthree\n")
    fs.write_bytes_atomic(f"{ROOT}/in/b.txt", b"four\n")
    assert fs.list_files(f"{ROOT}/in") == [("a.txt", 14), ("b.txt", 5)]
    chunks = source.plan_chunks({"train": f"{ROOT}/in"}, "auto", TEXT, chunk_bytes=4)
    rows = [row["text"] for chunk in chunks for batch in source.read_chunk(chunk, TEXT) for row in batch.to_pylist()]
    assert rows == ["one two", "three", "four"]

    store = Store(f"{ROOT}/store")
    store.probe_writable()
    identity = fingerprint("codes", 1, {}, {})
    attempt = store.new_attempt("codes", identity)
    table = pa.table(
        {
            "id": pa.array([1], pa.int64()),
            "codes": pa.array([[3]], pa.list_(pa.int32())),
            "length": pa.array([1], pa.int32()),
        }
    )
    filesystem, path = fs.resolve(fs.join(attempt.uri, "split=test/part.parquet"))
    pq.write_table(table, path, filesystem=filesystem)
    assert store.find("codes", identity) is None
    store.commit(attempt, version=1, recipe={}, inputs={}, counts={}, metrics={}, provenance={})
    manifest = store.find("codes", identity)
    assert manifest is not None
    assert store.read_table(manifest, "codes/1", split="test")["codes"].to_pylist() == [[3]]
    folder = localize(store.artifact_uri("codes", identity))
    assert pq.read_table(folder / "split=test" / "part.parquet", partitioning=None).num_rows == 1
    assert not [key for key in keys() if key.endswith("/")], "no directory markers"


def test_of_many_at_once_one_creates_the_object() -> None:
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda number: fs.create_bytes(f"{ROOT}/one", b"%d" % number), range(16)))
    assert created.count(True) == 1
    assert fs.read_bytes(f"{ROOT}/one") == b"%d" % created.index(True)
    assert keys() == ["one"]


def test_a_lease_is_held_and_released() -> None:
    with held(ROOT, "work", "", lambda holder: None):
        assert [lease.name for lease in leases(ROOT)] == ["work"]
    assert leases(ROOT) == []
    with held(ROOT, "work", "", lambda holder: None):
        assert keys() == ["leases/work/000000002.json"]
