"""Trials, their order and the pages of a sweep."""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from davam.data.artifacts import Store, write_table
from davam.data.batches import Rows, take_slice
from davam.data.schemas import SCHEMAS, check
from davam.errors import ConfigError
from davam.evaluate import sweep as results
from davam.evaluate.page import html, markdown
from davam.evaluate.sweep import Sweep, Trial
from davam.families import build_family
from davam.families.davam import DavamConfig
from davam.families.davam_q import DavamQConfig
from davam.families.gavam import GavamConfig
from davam.families.lstm_lm import LstmLmConfig
from davam.families.vae_attn import VaeAttn
from davam.recipe import load_recipe
from davam.train import comm
from davam.train.history import read_history, run_name, write_history
from davam.train.selection import epoch_nats
from pipelines.evaluate import EVALUATE
from pipelines.selection import SELECTION, flat_codes, text_measures
from pipelines.sweep import (
    KL_DYNAMICS,
    axes,
    check_metric,
    dynamics_of,
    grace_epochs,
    length_nats,
    open_trials,
    parsed,
    reason,
    split_values,
    state,
    stop_uri,
    sweep_uri,
    without_shared_training,
)
from tests.stores import commit


def options(store: Path | str, *given: str) -> argparse.Namespace:
    return parsed(["--store", str(store), *given])


def test_values_are_split_between_brackets_only() -> None:
    assert split_values("1, 2,3") == ["1", "2", "3"]
    assert split_values("gavam,[vae,anneal]") == ["gavam", "[vae,anneal]"]
    assert split_values("{kind: sgd, lr: 1},{kind: adamw, lr: [1,2]}") == [
        "{kind: sgd, lr: 1}",
        "{kind: adamw, lr: [1,2]}",
    ]


def test_axes_that_cannot_be_read_say_how_they_are_written() -> None:
    for grid in ("model.codebook_size", "=1,2", "model.codebook_size=", "model.codebook_size=1,,2"):
        with pytest.raises(ConfigError, match=r"^--grid .*: written KEY=VALUE,VALUE,..., e.g. --grid model.codebook_"):
            axes([grid])
    with pytest.raises(ConfigError, match=r"^nothing to sweep: give --grid KEY=VALUE"):
        axes([])
    with pytest.raises(ConfigError, match=r"^--grid seed is given twice; give all its values in one$"):
        axes(["seed=1,2", "seed=3"])


def test_trials_are_the_product_and_runs_of_their_own() -> None:
    grid = ["--grid", "model.codebook_size=8,16", "--grid", "model.beta_max=0.25,1"]
    trials = open_trials(options("/s", *grid, "model.code_dim=8"))
    assert [trial.name for trial in trials] == [
        "codebook_size=8 beta_max=0.25",
        "codebook_size=8 beta_max=1",
        "codebook_size=16 beta_max=0.25",
        "codebook_size=16 beta_max=1",
    ]
    assert [trial.run.recipe.plain()["model"]["codebook_size"] for trial in trials] == [8, 8, 16, 16]
    assert trials[1].run.arguments[-3:] == ("model.code_dim=8", "model.codebook_size=8", "model.beta_max=1")
    again = load_recipe(["recommended", "tiny", "brief"], trials[1].run.arguments[-3:])
    assert again == trials[1].run.recipe


def test_keys_that_end_alike_are_told_apart() -> None:
    names = results.trial_names([{"model.dropout": "0", "prior.dropout": "1", "seed": "2"}])
    assert names == ["model.dropout=0 prior.dropout=1 seed=2"]


def test_presets_of_the_grid_go_before_the_shared_ones() -> None:
    trials = open_trials(options("/s", "--preset", "tiny", "--grid", "preset=recommended,[vae,anneal],gavam"))
    assert [trial.presets for trial in trials] == ["recommended,tiny", "vae,anneal,tiny", "gavam,tiny"]
    assert [trial.run.recipe.model.kind for trial in trials] == ["davam", "vae", "gavam"]
    assert trials[1].run.arguments[:2] == ("--preset", "vae,anneal,tiny")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--grid", "model.codebok_size=8,16"],
            r"^trial codebok_size=8: model.codebok_size: unknown key; did you mean",
        ),
        (
            ["--preset", "vae,tiny", "--grid", "model.codebook_size=8"],
            r"^trial codebook_size=8: model.codebook_size: un",
        ),
        (["--grid", "preset=recommended,gavam"], r"^trials preset=recommended and preset=gavam are the same: a preset"),
        (["--grid", "prior.hidden_dim=8,16"], r"are the same: .* the prior, which is trained with --prior alone$"),
        (["--grid", "seed=1,1"], r"^trials seed=1 and seed=1 are the same"),
        (["--grid", "seed=1,2", "--force", "codes"], r"^--force builds a stage of one run again: give it to full.py"),
    ],
)
def test_trials_that_cannot_be_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_trials(options("/s", *given))


