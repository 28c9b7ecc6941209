"""A user's own corpus on object storage, as JSONL with a byte-level vocabulary, into a store on object storage."""

import json
from collections.abc import Iterator

import boto3
import pytest

import davam
from davam.data import fs, grammar, source
from davam.data.artifacts import Store
from tests.programs import STAGES, actions, run
from tests.s3 import environment, fake_server

BUCKET = "s3://corpora"
TEXTS = [
    f"{text.capitalize()}  (no. {i}): «Ünïcode» 🙂" for i, text in enumerate(grammar.sample_sentences(900, seed=4))
]
ARGUMENTS = [
    *("--preset", "recommended,tiny,brief", "--workers", "2", "--store", f"{BUCKET}/store"),
    *("data.kind=files", f"data.train={BUCKET}/in/*.jsonl", "data.text_column=body", "data.max_tokens=100"),
    *("tokenizer.kind=bpe", "tokenizer.vocab_size=600", "model.codebook_size=64", "model.hidden_dim=64"),
    *("prior.hidden_dim=64", "stage_one.epochs=2", "stage_two.epochs=1", "samples.rows=20"),
]


@pytest.fixture(scope="module")
def bucket() -> Iterator[None]:
    with fake_server() as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(endpoint).items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="corpora")
        yield


@pytest.mark.slow
def test_jsonl_from_and_to_object_storage(bucket: None) -> None:
    lines = [json.dumps({"body": text, "n": 1}, ensure_ascii=bool(i % 2)) for i, text in enumerate(TEXTS)]
    fs.write_bytes_atomic(f"{BUCKET}/in/a.jsonl", "\n".join(lines[:500]).encode())
    fs.write_bytes_atomic(f"{BUCKET}/in/b.jsonl", "\n".join([*lines[500:], "", ""]).encode())
    built = run(*ARGUMENTS)
    assert built.returncode == 0, built.stderr
    assert "dropped 1 blank rows and 0 rows longer than data.max_tokens" in built.stderr
    store = Store(f"{BUCKET}/store")
    tokens = store.list_stage("tokens")[0]
    for split in source.SPLITS:
        rows = store.read_table(tokens, "tokens/1", split=split)["text"].to_pylist()
        assert sorted(rows) == sorted(text for text in TEXTS if source.split_by_hash(text, 0.05, 0.05) == split) != []
    model = davam.load(store.artifact_uri("stage_two", store.list_stage("stage_two")[0].fingerprint))
    assert model.tokenizer.decode(model.tokenizer.encode(TEXTS)) == TEXTS
    samples = store.read_table(store.list_stage("samples")[0], "samples/2").sort_by("id")
    assert model.sample(20).texts == samples["text"].to_pylist()
    again = run(*ARGUMENTS)
    assert actions(again.stderr) == dict.fromkeys(STAGES, "skip")
