"""What the stage `report` makes of a run's measures, samples and experiments."""

from davam.recipe import load_recipe
from pipelines.report import figures

PLAIN = load_recipe(["lstm_lm", "tiny"])


def test_real_text_stands_beside_figures_of_samples_alone() -> None:
    measures = {"rec_nats": 8.5, "kl_nats_sum": 16.4, "sample_copy_rate": 0.07, "test_copy_rate": 0.08}
    shown = {figure.name: figure.real for figure in figures(measures | {"sample_unique_rate": 0.9}, PLAIN)}
    assert shown == {"rec_nats": None, "kl_nats_sum": None, "sample_copy_rate": 0.08, "sample_unique_rate": None}
