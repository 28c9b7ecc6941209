"""The same code on object storage: a fake S3 server over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from davam.data import fs, source
from davam.data.artifacts import Store, fingerprint, localize


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "DAVAM_CACHE": str(tmp_path / "cache"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="corpora")
    yield "s3://corpora"
    server.stop()


def test_files_sources_and_artifacts(bucket: str) -> None:
    fs.write_bytes_atomic(f"{bucket}/in/a.txt", b"one two\nthree\n")
    fs.write_bytes_atomic(f"{bucket}/in/b.txt", b"four\n")
    assert fs.list_files(f"{bucket}/in") == [("a.txt", 14), ("b.txt", 5)]
    chunks = source.plan_chunks({"train": f"{bucket}/in"}, "auto", "text", chunk_bytes=4)
    rows = [row["text"] for chunk in chunks for batch in source.read_chunk(chunk, "text") for row in batch.to_pylist()]
    assert rows == ["one two", "three", "four"]

    store = Store(f"{bucket}/store")
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
    keys = [entry["Key"] for entry in boto3.client("s3").list_objects_v2(Bucket="corpora")["Contents"]]
    assert not [key for key in keys if key.endswith("/")], "no directory markers"