def test_a_key_without_its_block_is_named_with_it() -> None:
    with pytest.raises(ConfigError) as caught:
        open_trials(options("/s", "--grid", "beta_max=0.1,1"))
    assert str(caught.value) == "trial beta_max=0.1: beta_max: unknown key; did you mean model.beta_max?"


def test_a_measure_that_a_trial_will_not_have_is_refused() -> None:
    trials = open_trials(options("/s", "--preset", "tiny", "--grid", "preset=recommended,gavam"))
    check_metric(None, trials)
    check_metric("valid_rec_nats", trials)
    with pytest.raises(ConfigError) as caught:
        check_metric("valid_ppl_bound", trials)
    assert str(caught.value) == (
        "--metric valid_ppl_bound: trial preset=recommended (model.kind=davam, without --prior) has no such measure; "
        "it has valid_rec_nats, valid_code_nats_bigram, valid_ppl_bound_bigram"
    )
    given = options("/s", "--preset", "tiny", "--grid", "preset=recommended,gavam", "--prior")
    check_metric("valid_ppl_bound", open_trials(given))


def test_trials_that_share_a_training_do_not_run_at_once() -> None:
    grid = ["--grid", "model.codebook_size=8,16", "--grid", "prior.hidden_dim=8,16"]
    trials = open_trials(options("/s", *grid, "--prior"))
    assert [trial.name for trial in without_shared_training(trials)] == [
        "codebook_size=8 hidden_dim=8",
        "codebook_size=16 hidden_dim=8",
    ]
    pretrained = ["--preset", "vae,pretraining_fbp,tiny", "--grid", "model.free_bits.target_nats=4,6,8"]
    assert len(without_shared_training(open_trials(options("/s", *pretrained)))) == 1


def test_the_first_comparison_is_after_the_first_epoch_with_codes() -> None:
    codes = ["--preset", "recommended,tiny", "--grid", "model.continuous_epochs=1,3"]
    assert grace_epochs(open_trials(options("/s", *codes))) == 4
    assert grace_epochs(open_trials(options("/s", "--preset", "vae,tiny", "--grid", "seed=1,2"))) == 1


def test_a_stopped_trial_stays_stopped_in_its_sweep_alone(tmp_path: Path) -> None:
    trials = open_trials(options(tmp_path, "--grid", "seed=1,2"))
    halved, plain = sweep_uri(trials, True), sweep_uri(trials, False)
    assert halved != plain == sweep_uri(trials[::-1], False)
    assert state(trials[0], halved) == "build"
    mark = Path(stop_uri(trials[0], halved))
    mark.parent.mkdir(parents=True)
    mark.touch()
    assert [state(trial, halved) for trial in trials] == ["stopped", "build"]
    assert state(trials[0], plain) == "build"


def test_a_run_of_the_whole_pipeline_still_lacks_what_trials_are_ranked_by(tmp_path: Path) -> None:
    trial = open_trials(options(tmp_path, "--grid", "seed=1,2", "--prior"))[0]
    uri = sweep_uri([trial], False)
    commit(trial.run, EVALUATE, {"rows": 9}, {"rec_nats": 8.0})
    assert state(trial, uri) == "build"
    commit(trial.run, SELECTION, {"rows": 9}, {"valid_rec_nats": 8.0})
    assert state(trial, uri) == "done"


def test_the_reason_is_the_last_error_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("error: old\ntalk\nerror: too few rows\nmore talk\n")
    assert reason(1, str(log)) == "too few rows"
    assert reason(-9, str(log)) == "ended by signal 9"
    assert reason(None, str(log)) == "its node or its process in the cluster was lost"
    log.write_text("talk\n")
    assert reason(3, str(log)) == f"exit code 3; see {log}"


