"""A user's corpus: which files it has, the pieces that are read in parallel, and the rows in them.

A row's id is its file's number and its place in the file (byte offset, or row of a Parquet file), so ids are unique
and do not depend on how the files are cut into pieces.
"""

import difflib
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import has_magic
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.utils import glob_translate
from pyarrow import fs as arrow_fs

from davam.data import fs
from davam.data.labels import as_label, as_text
from davam.errors import DataError

CHUNK_BYTES = 64 << 20
BATCH_ROWS = 4096
READ_BYTES = 1 << 20
OFFSET_BITS = 40
BYTE_ORDER_MARK = "\ufeff"
FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".pq": "parquet"}
SPLITS = ("train", "valid", "test")

Row = tuple[int, str, str]  # place in the file, text, label


@dataclass(frozen=True)
class Columns:
    """The columns of JSONL and Parquet files that are read, and the settings that name them, for messages."""

    text: str
    label: str | None = None
    text_key: str = "data.text_column"
    label_key: str = "data.label_column"

    @property
    def names(self) -> tuple[str, ...]:
        """Those that must be there."""
        return (self.text,) if self.label is None else (self.text, self.label)


@dataclass(frozen=True)
class Chunk:
    """A piece of one file: the lines that begin in the bytes [start, stop), or the Parquet rows [start, stop)."""

    uri: str
    format: str
    file_index: int
    start: int
    stop: int
    split: str | None


def expand(pattern: str) -> list[str]:
    """The files of a path, folder or glob, sorted. Hidden files and those that begin with `_` are left out of folders.

    In a glob, `*` stays within a folder and `**` crosses folders.

    Raises DataError when there is none.
    """
    scheme = pattern.split("://", 1)[0] + "://" if "://" in pattern else ""
    with fs.reading(pattern):
        filesystem, path = fs.resolve(pattern)
        info = filesystem.get_file_info(path)
        if info.type == arrow_fs.FileType.File:
            return [pattern]
        if info.type != arrow_fs.FileType.Directory and not has_magic(path):
            raise _nothing_at(pattern)  # instead of a listing of all that lies beside a misspelt name
        folder = path if info.type == arrow_fs.FileType.Directory else _fixed_part(path)
        selector = arrow_fs.FileSelector(folder, recursive=True, allow_not_found=True)
        paths = [entry.path for entry in filesystem.get_file_info(selector) if entry.type == arrow_fs.FileType.File]
    visible = [found for found in paths if not _hidden(found.removeprefix(folder))]
    if info.type != arrow_fs.FileType.Directory:
        matches = re.compile(glob_translate(path)).fullmatch
        visible = [found for found in visible if matches(found)]
    if not visible:
        raise _nothing_at(pattern)
    return sorted(scheme + found if scheme and not found.startswith(scheme) else found for found in visible)


def plan_chunks(
    patterns: Mapping[str, str | None], format: str, columns: Columns, chunk_bytes: int = CHUNK_BYTES
) -> list[Chunk]:
    """The pieces of the corpus, in a fixed order. With `train` alone, pieces have no split.

    Raises DataError for missing and empty files, Parquet files that are torn, and columns that are not there.
    """
    if columns.label == columns.text:
        raise DataError(f"{columns.label_key}={columns.label} is the column of the text; give another")
    given = [name for name in SPLITS if patterns.get(name)]
    chunks: list[Chunk] = []
    file_index = 0
    for name in given:
        for uri in expand(str(patterns[name])):
            split = None if given == ["train"] else name
            kind = _format_of(uri) if format == "auto" else format
            if kind == "parquet":
                chunks.append(Chunk(uri, kind, file_index, 0, _parquet_rows(uri, columns), split))
            elif kind == "text" and columns.label is not None:
                raise DataError(f"{uri}: lines of text have no {columns.label_key}; give JSONL or Parquet")
            else:
                size = _size(uri)
                starts = range(0, size, chunk_bytes)
                chunks += [Chunk(uri, kind, file_index, s, min(s + chunk_bytes, size), split) for s in starts]
            file_index += 1
    return chunks


