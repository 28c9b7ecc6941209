"""The one place that opens URIs: local paths, what pyarrow opens (s3, gs, ...), and otherwise fsspec."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
import pyarrow as pa
from pyarrow import fs as arrow_fs

from davam.errors import ArtifactError, ConfigError


def resolve(uri: str) -> tuple[arrow_fs.FileSystem, str]:
    """The filesystem of a URI and the path in it. Raises ConfigError for a scheme that nothing here opens."""
    if is_local(uri):  # not by pyarrow, for which the `?` of a glob begins a query
        path = unquote(uri.removeprefix("file://")) if "://" in uri else uri
        return arrow_fs.LocalFileSystem(), os.path.abspath(path)
    try:
        return arrow_fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    except OSError as error:
        raise _no_filesystem(uri, error) from None
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except Exception as error:  # whatever the scheme's own package raises
        raise _no_filesystem(uri, error) from None
    return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(filesystem)), path


def resolve_without_markers(uri: str) -> tuple[arrow_fs.FileSystem, str]:
    """The same for making and deleting: pyarrow would write an empty object for a folder, and one in place of the last
    file of a folder, which some servers then take for a file."""
    if not uri.startswith("s3://"):
        return resolve(uri)
    filesystem, path = _fsspec_of(uri)
    return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(filesystem)), path


def _fsspec_of(uri: str) -> tuple[Any, str]:
    try:
        # A listing may never be older than what another process has written.
        filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except Exception as error:  # whatever the scheme's own package raises, or that there is none
        raise _no_filesystem(uri, error) from None
    return filesystem, path


def _no_filesystem(uri: str, error: Exception) -> ConfigError:
    scheme, reason = uri.split("://", 1)[0], str(error).split("\n", 1)[0]
    return ConfigError(
        f"{uri}: no filesystem for {scheme}:// ({reason}); use a path, s3://, gs:// or a scheme "
        "whose fsspec package is installed"
    )


def is_local(uri: str) -> bool:
    """True for paths and file:// URIs."""
    return "://" not in uri or uri.startswith("file://")


def absolute(uri: str) -> str:
    """The URI, or the absolute form of a relative path, so that it means the same in every process."""
    return os.path.abspath(uri) if "://" not in uri else uri.rstrip("/")


def join(uri: str, *parts: str) -> str:
    """The URI of something below another URI."""
    return "/".join([uri.rstrip("/"), *parts])


def exists(uri: str) -> bool:
    """Whether a file or folder is there. Raises ArtifactError when that cannot be known."""
    with reading(uri):
        filesystem, path = resolve(uri)
        return bool(filesystem.get_file_info(path).type != arrow_fs.FileType.NotFound)


def read_bytes(uri: str) -> bytes:
    """The file's content. Raises FileNotFoundError or NotADirectoryError, and ArtifactError when it cannot be read."""
    with reading(uri):
        filesystem, path = resolve(uri)
        with filesystem.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read())


def write_bytes_atomic(uri: str, data: bytes) -> None:
    """Writes the file so that readers see all of it or nothing. Raises ArtifactError when it cannot be written."""
    try:
        if is_local(uri):
            _replace_local(Path(resolve(uri)[1]), data)
            return
        filesystem, path = resolve(uri)
        # An object store shows the object when it is complete.
        with filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(data)
    except OSError as error:
        raise _unwritable(uri, error) from None


def create_bytes(uri: str, data: bytes) -> bool:
    """Writes the file, all of it at once, unless it is there; whether this call wrote it. Of several calls at once, one
    does: object stores must know conditional writes (`If-None-Match: *`), which pyarrow does not, so that other schemes
    than s3 need the scheme's own fsspec package (gcsfs for gs).

    Raises ArtifactError when it cannot be written, and ConfigError without that package.
    """
    try:
        if is_local(uri):
            return _create_local(Path(resolve(uri)[1]), data)
        filesystem, path = _fsspec_of(uri)
        filesystem.pipe_file(path, data, mode="create")
        return True
    except FileExistsError:
        return False
    except OSError as error:
        raise _unwritable(uri, error) from None


def list_files(uri: str) -> list[tuple[str, int]]:
    """Relative path and size in bytes of every file below the folder, sorted; nothing when it is absent."""
    with reading(uri):
        filesystem, path = resolve(uri)
        selector = arrow_fs.FileSelector(path, recursive=True, allow_not_found=True)
        infos = [info for info in filesystem.get_file_info(selector) if info.type == arrow_fs.FileType.File]
    base = path.rstrip("/").lstrip("/")
    return sorted((info.path.lstrip("/").removeprefix(base).lstrip("/"), info.size) for info in infos)


def upload_folder(folder: str, uri: str) -> None:
    """Copies the files of a local folder to a URI. Object stores get no directory markers."""
    filesystem, target = resolve(uri)
    for path, _ in list_files(folder):
        destination = join(target, path)
        if is_local(uri):
            os.makedirs(os.path.dirname(destination), exist_ok=True)
        arrow_fs.copy_files(os.path.join(folder, path), destination, destination_filesystem=filesystem)


def delete_file(uri: str) -> None:
    """Removes a file; nothing when it is absent. Raises ArtifactError when it stays."""
    filesystem, path = resolve_without_markers(uri)
    with _deleting(uri), contextlib.suppress(FileNotFoundError):
        filesystem.delete_file(path)


def delete_folder(uri: str) -> None:
    """Removes a folder and all in it; nothing when it is absent. Raises ArtifactError when something stays."""
    if exists(uri):
        filesystem, path = resolve_without_markers(uri)
        with _deleting(uri):
            filesystem.delete_dir(path)


@contextlib.contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turns a failure of the store or network into ArtifactError; that nothing is there is left as it is."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise ArtifactError(f"cannot read {uri}: {error}; check permissions and credentials") from None


@contextlib.contextmanager
def _deleting(uri: str) -> Iterator[None]:
    reason: object = "it is still there"
    try:
        yield
    except OSError as error:
        reason = error
    # A library may keep to itself what the server refused.
    if exists(uri):
        raise ArtifactError(f"cannot delete {uri}: {reason}; check permissions")


def _unwritable(uri: str, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"cannot write {uri}: {error}; check permissions, credentials and free space, or choose another --store"
    )


def _replace_local(path: Path, data: bytes) -> None:
    with _written_beside(path, data) as beside:
        os.replace(beside, path)


def _create_local(path: Path, data: bytes) -> bool:
    with _written_beside(path, data) as beside:
        os.link(beside, path)  # fails where there is something
    return True


@contextlib.contextmanager
def _written_beside(path: Path, data: bytes) -> Iterator[Path]:
    """A complete file in the same folder, gone in the end unless it was moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as stream:  # with the permissions of any new file: others may read the store
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        yield beside
    finally:
        beside.unlink(missing_ok=True)