def test_an_epoch_is_estimated_with_the_cost_of_its_latents() -> None:
    codes = {"valid/rec_nats": 5.0, "valid/tokens": 4.0, "valid/code_perplexity": math.e**2}
    assert epoch_nats(codes, DavamConfig()) == pytest.approx(5 + 3 * 2)
    assert epoch_nats(codes, DavamQConfig()) == pytest.approx(5 + 2)
    assert epoch_nats({"valid/rec_nats": 5.0, "valid/tokens": 4.0}, DavamConfig()) is None
    assert epoch_nats({"valid/rec_nats": 5.0, "valid/elbo_nats": 7.0}, GavamConfig()) == 7
    assert epoch_nats({"valid/rec_nats": 5.0}, LstmLmConfig()) == 5


def test_a_collapse_ends_at_0_whatever_lengths_cost(tmp_path: Path) -> None:
    (trial, coded) = open_trials(options(tmp_path, "--preset", "tiny", "--grid", "preset=gavam,recommended", "--prior"))
    lengths = {"train": [2, 3, 3, 5, 9], "valid": [3, 5]}
    attempt = trial.run.store.new_attempt("tokens", trial.identities["tokens"])
    for split, length in lengths.items():
        ids = list(range(len(length)))
        columns = {
            "id": ids,
            "tokens": [[4] * (n - 1) + [2] for n in length],
            "length": length,
            "text": ["a"] * len(ids),
        }
        write_table(f"{attempt.uri}/split={split}/a.parquet", pa.table(columns).cast(SCHEMAS["tokens/1"]))
    trial.run.store.commit(attempt, version=1, recipe={}, inputs={}, counts={}, metrics={}, provenance={})
    model = build_family(trial.run.recipe.model.model_copy(update={"output_shortlist": 0}), 10, 32)
    rows = Rows.from_lists(range(5), [[4] * (n - 1) + [2] for n in lengths["train"]])
    model.begin_epoch(0, lambda: [take_slice(rows, np.arange(5))], 4.0, 0, comm.workers())
    assert isinstance(model, VaeAttn)
    paid = float(model.length_nats_T[[1, 3]].mean())
    assert length_nats(trial) == pytest.approx(paid)
    epochs = [{"epoch": 1.0, "valid/rec_nats": 9.0, "valid/kl_nats_sum": paid + 2}]
    epochs += [{"epoch": 2.0, "valid/rec_nats": 9.0, "valid/kl_nats_sum": paid}]
    write_history(str(tmp_path), run_name("stage_one", trial.identities["stage_one"]), epochs)
    write_history(str(tmp_path), run_name("stage_two", coded.identities["stage_two"]), epochs[:1])
    epochs_done, kl_nats = zip(*dynamics_of(trial)[0][KL_DYNAMICS], strict=True)
    assert epochs_done == (1.0, 2.0)
    assert kl_nats == pytest.approx((2, 0), abs=1e-5)
    # The end of the codes is one of them, and stays in their cost.
    assert dynamics_of(coded)[0][KL_DYNAMICS] == [(1.0, paid + 2)]


def test_a_history_is_read_while_training_runs_and_after(tmp_path: Path) -> None:
    store, identity = Store(str(tmp_path)), "ab" * 32
    assert read_history(store, "stage_one", identity) == []
    write_history(store.uri, run_name("stage_one", identity), [{"epoch": 1.0}])
    assert read_history(store, "stage_one", identity) == [{"epoch": 1.0}]
    attempt = store.new_attempt("stage_one", identity)
    Path(attempt.uri).mkdir(parents=True)
    record = {"stage_one": {"history": [{"epoch": 1.0}, {"epoch": 2.0}]}}
    (Path(attempt.uri) / "metrics.json").write_text(json.dumps(record))
    store.commit(attempt, version=2, recipe={}, inputs={}, counts={}, metrics={}, provenance={})
    assert len(read_history(store, "stage_one", identity)) == 2


