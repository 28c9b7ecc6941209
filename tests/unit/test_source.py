"""A user's files: every line once whatever the cuts, and a message for each thing that can be wrong."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from davam.data.source import Chunk, Columns, content_digest, expand, plan_chunks, read_chunk, split_by_hash
from davam.errors import DataError


def rows_of(chunks: list[Chunk], column: str = "text") -> list[tuple[int, str]]:
    """All (id, text) pairs of the chunks."""
    return [
        (row["id"], row["text"])
        for chunk in chunks
        for batch in read_chunk(chunk, Columns(column))
        for row in batch.to_pylist()
    ]


TEXT = Columns("text")
LINE = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=8)


@given(lines=st.lists(LINE, min_size=1, max_size=12), cut=st.integers(1, 40), last=st.booleans())
def test_any_cut_gives_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], cut: int, last: bool
) -> None:
    path = tmp_path_factory.mktemp("source") / "corpus.txt"
    data = "\n".join(lines) + ("\n" if last else "")
    if not data:
        return
    path.write_bytes(data.encode())
    whole = rows_of(plan_chunks({"train": str(path)}, "text", TEXT))
    assert rows_of(plan_chunks({"train": str(path)}, "text", TEXT, chunk_bytes=cut)) == whole
    assert len({row for row, _ in whole}) == len(whole)
    expected = data.removeprefix("\ufeff").split("\n")
    expected = expected[:-1] if expected[-1] == "" else expected
    texts = [line.removesuffix("\r") for line in expected]
    assert [text for _, text in whole] == [text if text.strip() else "" for text in texts]


def test_jsonl_and_parquet_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "one two"}\n\n{"body": null}\n')
    pq.write_table(pa.table({"body": ["three", "four"]}), tmp_path / "b.parquet")
    chunks = plan_chunks({"train": str(tmp_path)}, "auto", Columns("body"))
    assert [text for _, text in rows_of(chunks, "body")] == ["one two", "", "", "three", "four"]


def test_folders_globs_and_digests(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "_skip.txt", ".hidden.txt"):
        (tmp_path / name).write_text(f"{name}\n")
    chunks = plan_chunks({"train": f"{tmp_path}/*.txt", "valid": f"{tmp_path}/a.txt", "test": None}, "auto", TEXT)
    assert [(Path(chunk.uri).name, chunk.split) for chunk in chunks] == [
        ("a.txt", "train"),
        ("b.txt", "train"),
        ("a.txt", "valid"),
    ]
    before = content_digest(chunks)
    (tmp_path / "b.txt").write_text("c.txt\n")
    assert content_digest(chunks) != before


def test_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\nnot json\n')
    (tmp_path / "number.jsonl").write_text('{"text": 3}\n')
    (tmp_path / "other.jsonl").write_text('{"texts": "x"}\n')
    (tmp_path / "latin.txt").write_bytes(b"ok\nna\xefve\n")
    pq.write_table(pa.table({"sentence": ["x"]}), tmp_path / "c.parquet")
    for name, message in {
        "nothing.txt": "nothing.txt: no such file, folder or glob; check data.root",
        "empty.txt": "empty.txt: the file is empty; give a file with one sentence a line",
        "torn.parquet": r"torn.parquet: not a complete Parquet file \(.*\); write it again",
        "c.parquet": "c.parquet: no column 'text'; it has sentence; set data.text_column",
        "bad.jsonl": r"bad.jsonl: not JSON at byte 17 \(.*\); JSONL has one object a line",
        "number.jsonl": "number.jsonl, byte 0: 'text' is int, not text; set data.text_column",
        "other.jsonl": "other.jsonl, byte 0: no column 'text'; it has texts; did you mean data.text_column=texts?",
        "latin.txt": r"latin.txt: not UTF-8 at byte 5 \(.*\); convert it, e.g. iconv -f latin1 -t utf-8",
    }.items():
        with pytest.raises(DataError, match=message):
            rows_of(plan_chunks({"train": str(tmp_path / name)}, "auto", TEXT))


@given(st.text())
def test_the_split_of_a_text_ignores_its_spaces(text: str) -> None:
    assert split_by_hash(text, 0.3, 0.3) == split_by_hash(f"  {text}\t", 0.3, 0.3)
    assert split_by_hash(text, 0, 0) == "train"


def test_the_shares_are_kept() -> None:
    splits = [split_by_hash(f"sentence {i}", 0.2, 0.1) for i in range(4000)]
    assert splits.count("valid") / 4000 == pytest.approx(0.2, abs=0.03)
    assert splits.count("test") / 4000 == pytest.approx(0.1, abs=0.03)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.txt", "b.txt", "c.jsonl", "sub/a.txt", "sub/deep/d.txt", ".git/x.txt", "_tmp/y.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x\n")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ["a.txt", "b.txt", "c.jsonl", "sub/a.txt", "sub/deep/d.txt"]),
        ("*.txt", ["a.txt", "b.txt"]),
        ("?.jsonl", ["c.jsonl"]),
        ("[ab].txt", ["a.txt", "b.txt"]),
        ("*/a.txt", ["sub/a.txt"]),
        ("**/*.txt", ["a.txt", "b.txt", "sub/a.txt", "sub/deep/d.txt"]),
        ("sub", ["sub/a.txt", "sub/deep/d.txt"]),
        ("_tmp/y.txt", ["_tmp/y.txt"]),
    ],
)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_which_files_a_pattern_means(tree: Path, scheme: str, pattern: str, names: list[str]) -> None:
    found = expand(f"{scheme}{tree}/{pattern}" if pattern else f"{scheme}{tree}")
    assert found == [f"{scheme}{tree}/{name}" for name in names]


def test_a_misspelt_path_is_refused_without_a_listing_of_what_lies_beside_it(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_listing(*given: object, **more: object) -> None:
        raise AssertionError("listed")

    monkeypatch.setattr("davam.data.source.arrow_fs.FileSelector", no_listing)
    with pytest.raises(DataError) as caught:
        expand(f"{tree}/sbu")
    assert str(caught.value) == (
        f"{tree}/sbu: no such file, folder or glob; check data.root and data.train, data.valid, data.test, or --data"
    )


def test_line_ends_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\n \t\ntw\ro\nend\r")
    rows = rows_of(plan_chunks({"train": str(tmp_path / "a.txt")}, "auto", TEXT))
    assert rows == [(0, "one"), (8, ""), (10, ""), (13, "tw\ro"), (18, "end")]


def test_a_byte_order_mark_does_not_hide_json(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\n')
    assert rows_of(plan_chunks({"train": str(tmp_path)}, "auto", TEXT)) == [(0, "one")]


def test_bytes_are_counted_from_the_files_begin(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfab\xff\n")
    with pytest.raises(DataError, match="not UTF-8 at byte 5 "):
        rows_of(plan_chunks({"train": str(tmp_path)}, "auto", TEXT))


def test_a_damaged_page_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"sentence {i}" for i in range(5000)]}), path)
    content = bytearray(path.read_bytes())
    content[200:1200] = b"\xff" * 1000
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        rows_of(plan_chunks({"train": str(path)}, "auto", TEXT))
    assert str(caught.value).startswith(f"{path}: not a complete Parquet file (")
    assert str(caught.value).endswith("; write it again")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1]", "{path}, byte 0: no column 'text'; it has none; set data.text_column"),
        (b"{}", "{path}, byte 0: no column 'text'; it has none; set data.text_column"),
        (b'{"text": ["a"]}', "{path}, byte 0: 'text' is list, not text; set data.text_column"),
        (
            b'{"text": "a\\ud83d"}',
            "{path}, byte 0: half of a surrogate pair at character 1; repair the escape",
        ),
    ],
)
def test_json_that_holds_no_text(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(DataError) as caught:
        rows_of(plan_chunks({"train": str(path)}, "auto", TEXT))
    assert str(caught.value) == message.format(path=path)


def test_json_nested_too_deep(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"[" * 200_000 + b"\n")
    with pytest.raises(DataError, match=r"a\.jsonl: not JSON at byte 0 \(.*\); JSONL has one object a line"):
        rows_of(plan_chunks({"train": str(tmp_path)}, "auto", TEXT))


def test_batches_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n" * 10_000)
    (chunk,) = plan_chunks({"train": str(tmp_path)}, "auto", TEXT)
    assert [batch.num_rows for batch in read_chunk(chunk, TEXT)] == [4096, 4096, 1808]


def test_a_line_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    long = "é" * (3 << 19)
    (tmp_path / "a.txt").write_text(f"a\n{long}\nb\n")
    rows = rows_of(plan_chunks({"train": str(tmp_path)}, "auto", TEXT, chunk_bytes=1 << 20))
    assert [text for _, text in rows] == ["a", long, "b"]


def test_a_digest_sees_splits_order_and_borders(tmp_path: Path) -> None:
    for name, text in {"a": "x\ny\n", "b": "z\n", "c": "x\n", "d": "y\nz\n"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    plans = [
        plan_chunks({split: f"{tmp_path}/[{names}].txt" for split, names in given.items()}, "auto", TEXT)
        for given in ({"train": "ab"}, {"train": "cd"}, {"train": "a", "valid": "b"}, {"train": "b", "valid": "a"})
    ]
    assert len({content_digest(plan) for plan in plans}) == 4
    finer = plan_chunks({"train": f"{tmp_path}/[ab].txt"}, "auto", TEXT, chunk_bytes=1)
    assert content_digest(finer) == content_digest(plans[0])


def test_no_content_imitates_a_border_between_files(tmp_path: Path) -> None:
    corpora = {"files": [b"x", b"y"], "one": [b"x\0Noney"], "two": [b"x\0None\0y"]}
    digests = set()
    for name, contents in corpora.items():
        (tmp_path / name).mkdir()
        for number, content in enumerate(contents):
            (tmp_path / name / f"{number}.txt").write_bytes(content)
        digests.add(content_digest(plan_chunks({"train": str(tmp_path / name)}, "auto", TEXT)))
    assert len(digests) == 3
