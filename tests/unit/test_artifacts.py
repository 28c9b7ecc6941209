import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from davam.data import artifacts, fs
from davam.data.artifacts import Attempt, Manifest, Store, explain_change, fingerprint, localize
from davam.errors import ArtifactError

RECIPE = {"model": {"codebook_size": 4}, "objective": {"beta_max": 5.0}}
INPUTS = {"tokens": "a" * 64}
IDENTITY = fingerprint("codes", 1, RECIPE, INPUTS)


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """The same store on disk and on a filesystem without folders, as object stores are."""
    if request.param == "local":
        yield Store(str(tmp_path / "store"))
        return
    yield Store("memory://davam-tests/store")
    fs.delete_folder("memory://davam-tests")


@pytest.fixture
def disk(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def codes(ids: list[int]) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "codes": pa.array([[i % 4, 0] for i in ids], pa.list_(pa.int32())),
            "length": pa.array([2] * len(ids), pa.int32()),
        }
    )


def parquet_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def write_codes(attempt: Attempt, path: str, ids: list[int]) -> str:
    uri = fs.join(attempt.uri, *path.split("/"))
    filesystem, inner = fs.resolve(uri)
    filesystem.create_dir(inner.rsplit("/", 1)[0], recursive=True)
    fs.write_bytes_atomic(uri, parquet_bytes(codes(ids)))
    return uri


def commit(store: Store, attempt: Attempt, **changes: Any) -> Manifest:
    given: dict[str, Any] = {
        "version": 1,
        "recipe": RECIPE,
        "inputs": INPUTS,
        "counts": {"rows": 3},
        "metrics": {"codes_used": 3.0},
        "provenance": {"host": "h"},
    }
    return store.commit(attempt, **(given | changes))


def built(store: Store, ids: list[int]) -> Manifest:
    attempt = store.new_attempt("codes", IDENTITY)
    write_codes(attempt, "part-0.parquet", ids)
    return commit(store, attempt)


def manifest_uri(store: Store) -> str:
    return fs.join(store.artifact_uri("codes", IDENTITY), "manifest.json")


def rewrite(store: Store, **changes: Any) -> None:
    """Edits the committed manifest, as a broken or hostile writer would."""
    values = json.loads(fs.read_bytes(manifest_uri(store)))
    fs.write_bytes_atomic(manifest_uri(store), json.dumps(values | changes).encode())


def test_what_is_committed_is_what_is_found(store: Store) -> None:
    attempt = store.new_attempt("codes", IDENTITY)
    uri = write_codes(attempt, "split=train/part-0.parquet", [0, 1])
    fs.write_bytes_atomic(fs.join(attempt.uri, "split=train", "note.txt"), b"hello")
    committed = commit(store, attempt)

    assert store.find("codes", IDENTITY) == committed
    assert store.list_stage("codes") == [committed]
    assert (committed.recipe, committed.inputs, committed.version) == (RECIPE, INPUTS, 1)
    note, table = committed.files
    assert (note.path, note.bytes, note.rows, note.split) == (f"{attempt.name}/split=train/note.txt", 5, None, "train")
    assert note.sha256 == hashlib.sha256(b"hello").hexdigest()
    content = fs.read_bytes(uri)
    assert (table.bytes, table.rows, table.split) == (len(content), 2, "train")
    assert table.sha256 == hashlib.sha256(content).hexdigest()


def test_artifacts_are_filed_by_stage_and_twelve_digits(disk: Store) -> None:
    assert disk.artifact_uri("codes", IDENTITY) == f"{disk.uri}/artifacts/codes/{IDENTITY[:12]}"


def test_nothing_is_found_where_nothing_was_built(store: Store) -> None:
    assert store.find("codes", IDENTITY) is None
    assert store.list_stage("codes") == []


def test_a_crash_before_the_manifest_leaves_nothing_visible(store: Store) -> None:
    crashed = store.new_attempt("codes", IDENTITY)
    write_codes(crashed, "part-0.parquet", [7, 8, 9])
    assert store.find("codes", IDENTITY) is None
    assert store.list_stage("codes") == []

    manifest = built(store, [0, 1])
    assert store.read_table(manifest, "codes/1")["id"].to_pylist() == [0, 1]


