"""Rows, budgets and cells of Table II."""

import argparse
from pathlib import Path

import pytest

from davam.data.artifacts import FileEntry, Manifest
from davam.errors import ConfigError, DataError
from davam.evaluate.page import html, markdown
from davam.evaluate.paper import paper_figures, paper_row
from davam.evaluate.table import COLUMNS, Table, TableRow, cells, page
from davam.families import FAMILIES
from davam.recipe import Recipe, load_recipe
from davam.train.sizes import count_weights
from pipelines.evaluate import EVALUATE
from pipelines.pretraining import PRETRAINING
from pipelines.report import figures
from pipelines.stage_one import STAGE_ONE
from pipelines.stage_two import STAGE_TWO
from pipelines.table_two import (
    ROWS,
    budget,
    budget_text,
    caption,
    chosen,
    cut_short,
    equal_rows,
    fitting,
    measured,
    open_row,
    out_of_budget,
    output_layers,
    parsed,
    precisions,
    require_different,
    require_time,
    table_two,
    trainings_done,
)
from pipelines.tokens import TOKENS
from tests.stores import commit


def options(*given: str) -> argparse.Namespace:
    """The parsed options."""
    return parsed(["--store", "/nowhere", *given])


def test_all_rows_open_on_every_corpus() -> None:
    for corpus in ("tiny", "ptb", "snli", "yahoo", "captions"):
        kinds = [open_row(name, options("--preset", corpus)).run.recipe.model.kind for name in ROWS]
        assert set(kinds) == {family.kind for family in FAMILIES}


def test_rows_differ_in_what_is_built() -> None:
    recipes = [open_row(name, options("--preset", "ptb")).run.recipe.plain() for name in ROWS]
    assert len({str(recipe) for recipe in recipes}) == len(ROWS)


def test_a_language_model_without_a_bias_keeps_its_fingerprint() -> None:
    plain, biased = (open_row(name, options("--preset", "ptb")).run.recipe for name in ("lstm_lm", "lstm_lm_bias"))
    assert "output_bias" not in plain.plain()["model"]
    assert Recipe.model_validate(biased.plain()) == biased
    assert biased.paper_row is None
    assert count_weights(biased, 1000) - count_weights(plain, 1000) == 1000


def test_a_row_that_does_not_exist_lists_those_that_do() -> None:
    assert chosen("all") == list(ROWS)
    assert chosen("davam_q,vae") == ["vae", "davam_q"]
    with pytest.raises(ConfigError) as caught:
        chosen("vae,vaee")
    assert str(caught.value) == f"--rows vaee: no such row; there are {', '.join(ROWS)}, or all"
    with pytest.raises(ConfigError) as caught:
        table_two(options("--preset", "tiny", "--rows", "vae", "--equal", "vaee"))
    assert str(caught.value) == f"--equal vaee: no such row; there are {', '.join(ROWS)}, or all"


def test_the_help_keeps_the_lines_of_its_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options("--help")
    example = "python pipelines/table_two.py --preset tiny --rows lstm_lm,vae,davam_512 --epochs 4"
    assert example in capsys.readouterr().out.splitlines()


def test_a_corpus_that_does_not_exist_lists_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"^row vae: --preset ptbb: no such preset; did you mean ptb\?; shipped are "):
        open_row("vae", options("--preset", "ptbb"))


def test_an_option_of_another_family_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"^row vae: model.codebook_size: unknown key"):
        open_row("vae", options("model.codebook_size=9"))


def test_rows_without_enough_words_are_left_out_of_all_and_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [open_row(name, options()) for name in ("davam_512", "davam_class", "davam_exact_512")]
    assert [row.name for row in fitting(rows, words(404), all_asked=True)] == ["davam_512", "davam_class"]
    why = "401 words for 512 codes: every code needs a word; set model.codebook_size=100, or add text"
    assert capsys.readouterr().err.endswith(f"davam_exact_512       left   {why}\n")
    with pytest.raises(DataError) as caught:
        fitting(rows, words(404), all_asked=False)
    assert str(caught.value) == f"row davam_exact_512: {why}"


def words(count: int) -> Manifest:
    return Manifest("tokens", "f", 1, "a", "", {}, {}, (), {"words": count}, {}, {})


