"""Generated text stays text in every form in which it leaves."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pytest

from davam.cli import main
from davam.generation.corpus import Corpus, read_corpus
from tests.unit.test_corpus import candidates, identity

HARSH = ["=1+1", "+a", "-b", "@c", "\ttab", "line\nbreak\r\n", 'quo"te,', "<script>alert(1)</script>"]
HARSH += ["\x00\x1b[31m\u2028", "é𝄞 ا", "x" * 100_000, ""]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = candidates(0, len(HARSH))
    rows = rows.set_column(1, rows.schema.field("text"), pa.array(HARSH))
    made = Corpus(str(tmp_path / "corpus"), identity())
    made.close(0, len(HARSH), rows, len(HARSH))
    made.finish(len(HARSH))
    return tmp_path / "corpus"


def test_parquet_and_jsonl_give_back_every_character(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert next(read_corpus(str(corpus)))["text"].to_pylist() == HARSH
    assert main(["export", str(corpus)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.split("\n")[:-1]]
    assert [row["text"] for row in rows] == HARSH
    assert rows[3]["codes"] == candidates(3, 4)["codes"][0].as_py()


def test_csv_holds_no_formula(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "corpus.csv"
    assert main(["export", str(corpus), "--format", "csv", "--out", str(out)]) == 0
    csv.field_size_limit(1 << 20)
    with out.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    texts = [row["text"] for row in rows]
    assert texts[:5] == ["'=1+1", "'+a", "'-b", "'@c", "'\ttab"]
    assert texts[5:] == HARSH[5:]
    assert json.loads(rows[0]["codes"]) == candidates(0, 1)["codes"][0].as_py()


def test_a_corpus_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path)]) == 1
    assert "no complete corpus; generate it first" in capsys.readouterr().err
