"""A generated corpus: which ranges of candidate rows it is made of, and the files that hold its rows.

    <uri>/corpus.json                           what the corpus is; written first, and never changed
    <uri>/pending/<first>-<stop>/               what a range in progress needs; removed when it is done
    <uri>/data/<first>-<stop>-<rows>.parquet    the rows of a range that stay, in the order of their ids
    <uri>/spare/<first>-<stop>.parquet          the same for the range in which the corpus ends, and for those beyond it
    <uri>/ranges/<first>-<stop>-<flag>.npy      hashes of a range's rows, where later rows are compared with them
    <uri>/ranges/<first>-<stop>.json            the range is done: its counts, written last of it
    <uri>/summary.json                          the corpus is complete: N, its files and counts, written last of all

Readers open what the summary lists. Which rows there are depends on ids and settings alone, not on the ranges.
"""

import dataclasses
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from davam.config import differing_keys
from davam.data import fs
from davam.data.artifacts import write_table
from davam.data.schemas import SCHEMAS
from davam.errors import ArtifactError, ConfigError, GenerationError
from davam.generation.spec import spec_digest
from davam.quality.checks import ACROSS_ROWS, FLAGS, Filters
from davam.quality.duplicates import Earlier, repeats
from davam.quality.near import BANDS
from davam.quality.text import Hashes

SPARE_SHARE = 1.05  # candidates beyond those that the rate of acceptance asks for
LEAST_RATE = 0.01  # of candidates that stay, under which it is not worth going on
JUDGED_AFTER = 4096  # candidates
LEAST_CANDIDATES = 256  # of a range, where some are dropped
STAYS = len(FLAGS)  # the place of no flag
RANGE_ROWS_PER_WORKER = 500_000
MOST_RANGE_ROWS = 4_000_000  # the driver judges a range as a whole
CHUNK_ROWS = 4096  # whose texts are far from 2 GiB
HASH_COLUMNS = {"duplicate": "text_hash", "near_duplicate": "band_hashes"}
HASHES = {"duplicate": 1, "near_duplicate": BANDS}  # of a row, 8 bytes each, which the driver keeps


@dataclass(frozen=True)
class Said:
    """Sums over rows: how many have each flag and each label, their tokens, and those of the longest runs that they
    copy."""

    flagged: dict[str, int]
    labels: dict[str, int]
    tokens: int
    copied_tokens: int


@dataclass(frozen=True)
class Range:
    """A range of candidates that is done: how many stay, why others do not (each counted once), and what is to be said
    of the rows that stay."""

    first: int
    stop: int
    kept: int
    dropped: dict[str, int]
    said: Said

    @property
    def name(self) -> str:
        """As in file names; the order of names is that of ids."""
        return range_name(self.first, self.stop)


@dataclass(frozen=True)
class Summary:
    """A complete corpus."""

    rows: int
    candidates: int
    dropped: dict[str, int]
    said: Said
    files: tuple[tuple[str, int], ...]
    spec_digest: str


_RANGE, _SUMMARY = TypeAdapter(Range), TypeAdapter(Summary)


def range_name(first: int, stop: int) -> str:
    """The name of a range."""
    return f"{first:012d}-{stop:012d}"


def most_range_rows(workers: int) -> int:
    """The most candidates that so many workers make before they are committed."""
    return min(RANGE_ROWS_PER_WORKER * workers, MOST_RANGE_ROWS)


def hash_bytes(rows: int, drop: Sequence[str]) -> int:
    """Bytes of the hashes that the driver keeps to compare so many rows with each other, for the checks of `drop`."""
    return 8 * rows * sum(count for name, count in HASHES.items() if name in drop)


def data_path(part: Range, count: int) -> str:
    """The file with the first so many rows of a range that stay, below the corpus."""
    return f"data/{part.name}-{count}.parquet"