def read_chunk(chunk: Chunk, columns: Columns) -> Iterator[pa.RecordBatch]:
    """The rows of a piece as batches with the columns id and text and, where there are labels, label; blank lines are
    rows of empty text.

    Raises DataError for bytes that are not UTF-8, lines that are not JSON, values that are not text, and rows without a
    label.
    """
    rows = _parquet_rows_of(chunk, columns) if chunk.format == "parquet" else _line_rows(chunk, columns)
    while part := list(itertools.islice(rows, BATCH_ROWS)):
        yield _batch(chunk, part, columns)


def content_digest(chunks: Sequence[Chunk]) -> str:
    """sha256, in hex, of all files' bytes with their splits, in order."""
    return _digest(tuple((uri, split, *_stamp(uri)) for uri, split in dict.fromkeys((c.uri, c.split) for c in chunks)))


@functools.lru_cache(maxsize=64)  # every stage's identity asks for it, and a corpus takes long to read
def _digest(files: tuple[tuple[str, str, int, int | None], ...]) -> str:
    digest = hashlib.sha256()
    for uri, split, size, _ in files:
        digest.update(f"\0{split}\0{size}\0".encode())
        filesystem, path = fs.resolve(uri)
        with filesystem.open_input_stream(path, compression=None) as stream:
            while block := stream.read(READ_BYTES):
                digest.update(block)
    return digest.hexdigest()


def split_by_hash(text: str, valid_share: float, test_share: float) -> str:
    """The split of a text, from its words alone: equal sentences never fall on both sides."""
    words = " ".join(text.split()).encode("utf-8", "surrogatepass")
    place = int.from_bytes(hashlib.sha256(words).digest()[:8], "big") / 2**64
    if place < valid_share:
        return "valid"
    return "test" if place < valid_share + test_share else "train"


def _batch(chunk: Chunk, rows: Sequence[Row], columns: Columns) -> pa.RecordBatch:
    found = {
        "id": pa.array([(chunk.file_index << OFFSET_BITS) | place for place, _, _ in rows], pa.int64()),
        "text": pa.array([text if text.strip() else "" for _, text, _ in rows], pa.string()),
    }
    if columns.label is not None:
        found["label"] = pa.array([label for _, _, label in rows], pa.string())
    return pa.record_batch(found)


def _fixed_part(path: str) -> str:
    """The folder above the first wildcard."""
    parts = path.split("/")
    fixed = next(i for i, part in enumerate(parts) if has_magic(part))
    return "/".join(parts[:fixed]) or "/"


def _nothing_at(pattern: str) -> DataError:
    return DataError(
        f"{pattern}: no such file, folder or glob; check data.root and data.train, data.valid, data.test, or --data"
    )


def _hidden(relative: str) -> bool:
    return any(part.startswith((".", "_")) for part in relative.strip("/").split("/"))


def _format_of(uri: str) -> str:
    dot = uri.rfind(".")
    return FORMATS.get(uri[dot:].lower(), "text") if dot >= 0 else "text"


def _size(uri: str) -> int:
    return _stamp(uri)[0]


def _stamp(uri: str) -> tuple[int, int | None]:
    """The size in bytes, and when the file was written, where the place knows that."""
    filesystem, path = fs.resolve(uri)
    info = filesystem.get_file_info(path)
    if not info.size:
        raise DataError(f"{uri}: the file is empty; give a file with one sentence a line")
    return int(info.size), info.mtime_ns


def _parquet_rows(uri: str, columns: Columns) -> int:
    filesystem, path = fs.resolve(uri)
    try:
        parquet = pq.ParquetFile(path, filesystem=filesystem)
    except (pa.ArrowInvalid, OSError) as error:
        raise _torn(uri, error) from None
    for name in columns.names:
        if name not in parquet.schema_arrow.names:
            raise DataError(_no_column(uri, name, parquet.schema_arrow.names, columns))
    return int(parquet.metadata.num_rows)


