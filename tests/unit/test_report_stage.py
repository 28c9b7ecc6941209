"""What the stage `report` makes of a run's measures, samples and experiments."""

from davam.recipe import load_recipe
from pipelines.report import figures, summary

PLAIN = load_recipe(["lstm_lm", "tiny"])
COUNTS: dict[str, float] = {"sample_rows": 1000, "test_rows": 1000}


def test_real_text_stands_beside_figures_of_samples_alone() -> None:
    measures = COUNTS | {"rec_nats": 8.5, "kl_nats_sum": 16.4, "sample_copy_rate": 0.07, "test_copy_rate": 0.08}
    shown = {figure.name: figure.real for figure in figures(measures | {"sample_unique_rate": 0.9}, PLAIN)}
    del shown["sample_rows"]
    assert shown == {"rec_nats": None, "kl_nats_sum": None, "sample_copy_rate": 0.08, "sample_unique_rate": None}


def test_figures_of_too_few_texts_say_so() -> None:
    measures: dict[str, float] = {"rec_nats": 8.5, "sample_copy_rate": 0.2, "test_copy_rate": 0.08}
    few = {figure.name: figure for figure in figures(measures | {"sample_rows": 5, "test_rows": 40}, PLAIN)}
    assert few["rec_nats"].value == 8.5
    assert (few["sample_rows"].value, few["sample_rows"].real) == (5, 40)
    copies = few["sample_copy_rate"]
    assert (copies.value, copies.unit, copies.real) == ("too few: 5 of 100", "", "too few: 40 of 100")
    floor = measures | {"ppl_bound": 9.0, "kl_nats_sum": 1.0, "ppl_floor": 8.0, "sample_grammatical_rate": 0.4}
    assert summary(floor | {"sample_rows": 5}).endswith(" The corpus itself has a floor of 8.00.")
    assert summary(floor | COUNTS).endswith(" a floor of 8.00, and 40% of the samples are grammatical.")
