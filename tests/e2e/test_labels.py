"""A corpus with labels as its user has it: JSONL in, a conditional model, and new rows of the label asked for."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import davam
from davam.data import grammar
from davam.data.artifacts import Store
from davam.generation.corpus import read_corpus, read_summary
from tests.programs import SMALL, run

pytestmark = pytest.mark.slow

SETTINGS = [
    *("--preset", "recommended,tiny,brief", "--workers", "1"),
    *("data.kind=files", "data.text_column=body", "data.label_column=kind", "data.max_tokens=32"),
    *[setting for setting in SMALL if not setting.startswith("data.")],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("labelled")
    texts = grammar.sample_sentences(900, seed=6)
    lines = [json.dumps({"body": text, "kind": grammar.category(text)}) for text in texts]
    (made / "corpus.jsonl").write_text("\n".join(lines))
    (made / "rare.jsonl").write_text("\n".join(line for line in lines[:40] if '"woman"' in line))
    built = run("--store", str(made / "store"), *SETTINGS, f"data.train={made}/corpus.jsonl")
    assert built.returncode == 0, built.stderr
    return made


def model_of(folder: Path) -> str:
    return str(next((folder / "store" / "runs").iterdir()))


def test_labels_go_with_the_rows_through_every_stage(folder: Path) -> None:
    store = Store(str(folder / "store"))
    for stage in ("tokens", "codes"):
        manifest = store.list_stage(stage)[0]
        labels = store.read_table(manifest, "labels/1")
        assert set(labels["label"].to_pylist()) == {"man", "woman", "person", "animal"}
    samples = store.list_stage("samples")[0]
    texts = store.read_table(samples, "samples/2").sort_by("id")["text"].to_pylist()
    drawn = davam.load(model_of(folder)).sample(len(texts))
    assert texts == drawn.texts
    assert store.read_table(samples, "labels/1").sort_by("id")["label"].to_pylist() == drawn.labels


def test_rows_of_the_label_asked_for(folder: Path) -> None:
    model, out = model_of(folder), str(folder / "out")
    done = run("--model", model, "--rows", "300", "--store", out, "--label", "animal", script="generate")
    assert done.returncode == 0, done.stderr
    table = pa.concat_tables(read_corpus(out))
    assert set(table["label"].to_pylist()) == {"animal"}
    assert read_summary(out).said.labels == {"animal": 300}
    assert "| `animal` | 300 | 100.00% |" in (folder / "out" / "README.md").read_text("utf-8")
    refused = run("--model", model, "--rows", "9", "--store", out + "2", "--label", "plant", script="generate")
    assert refused.returncode == 2
    assert "label 'plant': no training row has it; there are animal, man, person, woman" in refused.stderr


@pytest.mark.slow
def test_variations_of_rare_rows(folder: Path) -> None:
    given = ["--model", model_of(folder), "--data", f"{folder}/rare.jsonl", "--store", f"{folder}/varied"]
    given += ["--text-column", "body", "n=3", "share=0.5"]
    refused = run(*given, script="vary")
    assert refused.returncode == 2
    assert "this model needs a label for every text; give --label-column (animal, man, person, woman)" in refused.stderr
    done = run(*given, "--label-column", "kind", script="vary")
    assert done.returncode == 0, done.stderr
    place = done.stdout.split()[-1]
    rows = Store(f"{folder}/varied").list_stage("vary")[0]
    table = (
        Store(f"{folder}/varied")
        .read_table(rows, "varied/1")
        .sort_by([("id", "ascending"), ("variation", "ascending")])
    )
    texts = list(dict.fromkeys(table["given"].to_pylist()))
    ids = list(dict.fromkeys(table["id"].to_pylist()))
    varied = davam.load(model_of(folder)).vary(texts, 3, share=0.5, labels=["woman"] * len(texts), ids=ids)
    assert table["text"].to_pylist() == [text for row in varied for text in row]
    assert set(table["is_synthetic"].to_pylist()) == {True}
    again = run(*given, "--label-column", "kind", script="vary")
    assert "vary  skip" in again.stderr
    assert again.stdout.split()[-1] == place
    assert pq.read_table(next(Path(place).rglob("*.parquet"))).num_rows <= table.num_rows