def test_language_models_as_large_as_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.table_two.run_stage", lambda stage, run: words(9000))
    monkeypatch.setattr("pipelines.table_two.read_labels", lambda store, tokens: ())
    given = options("--rows", "davam_exact_512", "--equal", "davam_exact_512,davam_class", "model.hidden_dim=48")
    rows = equal_rows(["davam_exact_512", "davam_class"], given)
    assert [row.name for row in rows] == [
        f"{model}_as_{name}" for name in ("davam_exact_512", "davam_class") for model in ("lstm_lm", "transformer_lm")
    ]
    for row in rows:
        like = open_row(row.name.split("_as_")[1], given).run.recipe
        wanted = count_weights(like, 9000)
        # One hidden unit more is 9,400 weights of about a million.
        assert count_weights(row.run.recipe, 9000) == pytest.approx(wanted, rel=0.0047)
        assert row.arguments[-1].startswith("model.hidden_dim=")
    require_different([*rows, *(open_row(name, options()) for name in ROWS)])


def test_equal_rows_of_a_dry_run_need_the_words() -> None:
    with pytest.raises(ConfigError, match=r"^--equal with --dry-run: sizes follow from the number of words; build the"):
        equal_rows(["davam_class"], options("--dry-run", "--equal", "davam_class"))


def test_the_caption_names_the_output_layers() -> None:
    rows = [open_row(name, options("--preset", "snli")) for name in ("lstm_lm", "davam_512", "davam_class")]
    rows.append(open_row("vae", options("--preset", "snli", "model.output_shortlist=0")))
    assert output_layers(rows) == (
        "Output layers, all exactly normalised (the baselines' own code has one level) - two levels: lstm_lm, "
        "davam_512; one level: vae; the words of each code: davam_class."
    )


def test_the_caption_names_the_arithmetic() -> None:
    rows = [open_row(name, options()) for name in ("lstm_lm", "vae", "davam_512")]
    assert precisions(rows) == (
        "Arithmetic of stage one (auto: bf16 where the hardware has it); scores are fp32 - fp32: lstm_lm, vae; "
        "auto: davam_512."
    )


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((), "as the presets have it"),
        (("--epochs", "40"), "at most 40 epochs of every training, none of its schedules longer than 10"),
        (("--epochs", "2"), "at most 2 epochs of every training, none of its schedules longer than 1"),
        (
            ("--epochs", "40", "pretraining.epochs=20", "model.dropout=0.1", "model.kl.warmup_epochs=9"),
            "at most 40 epochs of every training, none of its schedules longer than 10; but as given "
            "pretraining.epochs=20, model.kl.warmup_epochs=9",
        ),
        (
            ("--minutes", "7.5"),
            "at most 7.5 minutes of training steps a row, ending with an epoch; epochs and schedules as the presets "
            "have them",
        ),
        (("stage_two.max_minutes=3",), "as the presets have it; but as given stage_two.max_minutes=3"),
    ],
)
def test_the_budget_in_words(given: tuple[str, ...], text: str) -> None:
    assert budget_text(options(*given)) == text


def test_the_caption_has_the_budget_the_seed_and_the_hardware() -> None:
    on_gpus = options("--epochs", "4", "--workers", "2", "--gpu", "seed=7")
    for given, hardware in ((on_gpus, "2 workers a row, each with a GPU; "), (options("seed=7"), "1 worker a row; ")):
        line = caption(given, [open_row("vae", given)])[1]
        assert line.startswith(f"Budget: {budget_text(given)}. Seed 7; {hardware}")


def test_a_row_counts_all_its_trainings_and_its_weights_once(tmp_path: Path) -> None:
    given = options("--store", str(tmp_path), "corpus=ptb")
    for name, weights, minutes in (("vae_pretraining_fbp", 70, 3.0), ("davam_512", 90, 5.0)):
        row = open_row(name, given)
        assert measured(row).measures == {}
        for stage, parameters, train_s in ((PRETRAINING, 70, 60), (STAGE_ONE, 70, 120), (STAGE_TWO, 20, 180)):
            if getattr(row.run.recipe, stage.name) is not None:
                commit(row.run, stage, {"parameters": parameters, "epochs": 3}, {"train_s": train_s})
        commit(row.run, TOKENS, {"rows": 0}, {})
        commit(row.run, EVALUATE, {"rows": 1}, {"rec_nats": 9.0})
        found = measured(row)
        assert (found.measures, found.parameters, found.epochs) == ({"rec_nats": 9.0}, weights, 6)
        assert found.train_s == 60 * minutes
        assert found.paper["ppl_paper"] == {"vae_pretraining_fbp": 96.17, "davam_512": 17.94}[name]


