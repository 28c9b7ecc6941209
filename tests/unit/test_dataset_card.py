"""The dataset card: its header, its figures, and that the folder loads as a dataset."""

from pathlib import Path

import pandas as pd
import pytest
import yaml
from datasets import load_dataset

from davam.generation.card import copy_rates, dataset_card
from davam.generation.corpus import Corpus, Said, Summary, next_range, read_corpus
from davam.generation.held_out import CopyRates, copy_rates_of
from davam.generation.spec import Spec
from davam.quality.checks import Filters
from davam.quality.copies import CopyIndex
from tests.unit.test_corpus import candidates, identity

HELD_OUT = CopyRates(1000, 0.02, 0.05, 0.1, 3.5)


def test_the_card_says_what_the_corpus_is() -> None:
    said = Said({"copy": 30, "copied_run": 60}, {"a|b": 900, "calm": 100}, 9000, 2700)
    summary = Summary(900, 1000, {"duplicate": 50}, said, (("data/a.parquet", 900),), "d" * 64)
    of = Spec.model_validate({"sampling": {"decoder": {"top_p": 0.9}}}).identity("m" * 64, "t" * 64)
    card = dataset_card(summary, of, "s3://bucket/model", HELD_OUT)
    header = yaml.safe_load(card.split("---")[1])
    assert header["tags"] == ["synthetic", "davam"]
    assert header["size_categories"] == ["n<1K"]
    assert header["configs"][0]["data_files"][0]["path"] == ["data/a.parquet"]
    assert "| `duplicate` | 50 | 5.00% |" in card
    assert "| equal to a training text | 3.333% | 2.000% |" in card
    assert "| mean longest run, tokens | 3.00 | 3.50 |" in card
    assert "temperature 1.0, top_k 0, top_p 0.9" in card
    assert "| `a\\|b` | 900 | 100.00% |" in card
    assert copy_rates(summary).copied_tokens_mean == 3
    bare = dataset_card(summary, Spec().identity("m" * 64, None), "model", None)
    assert "Not known: the training text was not at hand." in bare


def test_rates_of_real_text() -> None:
    index = CopyIndex.build([[1, 2, 3], [4, 5]], ["a b c", "d e"])
    rates = copy_rates_of(index, [[1, 2, 3], [1, 2, 9], [7]], ["a b c", "a b x", "y"], Filters(max_copied_tokens=2))
    assert rates == CopyRates(3, pytest.approx(1 / 3), pytest.approx(1 / 3), pytest.approx(1 / 3), pytest.approx(5 / 3))


@pytest.mark.parametrize("rows", [40, 300])
def test_the_folder_loads_as_a_dataset(rows: int, tmp_path: Path) -> None:
    of = identity(drop=["copy"])
    corpus = Corpus(str(tmp_path / "corpus"), of)
    while (wanted := next_range(corpus.done(), rows, 256, drops=True)) is not None:
        corpus.close(*wanted, candidates(*wanted), rows)
    summary = corpus.finish(rows)
    (tmp_path / "corpus" / "README.md").write_text(dataset_card(summary, of, "model", HELD_OUT), "utf-8")
    ids = [row for table in read_corpus(corpus.uri) for row in table["id"].to_pylist()]
    loaded = load_dataset(str(tmp_path / "corpus"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["id"] == ids
    assert set(loaded["is_synthetic"]) == {True}
    plain = load_dataset(
        "parquet", data_files=f"{corpus.uri}/data/*.parquet", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert sorted(plain["id"]) == ids
    assert pd.read_parquet(tmp_path / "corpus" / "data").sort_values("id")["id"].tolist() == ids