def test_families_without_codes_have_a_figure_of_their_own() -> None:
    epoch = {"valid/rec_nats": 6.0, "valid/kl_nats_sum": 2.0}
    exact = text_measures(epoch, 10, 40, load_recipe(["lstm_lm", "tiny"]))
    assert exact == {"valid_nll_nats": 6.0, "valid_ppl_exact": pytest.approx(math.exp(6 * 10 / 40))}
    gaussian = text_measures(epoch, 10, 40, load_recipe(["gavam", "tiny"]))
    assert gaussian["valid_ppl_bound"] == pytest.approx(math.exp(8 * 10 / 40))
    assert text_measures(epoch, 10, 40, load_recipe(["recommended", "tiny"])) == {"valid_rec_nats": 6.0}


def test_codes_of_a_table_are_taken_in_order() -> None:
    table = pa.table({"codes": pa.chunked_array([[[1, 2]], [[3], [4, 5]]], pa.list_(pa.int32()))})
    codes_N, length_B = flat_codes(table)
    assert codes_N.tolist() == [1, 2, 3, 4, 5]
    assert length_B.tolist() == [2, 1, 2]
    assert codes_N.dtype == np.int64


@pytest.fixture
def found() -> Sweep:
    """K against beta: one failed, one stopped, a family without codes."""

    def trial(size: str, beta: str, bound: float, state: str = "done", reason: str = "") -> Trial:
        settings = {"model.codebook_size": size, "model.beta_max": beta}
        measures = {"valid_rec_nats": bound / 2, "valid_code_nats_bigram": 3.0, "valid_ppl_bound_bigram": bound}
        if state != "done":
            measures = {}
        dynamics = {"Validation Rec in stage one": [(1.0, bound), (2.0, bound / 2)]}
        name = results.trial_names([settings])[0]
        return Trial(name, "tiny", settings, state, reason, measures, {"tokens": "ab"}, 2, 60.0, dynamics)

    trials = [trial("8", "1", 30), trial("16", "1", 20), trial("64", "1", 25), trial("8", "2", 0, "stopped")]
    return Sweep("S", ["c"], None, [*trials, trial("16", "2", 0, "failed", "<b>too | few</b>")])


def test_the_best_bound_comes_first_and_what_has_none_last(found: Sweep) -> None:
    assert [trial.settings["model.codebook_size"] for trial in results.ranked(found)] == ["16", "64", "8", "8", "16"]
    assert results.winner(found).name == "codebook_size=16 beta_max=1"
    assert results.winner(Sweep("S", [], None, found.trials[3:])) is None


def test_the_table_holds_every_trial(found: Sweep) -> None:
    table = results.table(found)
    check(table.schema, "sweep/1", "the table")
    assert table["value"].to_pylist()[:3] == [20, 25, 30]
    assert np.isnan(table["value"].to_pylist()[3:]).all()
    assert table["state"].to_pylist() == ["done", "done", "done", "stopped", "failed"]
    assert dict(table["measures"].to_pylist()[0])["valid_rec_nats"] == 10
    lines = markdown(results.page(found)).splitlines()
    assert lines[-5].startswith("| codebook_size=16 beta_max=1 | done | 10 | 3 | 20 |")
    assert lines[-2].startswith("| codebook_size=8 beta_max=2 | stopped | – | – | – |")


def test_numbers_have_an_axis_and_names_have_none(found: Sweep) -> None:
    assert results.numeric_axes(found.trials) == ["model.codebook_size", "model.beta_max"]
    other = Trial("x", "", {"model.codebook_size": "8", "model.beta_max": "auto"}, "done")
    assert results.numeric_axes([*found.trials, other]) == ["model.codebook_size"]


def test_the_page_has_the_charts_and_escapes_everything(found: Sweep) -> None:
    page = html(results.page(found))
    assert page == html(results.page(found))
    titles = [curve.title for curve in results.curves(found)]
    assert titles == [
        "Rec by model.codebook_size",
        "Cost of the latents by model.codebook_size",
        "What ranks the trials by model.codebook_size",
        "Rec by model.beta_max",
        "Cost of the latents by model.beta_max",
        "What ranks the trials by model.beta_max",
        "Validation Rec in stage one",
    ]
    assert page.count("<svg") == len(titles)
    assert "<b>" not in page
    assert "&lt;b&gt;too | few&lt;/b&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "beta_max=1 ends at 25" in page
