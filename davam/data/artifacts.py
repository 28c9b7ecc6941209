"""The store: every stage's output named by what went into it, and committed by a manifest that is written last.

    <store>/artifacts/<stage>/<fingerprint12>/manifest.json     its presence is the commit
    <store>/artifacts/<stage>/<fingerprint12>/<attempt>/...     the files of that attempt
    <store>/plans/<name>.json                                   which artifacts a run is to build
    <store>/runs/<name>/run.json                                which artifacts a run ended with

Readers open what a manifest lists, never a folder; an attempt that was not committed is invisible.
"""

import dataclasses
import hashlib
import io
import json
import os
import platform
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as arrow_fs
from pydantic import ConfigDict, TypeAdapter, ValidationError

from davam.config import differing_keys
from davam.data import fs, schemas
from davam.errors import ArtifactError

RUN, PLANS = "run.json", "plans"
MANIFEST = "manifest.json"
FORMAT = 1  # of a store: what manifests hold, and how their files are laid out
ROWS_PER_GROUP = 1 << 16
PACKAGES = ("davam", "torch", "ray", "pyarrow", "tokenizers")


def fingerprint(stage: str, version: int, recipe: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """sha256, in hex, of the stage, its version, its slice of the recipe and its inputs' fingerprints; the order of
    keys does not matter."""
    identity = {"stage": stage, "version": version, "recipe": recipe, "inputs": inputs}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def short(identity: str) -> str:
    """The first 12 digits, as used in paths."""
    return identity[:12]


@dataclass(frozen=True)
class FileEntry:
    """One committed file: its path below the artifact, size, hash and, for Parquet, its rows and split."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    path: str
    bytes: int
    sha256: str
    rows: int | None
    split: str | None


@dataclass(frozen=True)
class Manifest:
    """What an attempt committed, and where it came from."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    stage: str
    fingerprint: str
    version: int
    attempt: str
    created_utc: str
    recipe: dict[str, Any]
    inputs: dict[str, str]
    files: tuple[FileEntry, ...]
    counts: dict[str, int]
    metrics: dict[str, float]
    provenance: dict[str, Any]
    format: int = FORMAT  # the first manifests were without it

    def to_json(self) -> bytes:
        """The manifest as indented JSON."""
        return (json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, uri: str) -> "Manifest":
        """The manifest in the data. Raises ArtifactError when it is torn, of a newer format, or names files outside its
        artifact."""
        _refuse_newer(data, uri)
        try:
            manifest = TypeAdapter(cls).validate_json(data, strict=True)
        except ValidationError as error:
            fault = error.errors()[0]
            reason = ": ".join([*filter(None, [".".join(map(str, fault["loc"]))]), fault["msg"]])
            raise ArtifactError(
                f"{uri} is torn or not a manifest ({reason}); build the stage again with --force STAGE"
            ) from None
        outside = [path for path in (manifest.stage, manifest.fingerprint, manifest.attempt) if not _is_below(path)]
        for entry in manifest.files:
            if not entry.path.startswith(f"{manifest.attempt}/") or not _is_below(entry.path):
                outside.append(entry.path)
        if outside:
            raise ArtifactError(f"{uri} names {outside[0]!r}, which is outside its artifact; do not use it")
        return manifest


@dataclass(frozen=True)
class Attempt:
    """One try at building an artifact, with a folder of its own."""

    stage: str
    fingerprint: str
    name: str
    uri: str

    def rows(self) -> int:
        """Rows of all Parquet files so far."""
        return sum(_rows_of(fs.join(self.uri, path)) or 0 for path, _ in fs.list_files(self.uri))

    def read_table(self, schema: str) -> pa.Table:
        """All Parquet rows of the attempt, before it is committed."""
        uris = [fs.join(self.uri, path) for path, _ in fs.list_files(self.uri) if path.endswith(".parquet")]
        return read_tables(uris, schema)


class Store:
    """A folder or URI that holds artifacts and runs."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def artifact_uri(self, stage: str, identity: str) -> str:
        """Where the artifact of that fingerprint is or would be."""
        return fs.join(self.uri, "artifacts", stage, short(identity))

    def files_uri(self, manifest: Manifest) -> str:
        """Where the artifact's files are."""
        return fs.join(self.artifact_uri(manifest.stage, manifest.fingerprint), manifest.attempt)

    def new_attempt(self, stage: str, identity: str) -> Attempt:
        """A fresh attempt; nothing is written yet."""
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        return Attempt(stage, identity, name, fs.join(self.artifact_uri(stage, identity), name))

    def commit(
        self,
        attempt: Attempt,
        *,
        version: int,
        recipe: Mapping[str, Any],
        inputs: Mapping[str, str],
        counts: Mapping[str, int],
        metrics: Mapping[str, float],
        provenance: Mapping[str, Any],
    ) -> Manifest:
        """Writes the manifest over the attempt's files, which makes them the artifact."""
        files = tuple(_entry(attempt, path, size) for path, size in fs.list_files(attempt.uri))
        if not files:
            raise ArtifactError(f"{attempt.uri}: {attempt.stage} wrote no files, so there is nothing to commit")
        manifest = Manifest(
            attempt.stage,
            attempt.fingerprint,
            version,
            attempt.name,
            _now(),
            dict(recipe),
            dict(inputs),
            files,
            dict(counts),
            dict(metrics),
            dict(provenance),
        )
        uri = fs.join(self.artifact_uri(attempt.stage, attempt.fingerprint), MANIFEST)
        fs.write_bytes_atomic(uri, manifest.to_json())
        return manifest

    def find(self, stage: str, identity: str) -> Manifest | None:
        """The committed manifest, or nothing. Raises ArtifactError when it is torn or its files are not as listed."""
        artifact = self.artifact_uri(stage, identity)
        manifest = read_manifest(artifact)
        if manifest is not None:
            if (manifest.stage, manifest.fingerprint) != (stage, identity):
                raise ArtifactError(
                    f"{fs.join(artifact, MANIFEST)} belongs to {manifest.stage} {short(manifest.fingerprint)}, not to "
                    f"{stage} {short(identity)}; build the stage again with --force {stage}"
                )
            sizes = dict(fs.list_files(fs.join(artifact, manifest.attempt)))
            for entry in manifest.files:
                found = sizes.get(entry.path.removeprefix(f"{manifest.attempt}/"))
                if found != entry.bytes:
                    state = "missing" if found is None else f"{found} bytes instead of {entry.bytes}"
                    raise ArtifactError(
                        f"{fs.join(artifact, entry.path)}: {state}; build it again with --force {stage}"
                    )
        return manifest

    def list_stage(self, stage: str) -> list[Manifest]:
        """Every committed manifest of the stage; torn and newer ones are left out."""
        folder = fs.join(self.uri, "artifacts", stage)
        found = []
        for path, _ in fs.list_files(folder):
            if path.count("/") == 1 and path.endswith(f"/{MANIFEST}"):
                try:
                    found.append(Manifest.from_json(fs.read_bytes(fs.join(folder, path)), path))
                except ArtifactError:
                    continue
        return found

    def file_uris(self, manifest: Manifest, split: str | None = None) -> list[str]:
        """URIs of the manifest's files, or of those Parquet files that belong to the split."""
        base = self.artifact_uri(manifest.stage, manifest.fingerprint)
        return [fs.join(base, entry.path) for entry in manifest.files if split is None or entry.split == split]

    def read_table(
        self, manifest: Manifest, schema: str, split: str | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """The rows of the manifest's Parquet files. Raises ArtifactError that names a truncated file."""
        uris = [uri for uri in self.file_uris(manifest, split) if uri.endswith(".parquet")]
        return read_tables(uris, schema, columns)

    def probe_writable(self) -> None:
        """Raises ArtifactError at once when nothing can be written here."""
        probe = fs.join(self.uri, f".probe-{secrets.token_hex(4)}")
        fs.write_bytes_atomic(probe, b"")
        fs.delete_file(probe)

    def write_plan(self, stages: Mapping[str, str], arguments: Sequence[str]) -> None:
        """Records what a run is about to build: the fingerprint of every stage, in order."""
        uri = plan_uri(self.uri, short(list(stages.values())[-1]))
        record = {"stages": dict(stages), "arguments": list(arguments), "created_utc": _now()}
        fs.write_bytes_atomic(uri, (json.dumps(record, indent=1) + "\n").encode())

    def write_run(self, last: Manifest, values: Mapping[str, Any]) -> str:
        """Records which artifacts a run ended with; the URI of the run, named by its last artifact."""
        uri = fs.join(self.uri, "runs", short(last.fingerprint))
        record = dict(values) | {"inputs": last.inputs, "created_utc": _now()}
        fs.write_bytes_atomic(fs.join(uri, RUN), (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())
        return uri


def read_run(run_uri: str) -> dict[str, Any]:
    """What a run recorded of itself: `recipe`, `inputs` (the fingerprint of each stage), `model_uri`, `created_utc`.

    Raises ArtifactError when it is torn or not there.
    """
    return _read_record(fs.join(run_uri, RUN))


def read_plans(store_uri: str) -> dict[str, dict[str, Any]]:
    """What each run was to build, by the name that it has or will have. Raises ArtifactError for a torn one."""
    folder = fs.join(store_uri, PLANS)
    paths = [path for path, _ in fs.list_files(folder)]
    return {path.removesuffix(".json"): _read_record(fs.join(folder, path)) for path in paths}


def plan_uri(store_uri: str, run_name: str) -> str:
    """Where the plan of a run is."""
    return fs.join(store_uri, PLANS, f"{run_name}.json")


def _read_record(uri: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(fs.read_bytes(uri))
    except (FileNotFoundError, ValueError) as error:
        raise ArtifactError(f"{uri} is not there or torn ({error}); delete it, or build that run again") from None
    return found


def read_manifest(artifact_uri: str) -> Manifest | None:
    """The manifest of an artifact, or nothing when none was committed."""
    uri = fs.join(artifact_uri, MANIFEST)
    try:
        data = fs.read_bytes(uri)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Manifest.from_json(data, uri)


def read_tables(uris: Sequence[str], schema: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of Parquet files, in that order. Raises ArtifactError that names a file that is torn or another's."""
    wanted = schemas.SCHEMAS[schema]
    if columns is not None:
        wanted = pa.schema([wanted.field(name) for name in columns])
    tables = [wanted.empty_table()]
    for uri in uris:
        filesystem, path = fs.resolve(uri)
        try:
            parquet = pq.ParquetFile(path, filesystem=filesystem)
            schemas.check(parquet.schema_arrow, schema, uri)
            tables.append(parquet.read(columns=wanted.names).cast(wanted))
        except (ValueError, OSError) as error:  # ArrowInvalid is a ValueError; so is a null where none may be
            raise ArtifactError(
                f"{uri} cannot be read ({str(error).splitlines()[0]}); build its stage again with --force"
            ) from None
    return pa.concat_tables(tables)


def write_table(uri: str, table: pa.Table) -> None:
    """Writes the rows as one Parquet file, which is there as a whole or not at all."""
    fs.write_bytes_atomic(uri, parquet_bytes(table))


def parquet_bytes(table: pa.Table) -> bytes:
    """The rows as the content of a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=ROWS_PER_GROUP)
    return buffer.getvalue()


def localize(uri: str, only: str = "") -> Path:
    """A local folder with the files of an artifact's attempt, or of a plain folder: itself when it is local, else a
    verified copy in the cache ($DAVAM_CACHE, or ~/.cache/davam), of those files alone whose path begins so."""
    manifest = read_manifest(uri)
    source = uri if manifest is None else fs.join(uri, manifest.attempt)
    if fs.is_local(source):
        return Path(fs.resolve(source)[1])
    listing = [(path, size) for path, size in fs.list_files(source) if path.startswith(only)]
    if not listing:
        raise ArtifactError(f"{uri}: no files here; give a model folder, an artifact or a run")
    key = hashlib.sha256(json.dumps([source, listing]).encode()).hexdigest()[:16]
    target = Path(os.environ.get("DAVAM_CACHE", Path.home() / ".cache" / "davam")) / key
    if not target.is_dir():
        hashes = {} if manifest is None else {entry.path: entry.sha256 for entry in manifest.files}
        prefix = "" if manifest is None else f"{manifest.attempt}/"
        _download(source, [path for path, _ in listing], target, {k.removeprefix(prefix): v for k, v in hashes.items()})
    return target


def explain_change(old: Manifest | None, recipe: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Why a stage is built, in one line: what differs from its most recent artifact."""
    if old is None:
        return "never built here"
    # Manifests hold the recipe as it comes back from JSON.
    changed = differing_keys(old.recipe, json.loads(json.dumps(recipe)))
    if changed:
        return f"recipe changed: {', '.join(changed[:3])}{' and more' if len(changed) > 3 else ''}"
    names = [name for name in sorted(inputs.keys() | old.inputs.keys()) if inputs.get(name) != old.inputs.get(name)]
    return f"inputs changed: {', '.join(names)}" if names else f"stage version changed from {old.version}"


def folder_digest(folder: Path, names: Sequence[str]) -> str:
    """sha256, in hex, of the named files' names and contents."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{_sha256(str(folder / name))}\0".encode())
    return digest.hexdigest()


def provenance() -> dict[str, Any]:
    """Where and with what an artifact is made; for people, not part of its identity."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"host": socket.gethostname(), "python": platform.python_version(), "versions": versions, "git": _git()}


def _git() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _refuse_newer(data: bytes, uri: str) -> None:
    """Looks at nothing but the format: a newer program's manifest may have any other keys."""
    try:
        values = json.loads(data)
    except ValueError:
        return
    found = values.get("format") if isinstance(values, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise ArtifactError(
            f"{uri} is of format {found}, and this version of davam reads no newer one than {FORMAT}; update davam, or "
            "give another --store"
        )


def _is_below(path: str) -> bool:
    return not (path.startswith("/") or ".." in path.split("/") or "://" in path or "\\" in path)


def _entry(attempt: Attempt, path: str, size: int) -> FileEntry:
    uri = fs.join(attempt.uri, path)
    split = next((part.removeprefix("split=") for part in path.split("/") if part.startswith("split=")), None)
    return FileEntry(f"{attempt.name}/{path}", size, _sha256(uri), _rows_of(uri), split)


def _sha256(uri: str) -> str:
    digest = hashlib.sha256()
    filesystem, path = fs.resolve(uri)
    with filesystem.open_input_file(path) as stream:  # an input stream would decompress .gz and the like
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _rows_of(uri: str) -> int | None:
    if not uri.endswith(".parquet"):
        return None
    filesystem, path = fs.resolve(uri)
    try:
        return int(pq.read_metadata(path, filesystem=filesystem).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{uri} cannot be read ({str(error).splitlines()[0]}); run the stage again") from None


def _download(source: str, paths: Sequence[str], target: Path, hashes: Mapping[str, str]) -> None:
    """Copies the files beside the target, checks them, and renames: two processes at once do no harm."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        complete = Path(folder) / "complete"
        for path in paths:
            (complete / path).parent.mkdir(parents=True, exist_ok=True)
            filesystem, inner = fs.resolve(fs.join(source, path))
            arrow_fs.copy_files(inner, str(complete / path), source_filesystem=filesystem)
            if path in hashes and _sha256(str(complete / path)) != hashes[path]:
                raise ArtifactError(
                    f"{fs.join(source, path)} is not what its manifest lists; build it again with --force"
                )
        try:
            complete.rename(target)
        except OSError:
            if not target.is_dir():
                raise