def test_a_failed_manifest_write_leaves_nothing_visible(disk: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(uri: str, data: bytes) -> None:
        raise ArtifactError(f"cannot write {uri}: no space left on device")

    attempt = disk.new_attempt("codes", IDENTITY)
    write_codes(attempt, "part-0.parquet", [0])
    monkeypatch.setattr(fs, "write_bytes_atomic", full)
    with pytest.raises(ArtifactError, match="no space left"):
        commit(disk, attempt)
    assert disk.find("codes", IDENTITY) is None


def test_twin_attempts_cannot_mix_rows(store: Store) -> None:
    first, second = store.new_attempt("codes", IDENTITY), store.new_attempt("codes", IDENTITY)
    assert first.uri != second.uri
    write_codes(first, "part-0.parquet", [0, 1])
    write_codes(second, "part-0.parquet", [10, 11])
    write_codes(second, "part-1.parquet", [12])
    earlier, later = commit(store, first), commit(store, second)

    assert store.find("codes", IDENTITY) == later
    assert store.read_table(later, "codes/1")["id"].to_pylist() == [10, 11, 12]
    assert store.read_table(earlier, "codes/1")["id"].to_pylist() == [0, 1]


def test_twins_that_commit_at_once_leave_one_whole_manifest(disk: Store) -> None:
    attempts = [disk.new_attempt("codes", IDENTITY) for _ in range(4)]
    for number, attempt in enumerate(attempts):
        write_codes(attempt, "part-0.parquet", [number] * (number + 1))
    threads = [threading.Thread(target=commit, args=(disk, attempt)) for attempt in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = disk.find("codes", IDENTITY)
    assert found is not None
    winner = [attempt.name for attempt in attempts].index(found.attempt)
    assert disk.read_table(found, "codes/1")["id"].to_pylist() == [winner] * (winner + 1)


def test_only_listed_files_are_read(store: Store) -> None:
    attempt = store.new_attempt("codes", IDENTITY)
    write_codes(attempt, "part-0.parquet", [0, 1])
    manifest = commit(store, attempt)
    write_codes(attempt, "part-late.parquet", [99])
    assert store.read_table(manifest, "codes/1")["id"].to_pylist() == [0, 1]


def test_splits_and_columns_are_selected_and_typed(store: Store) -> None:
    attempt = store.new_attempt("codes", IDENTITY)
    write_codes(attempt, "split=train/part-0.parquet", [0, 1])
    write_codes(attempt, "split=valid/part-0.parquet", [2])
    manifest = commit(store, attempt)

    assert store.read_table(manifest, "codes/1")["id"].to_pylist() == [0, 1, 2]
    valid = store.read_table(manifest, "codes/1", split="valid", columns=["length", "id"])
    assert valid.to_pydict() == {"length": [2], "id": [2]}
    assert not any(field.nullable for field in valid.schema)
    assert [uri.rsplit("/", 2)[1] for uri in store.file_uris(manifest, "train")] == ["split=train"]
    assert len(store.file_uris(manifest)) == 2


def test_an_attempt_counts_and_reads_its_own_rows(store: Store) -> None:
    attempt = store.new_attempt("codes", IDENTITY)
    write_codes(attempt, "part-0.parquet", [0, 1])
    write_codes(attempt, "part-1.parquet", [2])
    write_codes(store.new_attempt("codes", IDENTITY), "part-0.parquet", [3])
    assert attempt.rows() == 3
    assert attempt.read_table("codes/1")["id"].to_pylist() == [0, 1, 2]


def test_a_torn_manifest_says_so_and_hides_from_the_listing(store: Store) -> None:
    built(store, [0])
    whole = fs.read_bytes(manifest_uri(store))
    for cut in (0, 1, len(whole) // 2, len(whole) - 3):
        fs.write_bytes_atomic(manifest_uri(store), whole[:cut])
        with pytest.raises(ArtifactError) as caught:
            store.find("codes", IDENTITY)
        assert str(caught.value).startswith(f"{manifest_uri(store)} is torn or not a manifest (")
        assert "build the stage again with --force" in str(caught.value)
        assert store.list_stage("codes") == []


@pytest.mark.parametrize("content", [b"[]", b"null", b'{"files": [{}]}', b'{"files": []}', b"\xff\xfe", b'{"a": 1}'])
def test_json_of_another_layout_is_refused(content: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"^s3://b/manifest\.json is torn or not a manifest"):
        Manifest.from_json(content, "s3://b/manifest.json")


def test_an_artifact_of_a_newer_format_is_left_alone(store: Store) -> None:
    """Whatever else its manifest holds: it is neither called torn nor built again in its place."""
    built(store, [0])
    for more in ({}, {"inputs": [], "shards": 3}):
        rewrite(store, format=2, **more)
        with pytest.raises(ArtifactError) as caught:
            store.find("codes", IDENTITY)
        assert str(caught.value) == (
            f"{manifest_uri(store)} is of format 2, and this version of davam reads no newer one than 1; update davam, "
            "or give another --store"
        )
        assert store.list_stage("codes") == []


def test_a_manifest_from_before_formats_were_counted_is_read(disk: Store) -> None:
    manifest = built(disk, [0])
    values = json.loads(fs.read_bytes(manifest_uri(disk)))
    del values["format"]
    fs.write_bytes_atomic(manifest_uri(disk), json.dumps(values).encode())
    assert disk.find("codes", IDENTITY) == manifest


@pytest.mark.parametrize("path", ["/etc/passwd", "../../secrets", "x/../../y", "s3://other/part.parquet", ".."])
def test_a_manifest_cannot_lead_out_of_its_artifact(disk: Store, path: str) -> None:
    entry = {"path": path, "bytes": 1, "sha256": "0" * 64, "rows": 1, "split": None}
    built(disk, [0])
    rewrite(disk, files=[entry])
    with pytest.raises(ArtifactError) as caught:
        disk.find("codes", IDENTITY)
    assert str(caught.value) == (f"{manifest_uri(disk)} names {path!r}, which is outside its artifact; do not use it")


def test_a_lost_or_resized_file_is_named(store: Store) -> None:
    attempt = store.new_attempt("codes", IDENTITY)
    uri = write_codes(attempt, "part-0.parquet", [0, 1])
    commit(store, attempt)
    size = len(fs.read_bytes(uri))

    fs.write_bytes_atomic(uri, b"short")
    with pytest.raises(ArtifactError) as caught:
        store.find("codes", IDENTITY)
    assert str(caught.value) == f"{uri}: 5 bytes instead of {size}; build it again with --force codes"

    filesystem, path = fs.resolve(uri)
    filesystem.delete_file(path)
    with pytest.raises(ArtifactError) as caught:
        store.find("codes", IDENTITY)
    assert str(caught.value) == f"{uri}: missing; build it again with --force codes"


def test_a_truncated_part_file_is_named(store: Store) -> None:
    attempt = store.new_attempt("codes", IDENTITY)
    uri = write_codes(attempt, "part-0.parquet", [0, 1])
    manifest = commit(store, attempt)
    fs.write_bytes_atomic(uri, fs.read_bytes(uri)[:-20])
    with pytest.raises(ArtifactError) as caught:
        store.read_table(manifest, "codes/1")
    assert str(caught.value).startswith(f"{uri} cannot be read (Parquet magic bytes not found in footer")
    assert str(caught.value).endswith("; build its stage again with --force")


def test_a_table_of_another_schema_is_named(disk: Store) -> None:
    manifest = built(disk, [0])
    with pytest.raises(ArtifactError, match=r"part-0\.parquet: column 'tokens' of tokens/1 is missing"):
        disk.read_table(manifest, "tokens/1")


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a regular file")
    store = Store(str(tmp_path / "file" / "store"))
    assert store.find("codes", IDENTITY) is None
    with pytest.raises(ArtifactError) as caught:
        store.probe_writable()
    assert str(caught.value).startswith(f"cannot write {store.uri}/.probe")
    assert str(caught.value).endswith("check permissions, credentials and free space, or choose another --store")


def test_a_probe_leaves_nothing_behind(store: Store) -> None:
    store.probe_writable()
    assert fs.list_files(store.uri) == []


def test_a_local_artifact_is_used_in_place(disk: Store) -> None:
    manifest = built(disk, [0])
    artifact = disk.artifact_uri("codes", IDENTITY)
    assert localize(artifact) == Path(artifact) / manifest.attempt


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("DAVAM_CACHE", str(tmp_path / "cache"))
    yield Store("memory://davam-remote/store")
    fs.delete_folder("memory://davam-remote")


def test_a_remote_artifact_is_copied_once(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = remote.new_attempt("codes", IDENTITY)
    uri = write_codes(attempt, "weights/part-0.parquet", [0])
    commit(remote, attempt)
    artifact = remote.artifact_uri("codes", IDENTITY)

    folder = localize(artifact)
    assert (folder / "weights" / "part-0.parquet").read_bytes() == fs.read_bytes(uri)

    def refuse(*_: object) -> None:
        raise AssertionError("copied twice")

    monkeypatch.setattr(artifacts, "_download", refuse)
    assert localize(artifact) == folder


def test_of_a_remote_artifact_a_part_can_be_copied_alone(remote: Store) -> None:
    attempt = remote.new_attempt("codes", IDENTITY)
    for path in ("weights/part-0.parquet", "tokenizer/part-0.parquet"):
        write_codes(attempt, path, [0])
    commit(remote, attempt)
    folder = localize(remote.artifact_uri("codes", IDENTITY), "tokenizer")
    assert [path for path, _ in fs.list_files(str(folder))] == ["tokenizer/part-0.parquet"]


def test_a_remote_file_of_another_hash_is_refused_and_not_cached(remote: Store, tmp_path: Path) -> None:
    attempt = remote.new_attempt("codes", IDENTITY)
    uri = write_codes(attempt, "part-0.parquet", [0])
    commit(remote, attempt)
    content = fs.read_bytes(uri)
    fs.write_bytes_atomic(uri, content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError) as caught:
        localize(remote.artifact_uri("codes", IDENTITY))
    assert str(caught.value) == f"{uri} is not what its manifest lists; build it again with --force"
    assert list((tmp_path / "cache").iterdir()) == []


def test_readers_that_copy_at_once_agree_on_one_folder(
    disk: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(disk, list(range(50)))
    artifact = disk.artifact_uri("codes", IDENTITY)
    monkeypatch.setenv("DAVAM_CACHE", str(tmp_path / "cache"))
    # Files on disk stand in for remote ones, since readers of memory:// share one position in the file.
    monkeypatch.setattr(fs, "is_local", lambda uri: False)
    start = threading.Barrier(6)

    def copy(_: int) -> Path:
        start.wait()
        return localize(artifact)

    with ThreadPoolExecutor(6) as pool:
        folders = list(pool.map(copy, range(6)))
    assert len(set(folders)) == 1
    assert list((tmp_path / "cache").iterdir()) == [folders[0]]
    assert pq.read_table(folders[0] / "part-0.parquet").num_rows == 50


def test_a_rebuild_is_explained_by_what_changed(disk: Store) -> None:
    old = built(disk, [0])
    assert explain_change(None, RECIPE, INPUTS) == "never built here"
    changed = RECIPE | {"objective": {"beta_max": 1.0}}
    assert explain_change(old, changed, INPUTS) == "recipe changed: objective.beta_max 5.0 -> 1.0"
    assert explain_change(old, RECIPE, {"tokens": "b"}) == "inputs changed: tokens"
    assert explain_change(old, RECIPE, INPUTS | {"stage_one": "c"}) == "inputs changed: stage_one"


def test_many_changes_are_cut_short(disk: Store) -> None:
    old = built(disk, [0])
    changed = RECIPE | {"train": {"a": 1, "b": 2, "c": 3, "d": 4}}
    assert explain_change(old, changed, INPUTS) == (
        "recipe changed: train.a unset -> 1, train.b unset -> 2, train.c unset -> 3 and more"
    )


def test_a_recipe_of_tuples_equals_its_committed_form(disk: Store) -> None:
    recipe = {"splits": ("train", "valid")}
    attempt = disk.new_attempt("codes", IDENTITY)
    write_codes(attempt, "part-0.parquet", [0])
    commit(disk, attempt, recipe=recipe)
    old = disk.find("codes", IDENTITY)
    assert not explain_change(old, recipe, INPUTS).startswith("recipe changed")


def test_provenance_is_json_and_names_the_versions_in_use() -> None:
    values = artifacts.provenance()
    assert json.loads(json.dumps(values)) == values
    assert values["versions"]["pyarrow"] == pa.__version__
    assert values["host"]


def test_a_missing_git_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert artifacts.provenance()["git"] == ""


@pytest.mark.parametrize("key", ["attempt", "stage", "fingerprint"])
@pytest.mark.parametrize("value", ["../../elsewhere", "/etc", "s3://other"])
def test_no_name_in_a_manifest_leads_out_of_the_store(disk: Store, key: str, value: str) -> None:
    built(disk, [0])
    rewrite(disk, **{key: value})
    with pytest.raises(ArtifactError) as caught:
        localize(disk.artifact_uri("codes", IDENTITY))
    assert str(caught.value) == f"{manifest_uri(disk)} names {value!r}, which is outside its artifact; do not use it"


def test_a_path_that_is_no_text_is_torn(disk: Store) -> None:
    built(disk, [0])
    rewrite(disk, files=[{"path": 3, "bytes": 1, "sha256": "0", "rows": 1, "split": None}])
    with pytest.raises(
        ArtifactError, match=r"is torn or not a manifest \(.*\); build the stage again with --force STAGE"
    ):
        disk.find("codes", IDENTITY)


def test_a_manifest_that_cannot_be_read_is_not_a_missing_one(disk: Store) -> None:
    Path(manifest_uri(disk)).mkdir(parents=True)
    with pytest.raises(ArtifactError) as caught:
        disk.find("codes", IDENTITY)
    assert str(caught.value).startswith(f"cannot read {manifest_uri(disk)}: ")
    assert str(caught.value).endswith("; check permissions and credentials")


def test_a_run_lists_what_it_ended_with(store: Store) -> None:
    manifest = built(store, [0])
    uri = store.write_run(manifest, {"recipe": RECIPE})
    assert uri == fs.join(store.uri, "runs", IDENTITY[:12])
    record = json.loads(fs.read_bytes(fs.join(uri, "run.json")))
    assert record.pop("created_utc").endswith("+00:00")
    assert record == {"recipe": RECIPE, "inputs": INPUTS}


def test_every_json_of_a_manifest_reads_back(store: Store) -> None:
    manifest = built(store, [0, 1])
    assert Manifest.from_json(manifest.to_json(), "x") == manifest
