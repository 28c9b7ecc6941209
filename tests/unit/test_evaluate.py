"""The measures of test sentences, by family: what is valid of them, and the paper's own formula of each row."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from davam.data import fs
from davam.data.artifacts import Manifest, Store, write_table
from davam.data.schemas import SCHEMAS
from davam.data.tokenizer import EOS_ID, UNK_ID
from davam.recipe import load_recipe
from pipelines.evaluate import known_measures, score_measures


def scores(**columns: list[Any]) -> pa.Table:
    """Two sentences of 3 and 5 tokens, with other columns in the place of these."""
    values = {
        "id": [0, 1],
        "num_tokens": [3, 5],
        "num_latents": [2, 4],
        "rec_nats": [6.0, 10.0],
        "kl_nats": [3.0, 9.0],
        "length_nats": [0.0, 0.0],
        "iw_nats": [7.0, 13.0],
        "posterior_mean": [[0.0, 1.0], [0.0, -1.0]],
        "posterior_logvar": [[0.0, 0.0], [0.0, 0.0]],
        "text": ["a b", "a b c d"],
        "reconstruction": ["a b", "a b c e"],
        "tokens_matched": [3, 4],
    }
    return pa.Table.from_pydict(values | columns, schema=SCHEMAS["scores/2"])


def measured(preset: str, **columns: list[Any]) -> dict[str, float]:
    return score_measures(scores(**columns), load_recipe([preset, "tiny"]))


REC, ELBO, IW = (math.exp(nats / 8) for nats in (16, 28, 20))
AVERAGED = math.exp((16 + 3 / 2 + 9 / 4) / 8)


@pytest.mark.parametrize(
    ("preset", "ppl_paper"),
    [
        ("lstm_lm", REC),
        ("vae", IW),
        ("gavam", REC),
        ("davam_q", REC),
        ("recommended", AVERAGED),
        ("paper", AVERAGED),
        ("vae_attn", None),
        ("dvae", None),
        ("daps", None),
        ("davam_class", None),
    ],
)
def test_the_papers_formula_of_every_row(preset: str, ppl_paper: float | None) -> None:
    found = measured(preset).get("ppl_paper")
    assert found == (None if ppl_paper is None else pytest.approx(ppl_paper))


@pytest.mark.parametrize(
    ("preset", "valid"),
    [
        ("lstm_lm", {"ppl_exact": REC}),
        ("davam_class", {"ppl_exact": ELBO}),
        ("davam_exact", {"ppl_exact": ELBO}),
        ("recommended", {"ppl_bound": ELBO}),
        ("davam_q", {"ppl_bound": ELBO}),
        ("vae", {"ppl_bound": ELBO, "ppl_iw": IW}),
        ("vae_attn", {"ppl_bound": ELBO, "ppl_iw": IW}),
        ("gavam", {"ppl_bound": ELBO, "ppl_iw": IW}),
        ("daps", {"ppl_bound": ELBO, "ppl_iw": IW}),
    ],
)
def test_valid_figures_pay_for_all_latents(preset: str, valid: dict[str, float]) -> None:
    found = measured(preset)
    names = {"ppl_exact", "ppl_bound", "ppl_iw"}
    assert {name: value for name, value in found.items() if name in names} == pytest.approx(valid)


def test_a_language_model_has_its_nats_alone() -> None:
    assert measured("lstm_lm") == pytest.approx({"nll_nats": 8.0, "ppl_exact": REC, "ppl_paper": REC})


def test_sums_are_of_sentences_and_shares_of_latents() -> None:
    found = measured("recommended")
    assert (found["rec_nats"], found["kl_nats_sum"]) == (8.0, 6.0)
    assert found["kl_nats_per_code"] == 12 / 6
    assert (found["free_running_accuracy"], found["free_running_exact"]) == (7 / 8, 1 / 2)


def test_what_pays_for_the_length_is_no_latents() -> None:
    found = measured("gavam", length_nats=[2.0, 4.0])
    assert (found["kl_nats_per_latent"], found["length_nats"], found["kl_nats_sum"]) == (1.0, 3.0, 6.0)


def test_a_single_latent_says_how_many_of_its_dimensions_move() -> None:
    found = measured("vae")
    assert found["active_units"] == 1
    assert found["latent_information_nats"] < math.log(2) + 0.5
    assert found["iw_nats"] == 10.0


def text(store: Store, **splits: list[list[int]]) -> Manifest:
    """A corpus of these words."""
    attempt = store.new_attempt("tokens", "tokens".ljust(64, "0"))
    for split, words in splits.items():
        rows = [
            {"id": place, "text": "", "tokens": [*row, EOS_ID], "length": len(row) + 1}
            for place, row in enumerate(words)
        ]
        uri = fs.join(attempt.uri, f"split={split}", "part.parquet")
        write_table(uri, pa.Table.from_pylist(rows, schema=SCHEMAS["tokens/1"]))
    return store.commit(attempt, version=1, recipe={}, inputs={}, counts={}, metrics={}, provenance={})


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("lstm_lm", {"ppl_exact_known": math.exp(6 / 3)}),
        ("recommended", {"ppl_bound_known": math.exp(9 / 3)}),
        ("vae", {"ppl_bound_known": math.exp(9 / 3), "ppl_iw_known": math.exp(7 / 3)}),
    ],
)
def test_words_that_no_training_can_know_are_left_out(tmp_path: Path, preset: str, expected: dict[str, float]) -> None:
    store, recipe = Store(str(tmp_path)), load_recipe([preset, "tiny"])
    attempt = store.new_attempt("evaluate", "evaluate".ljust(64, "0"))
    latents = {"kl_nats": [0.0, 0.0]} if preset == "lstm_lm" else {}
    write_table(fs.join(attempt.uri, "part.parquet"), scores(**latents))
    evaluated = store.commit(attempt, version=1, recipe={}, inputs={}, counts={}, metrics={}, provenance={})

    def found(**splits: list[list[int]]) -> dict[str, float]:
        return known_measures(store, text(store, **splits), evaluated, recipe)

    assert found(train=[[7, 8]], test=[[7, 9], [7, 7, UNK_ID, 8]]) == pytest.approx({"known_rate": 0.5} | expected)
    # Learned like any other word; of no account; and nothing else there.
    assert found(train=[[7], [UNK_ID]], test=[[7, 9], [7, 7, UNK_ID, 8]]) == {}
    assert found(train=[[7, 8]], test=[[7, 9], [7, 7, 9, 8]]) == {}
    assert found(train=[[7, 8]], test=[[UNK_ID, 9], [7, 7, UNK_ID, 8]]) == {}
