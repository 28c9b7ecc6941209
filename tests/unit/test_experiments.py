"""Experiments are kept for the reports on the same text, and on no other."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from davam.augment import page as augment
from davam.data import fs
from davam.data.artifacts import Manifest, Store
from davam.errors import ArtifactError
from davam.evaluate import sweep
from davam.evaluate.charts import Curve, Intervals
from davam.evaluate.report import Section
from davam.evaluate.text_tables import TextTables, report_sections
from davam.evaluate.verdict import Finding
from davam.recipe import load_recipe
from pipelines.experiments import Experiment, experiments_of, generator_identity, record
from pipelines.report import findings

TOKENS = Manifest("tokens", "a" * 64, 1, "x", "2026", {}, {}, (), {}, {}, {})
FOUND = Experiment(
    Section(
        "Usefulness",
        "It helps.",
        ["ratio", "ppl"],
        [["0", "9.5"]],
        [Curve("Perplexity", "ratio", "ppl", {"davam": [(0.0, 9.5)]})],
        [Intervals("Perplexity", "ratio", "ppl", {"davam": [(0.0, 9.5, 9.0, 10.0)]})],
        ["Seed 0; judged by gpt2."],
    ),
    "f" * 64,
    (Finding(1000, 3, 4, "helps", "At ratio 1."),),
)


def test_what_was_recorded_is_found_for_the_same_text_alone(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert experiments_of(store, TOKENS) == []
    record(store, TOKENS, "usefulness", FOUND)
    record(store, TOKENS, "sweep", Experiment(FOUND.section))
    record(store, TOKENS, "sweep", Experiment(FOUND.section))
    assert experiments_of(store, TOKENS) == [Experiment(FOUND.section), FOUND]
    assert experiments_of(store, replace(TOKENS, fingerprint="b" * 64)) == []


def test_an_experiment_that_was_kept_without_notes_is_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record(store, TOKENS, "usefulness", FOUND)
    uri = fs.join(store.uri, "experiments", "a" * 12, "usefulness.json")
    kept = json.loads(fs.read_bytes(uri))
    del kept["section"]["notes"]
    fs.write_bytes_atomic(uri, json.dumps(kept).encode())
    assert experiments_of(store, TOKENS) == [replace(FOUND, section=replace(FOUND.section, notes=()))]


def test_every_experiment_takes_its_notes_into_the_report() -> None:
    notes = ["Seed 0; judged by gpt2."]
    sections = [
        *report_sections(TextTables("T", notes, [])),
        sweep.section(sweep.Sweep("S", notes, None, [sweep.Trial("a", "", {"seed": "0"}, "done")])),
        augment.section(augment.Results(notes, [], [])),
    ]
    assert [section.notes for section in sections] == [notes] * 7


def test_a_torn_record_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record(store, TOKENS, "usefulness", FOUND)
    uri = fs.join(store.uri, "experiments", "a" * 12, "usefulness.json")
    fs.write_bytes_atomic(uri, fs.read_bytes(uri)[:-30])
    with pytest.raises(ArtifactError, match=r"usefulness.json is torn or not an experiment \(.*\); delete it, or make"):
        experiments_of(store, TOKENS)


def test_a_generator_is_its_model_trainings_prior_and_sampling_alone() -> None:
    def identity(*overrides: str) -> str:
        return generator_identity(load_recipe(["recommended", "tiny"], overrides))

    assert identity() == identity("seed=3", "data.train_rows=500", "samples.rows=9", "evaluation.importance_draws=1")
    changes = [
        "model.codebook_size=128",
        "stage_one.epochs=9",
        "stage_two.epochs=9",
        "prior.hidden_dim=8",
        "samples.sampling.decoder.temperature=0.7",
    ]
    assert len({identity(), *map(identity, changes)}) == 1 + len(changes)


def test_a_run_is_judged_by_what_was_found_for_its_own_generator_with_the_most_seeds() -> None:
    recipe = load_recipe(["recommended", "tiny"])
    own = generator_identity(recipe)
    small = generator_identity(load_recipe(["recommended", "tiny"], ["model.codebook_size=128"]))
    large_helps, few_hurt, many_help, most_ratios = (
        Finding(4000, 3, 4, "helps", "a"),
        Finding(1000, 2, 5, "hurts", "b"),
        Finding(1000, 3, 2, "helps", "c"),
        Finding(1000, 3, 4, "no difference seen", "d"),
    )
    experiments = [
        Experiment(FOUND.section, own, (most_ratios, large_helps)),
        Experiment(FOUND.section, own, (few_hurt,)),
        Experiment(FOUND.section, own, (many_help,)),
        Experiment(FOUND.section, small, (Finding(8000, 9, 9, "hurts", "e"),)),
        Experiment(FOUND.section),
    ]
    assert findings(experiments, recipe) == [most_ratios, large_helps]
    assert findings(experiments[3:], recipe) == []