def test_the_caption_names_the_rows_that_the_budget_ended(tmp_path: Path) -> None:
    given = options("--store", str(tmp_path), "--epochs", "4")
    rows = [open_row(name, given) for name in ("lstm_lm", "vae", "vae_pretraining_fbp", "davam_512")]
    assert cut_short(rows) == "Trainings that decay when they gain no more were ended - none yet."
    for row, pretraining, stage_one in zip(rows, (0, 0, 4, 0), (4, 3, 3, 4), strict=True):
        for stage, epochs in ((PRETRAINING, pretraining), (STAGE_ONE, stage_one)):
            if epochs:
                commit(row.run, stage, {"epochs": epochs}, {"train_s": 60.0})
    by_budget = "Trainings that decay when they gain no more were ended - by the budget: lstm_lm, vae_pretraining_fbp"
    assert cut_short(rows) == f"{by_budget}; by their rule: vae."


def test_minutes_end_a_training_too(tmp_path: Path) -> None:
    for minutes, ended in ((1, True), (2, False)):
        row = open_row("vae", options("--store", str(tmp_path), "--minutes", str(minutes)))
        commit(row.run, STAGE_ONE, {"epochs": 3}, {"train_s": 61.0})
        (manifest,) = trainings_done(row)
        assert out_of_budget(manifest, row.run.recipe.stage_one) is ended


def test_a_budget_too_small_for_an_epoch_is_refused() -> None:
    for given in ("0", "-1"):
        with pytest.raises(ConfigError, match=r"^row vae: stage_one.epochs="):
            open_row("vae", options("--epochs", given))
    with pytest.raises(ConfigError, match=r"^row davam_q: stage_one.epochs=1 with model.continuous_epochs=1: no epoch"):
        open_row("davam_q", options("--epochs", "1"))


def test_minutes_too_few_for_an_epoch_are_refused() -> None:
    row = open_row("davam_512", options("--minutes", "3"))
    files = (FileEntry("part", 0, "", 6400, "train"),)
    tokens = Manifest("tokens", "f", 1, "a", "", {}, {}, files, {}, {}, {})
    require_time(row, tokens, 0.1)
    with pytest.raises(ConfigError) as caught:
        require_time(row, tokens, 1.0)
    assert str(caught.value) == (
        "row davam_512: stage one has 1.5 minutes of the budget, but needs about 3.3 for 2 epochs, the fewest that "
        "make a model of it; raise --minutes, or leave the row out"
    )


def test_a_budget_of_epochs_is_every_trainings_and_shortens_schedules() -> None:
    recipe = open_row("vae_pretraining_fbp", options("--epochs", "12")).run.recipe
    assert recipe.pretraining is not None
    assert (recipe.pretraining.epochs, recipe.stage_one.epochs) == (12, 12)
    assert recipe.plain()["model"]["kl"]["warmup_epochs"] == 3
    recipe = open_row("davam_q", options("--epochs", "12")).run.recipe
    assert recipe.stage_two is not None
    assert (recipe.stage_one.epochs, recipe.stage_two.epochs) == (12, 12)
    assert recipe.plain()["model"]["continuous_epochs"] == 3
    sgd = "stage_two.optimizer={kind: sgd, first_decay_epoch: 8}"
    assert "stage_two.optimizer.first_decay_epoch=3" in budget(
        load_recipe(["recommended"], [sgd]), options("--epochs", "12")
    )


def test_a_long_budget_leaves_the_schedules() -> None:
    assert budget(load_recipe(["vae", "anneal"]), options("--epochs", "40")) == [
        "stage_one.epochs=40",
        "stage_one.optimizer.first_decay_epoch=10",
    ]


def test_a_budget_of_minutes_is_shared_by_a_rows_trainings() -> None:
    one = open_row("vae", options("--minutes", "9")).run.recipe
    two = open_row("davam_512", options("--minutes", "9")).run.recipe
    assert one.stage_one.max_minutes == 9
    assert two.stage_two is not None
    assert (two.stage_one.max_minutes, two.stage_two.max_minutes) == (4.5, 4.5)


