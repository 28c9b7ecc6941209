"""However a corpus is cut into files and pieces, its rows and their ids stay the same."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from davam.data.source import OFFSET_BITS, Columns, content_digest, plan_chunks, read_chunk

# Every character that Python's splitlines would cut at, among ordinary ones of one to four bytes.
TEXT = Columns("text")
SEPARATORS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
LINE = st.text(st.sampled_from(f"ab é字😀\ufeff\0\t{SEPARATORS}"), max_size=9)
CORPUS = st.lists(st.lists(LINE, min_size=1, max_size=8), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpus")


def rows(folder: Path, suffix: str, chunk_bytes: int) -> list[tuple[int, str]]:
    """All (id, text), in the order of the pieces."""
    chunks = plan_chunks({"train": f"{folder}/*.{suffix}"}, "auto", TEXT, chunk_bytes)
    batches = [batch for chunk in chunks for batch in read_chunk(chunk, TEXT)]
    return [(row["id"], row["text"]) for batch in batches for row in batch.to_pylist()]


def write(folder: Path, suffix: str, files: list[bytes]) -> None:
    for old in folder.iterdir():
        old.unlink()
    for number, content in enumerate(files):
        (folder / f"{number}.{suffix}").write_bytes(content)


def blanked(text: str) -> str:
    return text if text.strip() else ""


@given(CORPUS, st.integers(1, 50), st.sampled_from(["\n", "\r\n"]))
def test_text(folder: Path, corpus: list[list[str]], chunk_bytes: int, end: str) -> None:
    write(folder, "txt", ["".join(line + end for line in lines).encode() for lines in corpus])
    expected = []
    for number, lines in enumerate(corpus):
        place = 0
        for index, line in enumerate(lines):
            text = line.removeprefix("\ufeff") if index == 0 else line
            cut = text.removesuffix("\r") if end == "\n" else text
            expected.append((number << OFFSET_BITS | place, blanked(cut)))
            place += len((line + end).encode())
    assert rows(folder, "txt", chunk_bytes) == expected
    assert rows(folder, "txt", 1 << 20) == expected


@given(CORPUS, st.integers(1, 50), st.booleans())
def test_jsonl(folder: Path, corpus: list[list[str]], chunk_bytes: int, ascii_only: bool) -> None:
    files = [
        "".join(json.dumps({"n": 1, "text": line}, ensure_ascii=ascii_only) + "\n" for line in lines)
        for lines in corpus
    ]
    write(folder, "jsonl", [text.encode() for text in files])
    found = rows(folder, "jsonl", chunk_bytes)
    assert [text for _, text in found] == [blanked(line) for lines in corpus for line in lines]
    assert len({row for row, _ in found}) == len(found)
    assert found == rows(folder, "jsonl", 1 << 20)


@given(CORPUS, st.integers(1, 5))
def test_parquet(folder: Path, corpus: list[list[str]], group: int) -> None:
    write(folder, "parquet", [])
    for number, lines in enumerate(corpus):
        pq.write_table(pa.table({"text": lines}), folder / f"{number}.parquet", row_group_size=group)
    assert rows(folder, "parquet", 1) == [
        (number << OFFSET_BITS | place, blanked(line))
        for number, lines in enumerate(corpus)
        for place, line in enumerate(lines)
    ]


@given(CORPUS, st.integers(1, 50), st.data())
def test_one_other_byte_is_another_corpus(
    folder: Path, corpus: list[list[str]], chunk_bytes: int, data: st.DataObject
) -> None:
    files = ["".join(f"{line}\n" for line in lines).encode() for lines in corpus]

    def digest() -> str:
        write(folder, "txt", files)
        return content_digest(plan_chunks({"train": f"{folder}/*.txt"}, "auto", TEXT, chunk_bytes))

    before = digest()
    number = data.draw(st.integers(0, len(files) - 1))
    place = data.draw(st.integers(0, len(files[number]) - 1))
    changed = bytearray(files[number])
    changed[place] ^= data.draw(st.integers(1, 255))
    files[number] = bytes(changed)
    assert digest() != before