def next_range(done: Sequence[Range], rows: int, most: int, drops: bool) -> tuple[int, int] | None:
    """The candidates (first, stop) to make next for a corpus of so many rows; nothing when there are enough.

    Raises GenerationError when hardly any candidate stays, naming the check that costs most.
    """
    first, kept = (done[-1].stop if done else 0), sum(part.kept for part in done)
    if kept >= rows:
        return None
    rate = kept / first if first and drops else 1.0
    if first >= JUDGED_AFTER and rate < LEAST_RATE:
        counts = total(part.dropped for part in done)
        worst = max(counts, key=lambda name: counts[name])
        raise GenerationError(
            f"only {kept:,} of {first:,} candidates stay, and {counts[worst]:,} are dropped as `{worst}`: loosen its "
            f"threshold, or leave it out of filters.drop"
        )
    wanted = rows - kept
    if drops and first:
        wanted = math.ceil(SPARE_SHARE * wanted / max(rate, LEAST_RATE))
    return first, first + min(most, max(wanted, LEAST_CANDIDATES if drops else 1))


def total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sums by name, in the order of the flags."""
    added: Counter[str] = Counter()
    for part in counts:
        added.update(part)
    return {name: added[name] for name in FLAGS if added[name]}


def say_of(rows: pa.Table) -> Said:
    """What is to be said of rows with the columns flags, label, tokens and copied_tokens."""
    flagged, labels = _counted(rows["flags"].combine_chunks().flatten()), _counted(rows["label"])
    labels.pop("", None)
    tokens, copied = (int(rows[name].to_numpy().sum()) for name in ("tokens", "copied_tokens"))
    return Said(total([flagged]), dict(sorted(labels.items())), tokens, copied)


def said_together(parts: Sequence[Said]) -> Said:
    """What is to be said of the rows of all parts."""
    labels: Counter[str] = Counter()
    for part in parts:
        labels.update(part.labels)
    return Said(
        total(part.flagged for part in parts),
        dict(sorted(labels.items())),
        sum(part.tokens for part in parts),
        sum(part.copied_tokens for part in parts),
    )


class Corpus:
    """The folder of a corpus, opened for one identity."""

    def __init__(self, uri: str, identity: Mapping[str, Any]) -> None:
        """Raises ConfigError when the folder holds a corpus of other settings."""
        self.uri = uri
        self.identity = dict(identity)
        self.filters = Filters.model_validate(identity["spec"]["filters"])
        # What is committed never changes, so it is read once.
        self._ranges: dict[str, Range] = {}
        self._earlier: dict[str, Earlier] = {}
        path = fs.join(uri, "corpus.json")
        if fs.exists(path):
            _refuse_other(uri, _read_json(path), self.identity)
        else:
            fs.write_bytes_atomic(path, _json(self.identity))

    def done(self) -> list[Range]:
        """The ranges that are done, one after the other from 0 on."""
        folder = fs.join(self.uri, "ranges")
        names = sorted(path for path, _ in fs.list_files(folder) if path.endswith(".json"))
        chained, stop = [], 0
        for name in names:
            if name not in self._ranges:
                self._ranges[name] = _parse(_RANGE, fs.join(folder, name))
            part = self._ranges[name]
            if part.first == stop:
                chained.append(part)
                stop = part.stop
        return chained

    def close(self, first: int, stop: int, candidates: pa.Table, rows: int) -> Range:
        """Decides which candidates of the range stay in a corpus of so many rows, and commits the range.

        Raises GenerationError unless there is a candidate for every id of the range, and for no other.
        """
        # A row that was made twice was made the same.
        id_N, place_N = np.unique(candidates["id"].to_numpy(), return_index=True)
        table = _with_text(candidates, candidates["text"].cast(pa.large_string())).take(pa.array(place_N))
        if not np.array_equal(id_N, np.arange(first, stop)):
            raise GenerationError(
                f"{self.pending_uri(first, stop)}: its candidates are not those of its ids; delete that folder, and "
                "give the command again"
            )
        reason_N = self._judge(table)
        kept = table.filter(pa.array(reason_N == STAYS))
        counts = np.bincount(reason_N, minlength=STAYS).tolist()
        dropped = total([dict(zip(FLAGS, counts, strict=False))])
        part = Range(first, stop, kept.num_rows, dropped, say_of(kept))
        ends_here = sum(earlier.kept for earlier in self.done()) + part.kept > rows
        write_table(self._spare_uri(part) if ends_here else self._data_uri(part, part.kept), self._rows(kept))
        fs.write_bytes_atomic(fs.join(self.uri, "ranges", f"{part.name}.json"), _json(dataclasses.asdict(part)))
        # At once: its files are several times as large as those of the rows that stay.
        fs.delete_folder(self.pending_uri(first, stop))
        return part

    def finish(self, rows: int) -> Summary:
        """Cuts the corpus at so many rows, and commits it."""
        files: list[tuple[str, int]] = []
        used: list[Range] = []
        said: list[Said] = []
        missing = rows
        for part in self.done():
            if not missing:
                break
            used.append(part)
            count = min(part.kept, missing)
            if not count:
                continue
            self._publish(part, count)
            files.append((data_path(part, count), count))
            said.append(part.said if count == part.kept else say_of(_read_table(self._data_uri(part, count))))
            missing -= count
        if missing:
            raise GenerationError(f"{self.uri}: {missing:,} rows are missing; give the command again")
        summary = Summary(
            rows,
            used[-1].stop,
            total(part.dropped for part in used),
            said_together(said),
            tuple(files),
            spec_digest(self.identity),
        )
        fs.write_bytes_atomic(fs.join(self.uri, "summary.json"), _json(dataclasses.asdict(summary)))
        self._remove_unlisted(summary)
        return summary

    def pending_uri(self, first: int, stop: int) -> str:
        """Where a range in progress keeps its files."""
        return fs.join(self.uri, "pending", range_name(first, stop))

    def _judge(self, table: pa.Table) -> NDArray[np.int64]:
        """Of each row the place among the flags of that for which it is dropped, or `STAYS`; reason_N."""
        reason_N = _reasons(table["flags"], self.filters.drop)
        first, stop = table["id"][0].as_py(), table["id"][-1].as_py() + 1
        for name in ACROSS_ROWS:
            if name not in self.filters.drop:
                continue
            # What is dropped already hides nothing; what this check drops does, in this range and in later ones alike.
            compared = np.flatnonzero(reason_N == STAYS)
            hash_NB = _hashes(table, HASH_COLUMNS[name])[compared]
            reason_N[compared[repeats(hash_NB, self._before(name, first))]] = FLAGS.index(name)
            _write_array(self._hash_uri(range_name(first, stop), name), np.unique(hash_NB))
        return reason_N

    def _before(self, name: str, first: int) -> list[Hashes]:
        """The hashes of a check of all rows before that id."""
        earlier = self._earlier.get(name, Earlier())
        if earlier.stop > first:
            earlier = Earlier()
        for part in self.done():
            if earlier.stop <= part.first and part.stop <= first:
                earlier.add(_read_array(self._hash_uri(part.name, name)), part.stop)
        self._earlier[name] = earlier
        return earlier.sorted_M

    def _rows(self, kept: pa.Table) -> pa.Table:
        """Rows of the schema `generated/2`, with where they come from."""
        schema, count = SCHEMAS["generated/2"], kept.num_rows
        said = {
            "seed": pa.array([self.identity["spec"]["seed"]] * count, pa.int64()),
            "model_sha256": pa.array([self.identity["model_sha256"]] * count, pa.string()),
            "spec_sha256": pa.array([spec_digest(self.identity)] * count, pa.string()),
            "is_synthetic": pa.array([True] * count, pa.bool_()),
        }
        kept = _with_text(kept, _short_strings(kept["text"]))
        columns = [said[field.name] if field.name in said else kept[field.name] for field in schema]
        return pa.Table.from_arrays(columns, schema=schema)

    def _publish(self, part: Range, count: int) -> None:
        """Writes the file with the first so many rows of the range, unless it is there."""
        if not fs.exists(self._data_uri(part, count)):
            whole = self._data_uri(part, part.kept)
            rows = _read_table(whole if fs.exists(whole) else self._spare_uri(part))
            if count < part.kept:
                write_table(self._spare_uri(part), rows)
            write_table(self._data_uri(part, count), rows.slice(0, count))

    def _remove_unlisted(self, summary: Summary) -> None:
        """Leaves the files of this corpus, and aside from them what a larger one needs."""
        listed = {path for path, _ in summary.files}
        for part in self.done():
            whole, spare = self._data_uri(part, part.kept), self._spare_uri(part)
            if data_path(part, part.kept) in listed:
                fs.delete_file(spare)
            elif fs.exists(whole) and not fs.exists(spare):
                write_table(spare, _read_table(whole))
        for path, _ in fs.list_files(fs.join(self.uri, "data")):
            if f"data/{path}" not in listed:
                fs.delete_file(fs.join(self.uri, "data", path))
        fs.delete_folder(fs.join(self.uri, "pending"))

    def _data_uri(self, part: Range, count: int) -> str:
        return fs.join(self.uri, data_path(part, count))

    def _spare_uri(self, part: Range) -> str:
        return fs.join(self.uri, "spare", f"{part.name}.parquet")

    def _hash_uri(self, name: str, flag: str) -> str:
        return fs.join(self.uri, "ranges", f"{name}-{flag}.npy")


def read_summary(uri: str) -> Summary:
    """The summary of a complete corpus. Raises ArtifactError where there is none."""
    return _parse(_SUMMARY, fs.join(uri, "summary.json"))


def read_corpus(uri: str) -> Iterator[pa.Table]:
    """The rows of a complete corpus, a file at a time, in the order of their ids."""
    for path, _ in read_summary(uri).files:
        yield _read_table(fs.join(uri, path))


def _reasons(flags: pa.ChunkedArray, drop: Sequence[str]) -> NDArray[np.int64]:
    """Of each row's flags the first that costs it its place, as a place among all flags; `STAYS` where none does."""
    lists = flags.combine_chunks()
    rank_of = np.array([place if name in drop else STAYS for place, name in enumerate(FLAGS)])
    rank_F = rank_of[pc.index_in(lists.flatten(), value_set=pa.array(FLAGS)).to_numpy()]
    reason_N = np.full(len(flags), STAYS)
    np.minimum.at(reason_N, pc.list_parent_indices(lists).to_numpy(), rank_F)
    return reason_N