def _torn(uri: str, error: Exception) -> DataError:
    return DataError(f"{uri}: not a complete Parquet file ({str(error).splitlines()[0]}); write it again")


def _no_column(where: str, wanted: str, there: Sequence[str], columns: Columns) -> str:
    near = difflib.get_close_matches(wanted, there, n=1)
    key, other = (columns.text_key, "") if wanted == columns.text else (columns.label_key, ", or leave the row out")
    hint = f"; did you mean {key}={near[0]}?" if near else f"; set {key}{other}"
    return f"{where}: no column {wanted!r}; it has {', '.join(there) or 'none'}{hint}"


def _parquet_rows_of(chunk: Chunk, columns: Columns) -> Iterator[Row]:
    row = 0
    for batch in _parquet_batches(chunk.uri, columns):
        for values in batch.to_pylist():
            yield _row(row, values, f"{chunk.uri}, row {row}", columns)
            row += 1


def _parquet_batches(uri: str, columns: Columns) -> Iterator[pa.RecordBatch]:
    filesystem, path = fs.resolve(uri)
    try:
        yield from pq.ParquetFile(path, filesystem=filesystem).iter_batches(BATCH_ROWS, columns=list(columns.names))
    except (pa.ArrowInvalid, OSError) as error:
        raise _torn(uri, error) from None


def _line_rows(chunk: Chunk, columns: Columns) -> Iterator[Row]:
    for offset, raw in _lines(chunk):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{chunk.uri}: not UTF-8 at byte {offset + error.start} ({error.reason}); convert it, "
                "e.g. iconv -f latin1 -t utf-8"
            ) from None
        if offset == 0:
            text = text.removeprefix(BYTE_ORDER_MARK)
        yield _json_row(text, chunk.uri, offset, columns) if chunk.format == "jsonl" else (offset, text, "")


def _lines(chunk: Chunk) -> Iterator[tuple[int, bytes]]:
    """Byte offset and content of each line that begins inside the chunk; the last one may end beyond it."""
    filesystem, path = fs.resolve(chunk.uri)
    with filesystem.open_input_file(path) as stream:
        # A line begins after a newline, so reading starts one byte early to see whether there is one.
        position = max(0, chunk.start - 1)
        stream.seek(position)
        skip_first = chunk.start > 0
        rest = b""
        while position < chunk.stop:
            block = stream.read(READ_BYTES)
            rest += block
            pieces = rest.split(b"\n")
            rest = pieces.pop()
            for piece in pieces:
                if not skip_first and position < chunk.stop:
                    yield position, piece.removesuffix(b"\r")
                skip_first = False
                position += len(piece) + 1
            if not block:
                if rest and not skip_first and position < chunk.stop:
                    yield position, rest.removesuffix(b"\r")
                return


def _json_row(line: str, uri: str, offset: int, columns: Columns) -> Row:
    if not line.strip():
        return offset, "", ""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{uri}: not JSON at byte {offset} ({error}); JSONL has one object a line") from None
    where = f"{uri}, byte {offset}"
    if not isinstance(value, dict) or columns.text not in value:
        raise DataError(_no_column(where, columns.text, list(value) if isinstance(value, dict) else [], columns))
    return _row(offset, value, where, columns)


def _row(place: int, values: Mapping[str, Any], where: str, columns: Columns) -> Row:
    value = values[columns.text]
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: {columns.text!r} is {type(value).__name__}, not text; set {columns.text_key}")
    text = "" if value is None else as_text(value, where)
    if columns.label is None or not text.strip():
        return place, text, ""
    if columns.label not in values:
        raise DataError(_no_column(where, columns.label, list(values), columns))
    return place, text, as_label(values[columns.label], f"{where}, {columns.label!r}")
