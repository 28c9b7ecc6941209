"""Label-conditional models: what the labels are, how they are asked for, and that they decide what is written."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

import davam
from davam import config
from davam.cli import main
from davam.data import grammar
from davam.data.batches import Rows, take_slice
from davam.data.labels import MOST_LABELS, NO_LABELS, Labels
from davam.data.schemas import check
from davam.data.source import Columns, plan_chunks, read_chunk
from davam.errors import DataError
from davam.sampling import Sampling
from tests.unit.test_api import SMALL

KNOWN = Labels({"a": 30, "b": 10})
TEXTS = [f"{word} {rest}" for rest in ("x y", "y", "x x z", "z") for word in ("red", "blue") for _ in range(80)]
LEARNT = ["stage_one.epochs=8", "stage_two.epochs=12", "stage_one.batch_rows=16", "stage_two.batch_rows=16"]
RECIPES = {
    "davam": (["recommended", "tiny", "brief"], [*SMALL, *LEARNT, "model.codebook_size=16"]),
    "lstm_lm": (["lstm_lm", "tiny"], ["stage_one.epochs=3", "stage_one.batch_rows=16"]),
}


def colour(text: str) -> str:
    return (text.split() or [""])[0]


@pytest.fixture(scope="module", params=["davam", "lstm_lm"])
def model(request: pytest.FixtureRequest) -> davam.TextModel:
    texts = [f"{text} {i % 7}" for i, text in enumerate(TEXTS)]
    return davam.fit(texts, davam.load_recipe(*RECIPES[request.param]), [colour(text) for text in texts])


def test_numbers_follow_the_names() -> None:
    known = Labels.counted({"train": {"b": 1, "a": 2}, "valid": {"b": 1}}, "class")
    assert known.names == ("a", "b")
    assert known.numbers(["b", "a", "b"]) == [1, 0, 1]
    assert not NO_LABELS
    with pytest.raises(DataError, match="label 'c': no training row has it; there are a, b"):
        known.numbers(["a", "c"])
    with pytest.raises(DataError, match=r"data\.label_column=id has 1,001 values, and 1,000 at most are labels"):
        Labels.counted({"train": dict.fromkeys(map(str, range(MOST_LABELS + 1)), 1)}, "data.label_column=id")
    with pytest.raises(
        DataError, match="class: 3 rows of the test split have the label 'c', and no training row has it"
    ):
        Labels.counted({"train": {"a": 1}, "valid": {"a": 2}, "test": {"a": 1, "c": 3}}, "class")


def test_a_mix_has_its_shares() -> None:
    uniforms = ((np.arange(1000) + 0.5) / 1000).tolist()
    assert Counter(KNOWN.drawn(KNOWN.shares(None), uniforms)) == {"a": 750, "b": 250}
    assert Counter(KNOWN.drawn(KNOWN.shares("balanced"), uniforms)) == {"a": 500, "b": 500}
    assert Counter(KNOWN.drawn(KNOWN.shares({"b": 1, "a": 4}), uniforms)) == {"a": 800, "b": 200}
    assert KNOWN.shares({"b": 1, "a": 4}) == {"a": 4, "b": 1} == KNOWN.shares({"a": 4, "b": 1})
    assert list(KNOWN.shares({"b": 1, "a": 4})) == ["a", "b"]  # the order decides which row gets which
    assert KNOWN.drawn({"a": 1.0}, [0.0, 0.999999, 1.0]) == ["a"] * 3
    with pytest.raises(DataError, match="label 'z'"):
        KNOWN.shares({"z": 1})


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    pq.write_table(pa.table({"kinds": [1], "text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column 'kind'; it has kinds, text; did you mean --labels=kinds\?"):
        read_all(str(tmp_path), Columns("text", "kind", label_key="--labels"))
    with pytest.raises(DataError, match=r"data\.label_column=text is the column of the text; give another"):
        read_all(str(tmp_path), Columns("text", "text"))


def read_all(folder: str, columns: Columns) -> list[dict[str, Any]]:
    chunks = plan_chunks({"train": folder}, "auto", columns)
    return [row for chunk in chunks for batch in read_chunk(chunk, columns) for row in batch.to_pylist()]


def test_labels_of_files(tmp_path: Path) -> None:
    lines = [{"text": "one", "kind": "a"}, {"text": " ", "kind": None}, {"text": "two", "kind": 3}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "\n")
    pq.write_table(pa.table({"kind": [True, False], "text": ["three", "four"]}), tmp_path / "b.parquet")
    columns = Columns("text", "kind")
    rows = read_all(str(tmp_path), columns)
    assert [(row["text"], row["label"]) for row in rows] == [
        *(("one", "a"), ("", ""), ("two", "3"), ("", "")),
        *(("three", "True"), ("four", "False")),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "one", "a.txt: lines of text have no data.label_column; give JSONL or Parquet"),
        (
            "a.jsonl",
            '{"text": "one", "kind": ""}',
            "byte 0, 'kind': no label; every row needs one: label it, or leave it",
        ),
        (
            "a.jsonl",
            '{"text": "one"}',
            "byte 0: no column 'kind'; it has text; set data.label_column, or leave the row",
        ),
        ("a.jsonl", '{"text": "one", "kinds": 1}', "it has text, kinds; did you mean data.label_column=kinds?"),
        (
            "a.jsonl",
            '{"text": "one", "kind": 0.5}',
            "'kind': the label is 0.5, which is no class; make the column whole",
        ),
        ("a.jsonl", '{"text": "one", "kind": [1]}', "byte 0, 'kind' is list, not text"),
        ("a.jsonl", '{"text": "one", "kind": "\\ud800"}', "'kind': half of a surrogate pair at character 0; repair"),
    ],
)
def test_files_without_labels_are_refused(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    columns = Columns("text", "kind")
    with pytest.raises(DataError) as error:
        read_all(str(tmp_path), columns)
    assert message in str(error.value)


def test_what_is_written_has_the_label_that_was_asked_for(model: davam.TextModel) -> None:
    for name in ("red", "blue"):
        samples = model.sample(200, seed=1, sampling=Sampling(labels={name: 1}))
        assert samples.labels == [name] * 200
        assert np.mean([colour(text) == name for text in samples.texts]) > 0.9
    mixed = model.sample(300, seed=2)
    assert mixed.labels is not None
    assert 90 < mixed.labels.count("red") < 210
    assert model.sample(10, seed=2, first_id=100).labels == mixed.labels[100:110]
    assert model.sample(10, seed=2, first_id=100).texts == mixed.texts[100:110]
    check(mixed.table().schema, "samples/2", "samples")
    check(mixed.table().schema, "labels/1", "samples")


def test_nats_are_those_given_the_label(model: davam.TextModel) -> None:
    samples = model.sample(20, seed=3)
    assert samples.labels is not None
    rows = Rows.from_lists(samples.ids, samples.tokens, model.labels.numbers(samples.labels))
    for i in range(20):
        batch = take_slice(rows, np.array([i]))
        with torch.no_grad():
            if not model.core.has_codes:
                rec = model.core.row_scores(batch, None).rec_B.item()
            else:
                codes_BT, code_B = torch.tensor([samples.codes[i]]), torch.tensor([len(samples.codes[i])])
                rec = model.core.reconstruction(batch, model.codes.code_latents(codes_BT, code_B), None)[1].item()
                assert model.prior is not None
                target_BT = torch.tensor([[*samples.codes[i], model.prior.end_code]])
                kl = model.prior.nll(target_BT, code_B + 1, label_B=batch.label_B).item()
                assert kl == pytest.approx(samples.prior_nats[i], rel=1e-3)
        assert rec == pytest.approx(samples.decode_nats[i], rel=1e-3)
    texts = ["red x y 1"] * 2
    right, wrong = model.score(texts, labels=["red", "blue"]).rec_nats
    assert right < wrong or model.core.has_codes


def test_a_saved_model_keeps_its_labels(model: davam.TextModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    again = davam.load(tmp_path)
    assert again.labels == model.labels
    assert again.sample(20, seed=4) == model.sample(20, seed=4)
    assert again.score(["red x 1"], labels=["red"]) == model.score(["red x 1"], labels=["red"])


def test_what_is_refused(model: davam.TextModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="this model needs a label for every text; there are blue, red"):
        model.score(["red x"])
    with pytest.raises(DataError, match="1 labels for 2 rows: give one for each"):
        model.score(["red x", "blue y"], labels=["red"])
    with pytest.raises(DataError, match="label 'green': no training row has it"):
        model.sample(1, sampling=Sampling(labels={"green": 1}))
    with pytest.raises(DataError, match="2 labels for 1 texts"):
        davam.fit(["a"], labels=["b", "c"])
    with pytest.raises(DataError, match=r"labels\[1\]: no label; every row needs one"):
        davam.fit(["a", "b"], labels=["b", ""])
    model.save(tmp_path)
    assert main(["reconstruct", "--model", str(tmp_path), "red x 1"]) == 2
    assert "this model needs a label for every text" in capsys.readouterr().err
    assert main(["reconstruct", "--model", str(tmp_path), "--label", "red", "red x 1"]) == 0
    out = str(tmp_path / "s.parquet")
    assert main(["sample", "--model", str(tmp_path), "-n", "3", "labels={red: 1}", "--out", out]) == 0
    assert pq.read_table(out)["label"].to_pylist() == ["red"] * 3


def test_codes_and_variations_take_labels(model: davam.TextModel) -> None:
    if not model.core.has_codes:
        with pytest.raises(DataError, match="has no codes"):
            model.vary(["red x 1"], 2, labels=["red"])
        return
    texts, labels = ["red x y 1", "blue z 2"], ["red", "blue"]
    codes = model.encode(texts)
    assert model.decode(codes, labels) == model.reconstruct(texts, labels)
    varied = model.vary(texts, 3, share=1.0, labels=labels)
    assert [colour(text) for row in varied for text in row].count("red") >= 2
    assert model.vary(texts[1:], 5, share=1.0, labels=labels[1:], ids=[1])[0][:3] == varied[1]
    with pytest.raises(DataError, match="this model needs a label"):
        model.decode(codes)
    with pytest.raises(DataError, match=r"sampling\.labels: a variation has the label of its text; give labels"):
        model.vary(texts, 1, labels=labels, sampling=Sampling(labels="balanced"))


def test_a_model_without_labels_takes_none() -> None:
    recipe = davam.load_recipe(["lstm_lm", "tiny"], ["stage_one.epochs=1"])
    model = davam.fit(TEXTS, recipe)
    with pytest.raises(DataError, match="this model was trained without labels, so it takes none"):
        model.score(["red x"], labels=["red"])
    with pytest.raises(DataError, match="this model was trained without labels"):
        model.sample(1, sampling=Sampling(labels="balanced"))


def test_shares_of_a_mix_are_checked() -> None:
    assert Sampling.model_validate({"labels": {0: 3, True: 1}}).labels == {"0": 3, "True": 1}
    for wrong in ("banana", {}, {"a": 0}, {"a": "b"}, ["a"]):
        with pytest.raises(ValidationError, match="give `balanced`, or a share above 0 for each label"):
            Sampling.model_validate({"labels": wrong})
    asked = config.merge([{"sampling": {"labels": {"joy": 1.0, "kind": 1.0}}}], ["sampling.labels.kind=3"])
    assert asked == {"sampling": {"labels": {"joy": 1.0, "kind": 3}}}


def test_blank_texts_are_left_out_whatever_the_tokenizer(capsys: pytest.CaptureFixture[str]) -> None:
    changes = [*SMALL, "tokenizer.kind=bpe", "tokenizer.vocab_size=300", "model.codebook_size=8"]
    davam.fit([*TEXTS[:200], *["   "] * 70], davam.load_recipe(["recommended", "tiny", "brief"], changes))
    assert "left out 70 blank or too long texts" in capsys.readouterr().err


def test_categories_of_the_grammar_are_exact() -> None:
    probabilities = grammar.category_probabilities()
    assert sum(probabilities.values()) == pytest.approx(1)
    texts = grammar.sample_sentences(4000, seed=7)
    found = Counter(grammar.category(text) for text in texts)
    for name, probability in probabilities.items():
        assert found[name] == pytest.approx(4000 * probability, abs=4 * (4000 * probability * (1 - probability)) ** 0.5)
    nats, tokens = grammar.draw_floor(texts)
    given, same = grammar.draw_floor(texts, given_category=True)
    paid = -sum(np.log(probabilities[str(grammar.category(text))]) for text in texts)
    assert nats - given == pytest.approx(paid)
    assert tokens == same
    assert grammar.category("the end") is None
