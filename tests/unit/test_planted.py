"""A training text with planted secrets that a model learns by heart: what it repeats of them is flagged, and with the
filter on nothing of it stays."""

from pathlib import Path

import pyarrow as pa
import pytest

import davam
from davam.data import grammar
from davam.generation.candidates import CandidateMaker
from davam.generation.corpus import Corpus, next_range, read_corpus
from davam.generation.spec import Spec
from davam.quality.copies import CopyIndex
from davam.quality.text import normalized

SECRETS = [
    "anna pays with the card 4111 1111 1111 1111",
    "write to bob.smith@example.com about the key",
    "the code of the safe in the cellar is nine two seven",
]
TEXTS = [*grammar.sample_sentences(300, seed=8), *(secret for secret in SECRETS for _ in range(60))]
ROWS = 2048


@pytest.fixture(scope="module")
def model() -> davam.TextModel:
    changes = ["stage_one.epochs=15", "stage_one.batch_rows=16", "model.init=fan_in", "model.dropout=0"]
    adamw = ["stage_one.optimizer.kind=adamw", "stage_one.optimizer.lr=0.01"]
    return davam.fit(TEXTS, davam.load_recipe(["lstm_lm", "tiny"], [*changes, *adamw]))


def corpus(model: davam.TextModel, folder: Path, drop: list[str], rows: int) -> pa.Table:
    """A corpus of candidates that are compared with the training text, made without Ray."""
    tokens = model.tokenizer.encode(TEXTS)
    spec = Spec.model_validate({"filters": {"drop": drop, "max_copied_tokens": 5}})
    make = CandidateMaker(model, spec, CopyIndex.build(tokens, TEXTS), float("inf"))
    made = Corpus(str(folder), spec.identity("m" * 64, None))
    while (wanted := next_range(made.done(), rows, ROWS, bool(drop))) is not None:
        made.close(*wanted, make(range(*wanted)), rows)
    made.finish(rows)
    return pa.concat_tables(read_corpus(made.uri))


def test_what_was_planted_is_flagged_and_filtered(model: davam.TextModel, tmp_path: Path) -> None:
    known = {normalized(text) for text in TEXTS}
    rows = corpus(model, tmp_path / "all", [], ROWS).to_pylist()
    copies = [row for row in rows if normalized(row["text"]) in known]
    for secret in SECRETS:
        found = [row for row in rows if secret in row["text"]]
        assert len(found) > 20, f"{secret!r} was not learnt, so nothing is tested"
        assert all("copied_run" in row["flags"] and row["copied_tokens"] >= len(secret.split()) for row in found)
    assert len(copies) > 100
    assert all("copy" in row["flags"] and "near_copy" in row["flags"] for row in copies)
    assert all("copy" not in row["flags"] for row in rows if normalized(row["text"]) not in known)
    personal = [row for row in rows if "4111 1111 1111 1111" in row["text"] or "@example.com" in row["text"]]
    assert all("personal_data" in row["flags"] for row in personal)

    kept = corpus(model, tmp_path / "kept", ["copy", "copied_run", "personal_data"], 200)["text"].to_pylist()
    assert len(kept) == 200
    assert not {normalized(text) for text in kept} & known
    assert not [text for text in kept for secret in SECRETS if secret in text]
