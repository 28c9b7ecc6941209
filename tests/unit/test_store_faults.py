import gzip
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from davam.data import fs
from davam.data.artifacts import Store, explain_change, localize
from davam.errors import ArtifactError
from tests.unit.test_artifacts import (
    IDENTITY,
    INPUTS,
    RECIPE,
    built,
    codes,
    commit,
    manifest_uri,
    parquet_bytes,
    rewrite,
    write_codes,
)


@pytest.fixture
def disk(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("DAVAM_CACHE", str(tmp_path / "cache"))
    yield Store("memory://davam-damage/store")
    fs.delete_folder("memory://davam-damage")


@pytest.fixture(params=["disk", "remote"])
def store(request: pytest.FixtureRequest) -> Store:
    found: Store = request.getfixturevalue(request.param)
    return found


def test_a_manifest_of_another_artifact_is_refused(disk: Store) -> None:
    built(disk, [0])
    other = "f" * 64
    fs.write_bytes_atomic(
        fs.join(disk.artifact_uri("codes", other), "manifest.json"), fs.read_bytes(manifest_uri(disk))
    )
    with pytest.raises(
        ArtifactError, match=f"belongs to codes {IDENTITY[:12]}, not to codes ffffffffffff; .*--force codes"
    ):
        disk.find("codes", other)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"counts": None}, "counts: Input should be"),
        ({"extra": 1}, "extra: Unexpected"),
        ({"files": [{"path": 3}]}, "files.0.path: Input should be"),
    ],
)
def test_a_manifest_of_wrong_types_is_refused(disk: Store, change: dict[str, Any], reason: str) -> None:
    built(disk, [0])
    rewrite(disk, **change)
    with pytest.raises(ArtifactError, match=rf"is torn or not a manifest \({reason}"):
        disk.find("codes", IDENTITY)


def test_a_manifest_cannot_list_another_attempts_files(disk: Store) -> None:
    built(disk, [0])
    rewrite(disk, attempt="20000101T000000-abcdef")
    with pytest.raises(ArtifactError, match="which is outside its artifact; do not use it"):
        disk.find("codes", IDENTITY)


def test_measures_that_are_not_finite_survive(disk: Store) -> None:
    attempt = disk.new_attempt("codes", IDENTITY)
    write_codes(attempt, "part-0.parquet", [0])
    commit(disk, attempt, metrics={"a": float("nan"), "b": float("inf"), "c": 1})
    found = disk.find("codes", IDENTITY)
    assert found is not None
    assert repr(found.metrics) == "{'a': nan, 'b': inf, 'c': 1.0}"


def test_an_attempt_without_files_is_not_committed(store: Store) -> None:
    attempt = store.new_attempt("codes", IDENTITY)
    with pytest.raises(ArtifactError) as caught:
        commit(store, attempt)
    assert str(caught.value) == f"{attempt.uri}: codes wrote no files, so there is nothing to commit"
    assert store.find("codes", IDENTITY) is None


def test_a_truncated_file_is_not_committed(store: Store) -> None:
    attempt = store.new_attempt("codes", IDENTITY)
    uri = write_codes(attempt, "part-0.parquet", [0])
    fs.write_bytes_atomic(uri, fs.read_bytes(uri)[:-9])
    with pytest.raises(ArtifactError) as caught:
        commit(store, attempt)
    assert str(caught.value).startswith(f"{uri} cannot be read (Parquet magic bytes not found")
    assert store.find("codes", IDENTITY) is None


def test_a_null_is_refused_with_its_file_and_column(disk: Store) -> None:
    attempt = disk.new_attempt("codes", IDENTITY)
    uri = fs.join(attempt.uri, "part-0.parquet")
    length = pa.array([None], pa.int32())
    fs.write_bytes_atomic(uri, parquet_bytes(codes([0]).set_column(2, "length", length)))
    manifest = commit(disk, attempt)
    with pytest.raises(ArtifactError) as caught:
        disk.read_table(manifest, "codes/1")
    assert str(caught.value).startswith(f"{uri} cannot be read (Casting field 'length' with null values")


def test_compressed_files_are_hashed_and_copied_as_they_are(store: Store) -> None:
    attempt = store.new_attempt("codes", IDENTITY)
    content = gzip.compress(b"hello")
    fs.write_bytes_atomic(fs.join(attempt.uri, "notes.gz"), content)
    manifest = commit(store, attempt)
    assert manifest.files[0].sha256 == hashlib.sha256(content).hexdigest()
    assert (localize(store.artifact_uri("codes", IDENTITY)) / "notes.gz").read_bytes() == content


def test_probes_at_once_do_not_trip_each_other(disk: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: disk.probe_writable(), range(200)))
    assert fs.list_files(disk.uri) == []


def test_an_empty_remote_folder_is_refused(remote: Store) -> None:
    built(remote, [0])
    with pytest.raises(ArtifactError) as caught:
        localize("memory://davam-damage/nothing")
    assert (
        str(caught.value) == "memory://davam-damage/nothing: no files here; give a model folder, an artifact or a run"
    )


def test_a_new_stage_version_is_said(disk: Store) -> None:
    assert explain_change(built(disk, [0]), RECIPE, INPUTS) == "stage version changed from 1"
