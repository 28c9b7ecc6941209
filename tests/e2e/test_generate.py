"""Large corpora as their user makes them: the same rows however they are made, and errors that say what to do."""

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

import davam
from davam.data.schemas import SCHEMAS, check
from davam.generation.corpus import read_corpus, read_summary
from davam.quality.text import normalized
from pipelines.generate import generate, parsed
from pipelines.stage import guarded
from tests.programs import kill_actor, killed, run, started

DROP = ("filters.drop=[repetitive,copy,duplicate]", "filters.max_repeated_share=0.05")
Built = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def model(built: Built) -> str:
    return str(next((built[0] / "runs").iterdir()))


@pytest.fixture(scope="module")
def corpus(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    done = run("--model", model, "--store", str(folder), "--rows", "900", *DROP, script="generate")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "rows 900"
    assert "dropped_repetitive" in done.stdout
    return folder


def rows_of(folder: Path) -> pa.Table:
    return pa.concat_tables(read_corpus(str(folder)))


def test_rows_are_whole_and_say_where_they_come_from(corpus: Path, built: Built) -> None:
    table = rows_of(corpus)
    check(table.schema, "generated/2", "the corpus")
    assert table.num_rows == 900 == read_summary(str(corpus)).rows
    texts = [normalized(text) for text in table["text"].to_pylist()]
    assert len(set(texts)) == 900
    tokens = davam.data.artifacts.Store(str(built[0]))
    train = tokens.read_table(tokens.list_stage("tokens")[0], "tokens/1", split="train")["text"].to_pylist()
    assert not set(texts) & {normalized(text) for text in train}
    assert len(set(table["model_sha256"].to_pylist())) == 1
    card = (corpus / "README.md").read_text("utf-8")
    assert "# Synthetic sentences, 900" in card
    assert "real text that the model has not seen (100 rows)" in card


def test_rows_are_those_of_the_library(corpus: Path, model: str) -> None:
    table = rows_of(corpus)
    ids = table["id"].to_pylist()[:50]
    assert davam.load(model).sample_ids(ids, seed=0).texts == table["text"].to_pylist()[:50]


def test_workers_ranges_growth_and_kills_change_nothing(corpus: Path, model: str, tmp_path: Path) -> None:
    arguments = ["--model", model, "--store", str(tmp_path), "--workers", "2", "--range-rows", "700", *DROP]
    killed("generate", [*arguments, "--rows", "400"], lambda: list(tmp_path.glob("pending/*/checkpoint/*.parquet")))
    done = run(*arguments, "--rows", "400", script="generate")
    assert done.returncode == 0, done.stderr

    grown = [*arguments, "--rows", "900"]
    process = started("generate", grown, lambda: list(tmp_path.glob("pending/*/candidates/*.parquet")))
    assert kill_actor(process.pid, random.Random(0))
    _, talk = process.communicate(timeout=200)
    assert process.returncode == 0, talk
    assert rows_of(tmp_path).equals(rows_of(corpus))
    assert run(*grown, script="generate").returncode == 0
    assert rows_of(tmp_path).equals(rows_of(corpus))


def exit_code(arguments: Sequence[str]) -> int:
    """That of the program, in this process: for what is refused before any other starts."""
    try:
        options = parsed(arguments)
    except SystemExit as stop:
        return int(str(stop.code))
    return guarded(lambda: generate(options))


def test_what_is_refused_before_any_work(
    corpus: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "model"
    davam.load(model).save(bare)
    for arguments, message in (
        (["--model", model, "--rows", "0"], "--rows 0: give 1 to 10,000,000,000"),
        (["--model", model, "--rows", "many"], "invalid int value: 'many'"),
        (["--model", model, "--rows", "5", "--model-sha256", "beef"], "not beef; it is another model"),
        (["--model", model, "--rows", "5", "filters.drop=[copies]"], "filters.drop.0='copies': input should be"),
        (["--model", model, "--rows", "5", "sampling.prior.top_q=1"], "unknown key; did you mean top_"),
        (["--model", model, "--rows", "5", "sampling.max_length=99"], "max_length=99: this model generates 1 to 32"),
        (["--model", str(bare), "--rows", "5", *DROP], "filters.drop names copy, but the model's training text"),
        (["--model", model, "--rows", "5", "--training-text", str(bare)], "no `tokens` artifact; give one, or none"),
        (["--model", model, "--rows", "5", "--store", str(corpus)], "holds a corpus of other settings (spec.filters"),
    ):
        assert exit_code(["--store", str(tmp_path / "out"), *arguments]) == 2, arguments
        assert message in capsys.readouterr().err
    assert exit_code(["--store", str(tmp_path / "out"), "--model", "no/such", "--rows", "5"]) == 1
    assert "no/such: no model here" in capsys.readouterr().err


@pytest.mark.slow
def test_a_filter_that_rejects_everything_stops_and_is_named(model: str, tmp_path: Path) -> None:
    arguments = ["--model", model, "--store", str(tmp_path), "--rows", "500", "filters.min_tokens=90"]
    done = run(*arguments, "filters.drop=[too_short]", "--workers", "2", script="generate")
    assert done.returncode == 1
    assert "candidates stay, and" in done.stderr
    assert "are dropped as `too_short`: loosen its threshold, or leave it out of filters.drop" in done.stderr
    assert SCHEMAS["generated/2"].metadata == {b"davam.schema": b"generated/2"}