def test_the_papers_figures() -> None:
    assert paper_figures("ptb", "lstm_lm") == {"ppl_paper": 100.47}
    assert paper_figures("snli", "davam_512") == {"rec_nats": 10.85, "ppl_paper": 3.52, "kl_nats_per_code": 2.69}
    assert paper_figures("ptb", "vae_attn") == {}
    assert paper_figures(None, "vae") == {}


@pytest.mark.parametrize(("size", "row"), [(128, "davam_128"), (256, None), (512, "davam_512")])
@pytest.mark.parametrize("preset", ["recommended", "paper"])
def test_davam_is_shown_beside_the_papers_model_of_its_own_size(preset: str, size: int, row: str | None) -> None:
    recipe = load_recipe([preset, "snli"], [f"model.codebook_size={size}"])
    assert paper_row(recipe.paper_row, recipe.model.model_dump()) == row
    assert paper_row(None, recipe.model.model_dump()) is None
    measures = {"rec_nats": 9.0, "sample_rows": 900, "test_rows": 900}
    shown = next(each for each in figures(measures, recipe) if each.name == "rec_nats")
    assert shown.paper == {128: "16.11", 256: None, 512: "10.85"}[size]


def test_other_families_are_shown_beside_the_row_that_they_name() -> None:
    for preset, row in (("gavam", "gavam"), ("vae", "vae"), ("davam_q", "davam_q"), ("davam_exact", None)):
        recipe = load_recipe([preset, "snli"], [])
        assert paper_row(recipe.paper_row, recipe.model.model_dump()) == row
    # A preset of another family on top of one keeps the row's name, and no more.
    turned = load_recipe(["vae", "davam_class", "snli"], [])
    assert turned.paper_row == "vae"
    assert paper_row(turned.paper_row, turned.model.model_dump()) is None


def test_the_cells_of_a_row() -> None:
    measures = {"rec_nats": 99.5, "kl_nats_sum": 4.0, "ppl_bound": 110.0, "ppl_iw": 101.25, "ppl_paper": 101.25}
    measures |= {"ppl_bound_known": 90.0, "ppl_iw_known": 81.5}
    row = TableRow("vae", {"rec_nats": 101.27, "ppl_paper": 101.39, "kl_nats_sum": 0.0}, measures, 8_790_000, 90.0, 7)
    assert dict(zip(range(len(COLUMNS)), cells(row), strict=True)) == dict(
        enumerate(
            [
                "vae",
                "99.50",
                "101.27",
                "4.00",
                "4.00",
                "0.00",
                "101.25",
                "101.39",
                "",
                "110.00",
                "101.25",
                "81.50",
                "8,790,000",
                "1.5",
                "7",
            ]
        )
    )


def test_a_row_that_did_not_run_is_said_to_be_missing() -> None:
    table = Table("T", ["c"], [TableRow("gavam", paper_figures("ptb", "gavam")), TableRow("vae_attn")])
    first, second = markdown(page(table)).splitlines()[-2:]
    assert first.startswith("| gavam | not run | 102.20 |")
    assert second.startswith("| vae_attn | not run | – |")


def test_the_page_escapes_everything() -> None:
    hostile = "<script>x</script>"
    shown = html(page(Table(hostile, [hostile], [TableRow(hostile)])))
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") == 5
    assert "http" not in shown.replace("http-equiv", "")


def test_rows_that_overrides_make_equal_are_refused() -> None:
    rows = [open_row(name, options("model.kl.kind=constant")) for name in ("vae", "vae_anneal")]
    with pytest.raises(ConfigError, match=r"^rows vae and vae_anneal are the same model with these"):
        require_different(rows)
    require_different([open_row(name, options()) for name in ROWS])


def test_an_override_goes_before_the_budget() -> None:
    assert open_row("vae", options("--epochs", "4", "stage_one.epochs=6")).run.recipe.stage_one.epochs == 6


def test_settings_may_stand_before_and_after_options() -> None:
    given = options("seed=1", "--rows", "vae", "stage_one.epochs=2")
    assert (given.rows, given.overrides) == ("vae", ["seed=1", "stage_one.epochs=2"])