def _counted(values: pa.Array | pa.ChunkedArray) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(values).to_pylist()}


def _with_text(table: pa.Table, text: pa.ChunkedArray) -> pa.Table:
    """The table with that text. A range's texts have more bytes together than the offsets of one array of plain
    strings can count, so while they are sorted and filtered they are large strings."""
    return table.set_column(table.schema.get_field_index("text"), "text", text)


def _short_strings(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Large strings as plain ones, in small chunks."""
    place_N, chunks = np.arange(len(text)), []
    for first in range(0, len(text), CHUNK_ROWS):
        # Taken, not sliced: a slice's offsets count from the first text of all.
        chunks += text.take(pa.array(place_N[first : first + CHUNK_ROWS])).cast(pa.string()).chunks
    return pa.chunked_array(chunks, pa.string())


def _hashes(table: pa.Table, column: str) -> Hashes:
    values = table[column].combine_chunks()
    if pa.types.is_list(values.type):
        width = len(values[0]) if len(values) else 1
        return np.asarray(values.flatten().to_numpy().reshape(len(values), width))
    return np.asarray(values.to_numpy()[:, None])


def _refuse_other(uri: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    changed = differing_keys(found, json.loads(json.dumps(wanted)))
    if changed:
        raise ConfigError(
            f"--store {uri} holds a corpus of other settings ({', '.join(changed[:3])}"
            f"{' and more' if len(changed) > 3 else ''}); give another --store, or the settings of its corpus.json"
        )


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, sort_keys=True) + "\n").encode()


def _read_json(uri: str) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(fs.read_bytes(uri))
    except FileNotFoundError:
        raise ArtifactError(f"{uri} is not there: no complete corpus; generate it first") from None
    except ValueError as error:
        raise ArtifactError(f"{uri} is torn ({error}); delete the corpus, and generate it again") from None
    return values


def _parse(kind: TypeAdapter[Any], uri: str) -> Any:
    try:
        return kind.validate_python(_read_json(uri))
    except ValidationError as error:
        fault = error.errors()[0]
        raise ArtifactError(
            f"{uri} is not what this version writes ({'.'.join(map(str, fault['loc']))}: {fault['msg']}); "
            "delete the corpus, and generate it again"
        ) from None


def _read_table(uri: str) -> pa.Table:
    filesystem, path = fs.resolve(uri)
    try:
        return pq.ParquetFile(path, filesystem=filesystem).read()
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(
            f"{uri} cannot be read ({str(error).splitlines()[0]}); delete the corpus, and generate it again"
        ) from None


def _write_array(uri: str, values: Hashes) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    fs.write_bytes_atomic(uri, buffer.getvalue())


def _read_array(uri: str) -> Hashes:
    try:
        return np.asarray(np.load(io.BytesIO(fs.read_bytes(uri)), allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise ArtifactError(f"{uri} cannot be read ({error}); delete the corpus, and generate it again") from None
