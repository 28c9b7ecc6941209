"""What the stage `report` makes of a run's measures, samples and experiments."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from davam.data import fs
from davam.data.artifacts import Manifest, Store, write_table
from davam.data.schemas import SCHEMAS
from davam.evaluate.faithfulness import Faithfulness, to_json
from davam.evaluate.report import Section, render
from davam.evaluate.verdict import Finding, Usefulness
from davam.execution import Execution
from davam.recipe import load_recipe
from pipelines.experiments import Experiment, generator_identity, record
from pipelines.report import REPORT, compose, figures, summary
from pipelines.stage import Run
from tests.unit.test_verdict import GOOD

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


FOUND = Experiment(
    Section("Is it worth adding?", "It is.", ["ratio"], [["1"]], [], [], ["Seed 0."]), generator_identity(PLAIN)
)


def artifact(store: Store, stage: str, metrics: dict[str, float], files: dict[str, Any]) -> Manifest:
    """A committed artifact of files: rows of a schema, or bytes."""
    attempt = store.new_attempt(stage, stage.ljust(64, "0"))
    for name, content in files.items():
        uri = fs.join(attempt.uri, name)
        if isinstance(content, pa.Table):
            write_table(uri, content)
        else:
            fs.write_bytes_atomic(uri, content)
    counts = {"rows": 1, "dropped_blank": 0, "dropped_too_long": 0}
    took = {"wall_s": 1.0, "why": f"{stage} changed"}
    return store.commit(attempt, version=1, recipe={}, inputs={}, counts=counts, metrics=metrics, provenance=took)


@pytest.fixture
def built(tmp_path: Path) -> tuple[Run, dict[str, Manifest]]:
    """A run of one test sentence and one sample whose stages before the report are done."""
    store = Store(str(tmp_path))
    texts = {"text": "a dog runs", "reconstruction": "a dog", "truncated": False}
    lists: dict[str, Any] = {key: [] for key in ("codes", "latents", "tokens", "posterior_mean", "posterior_logvar")}
    schemas = [SCHEMAS[name] for name in ("scores/2", "samples/2")]
    numbers: dict[str, Any] = {name: 0 for schema in schemas for name in schema.names}
    scores, samples = (pa.Table.from_pylist([numbers | lists | texts], schema) for schema in schemas)
    measures = GOOD | {"ppl_exact": 9.0, "rec_nats": 8.5}
    inputs = {
        "tokens": artifact(store, "tokens", {}, {"none": b"-"}),
        "stage_one": artifact(store, "stage_one", {}, {"metrics.json": b'{"stage_one": {"history": []}}'}),
        "samples": artifact(store, "samples", {}, {"rows.parquet": samples}),
        "evaluate": artifact(store, "evaluate", measures, {"rows.parquet": scores}),
        "faithfulness": artifact(store, "faithfulness", {}, {"a.json": to_json(Faithfulness((), (), ()))}),
    }
    return Run(PLAIN, Execution(store=store.uri), store, ("--preset", "lstm_lm")), inputs


@pytest.mark.parametrize(("found", "decision"), [("helps", "promote"), ("hurts", "do not use")])
def test_an_experiment_becomes_a_section_and_decides(
    built: tuple[Run, dict[str, Manifest]], found: Usefulness, decision: str
) -> None:
    run, inputs = built
    before = compose(run, inputs, {})
    assert (before.verdict.decision, before.sections) == ("keep", [])
    finding = Finding(1000, 3, 4, found, "At ratio 1 of 1,000 sentences.")
    record(run.store, inputs["tokens"], "augment", replace(FOUND, findings=(finding,)))
    after = compose(run, inputs, {})
    assert after.verdict.decision == decision
    assert "At ratio 1 of 1,000 sentences." in after.verdict.reasons
    assert after.sections == [FOUND.section]
    assert "Is it worth adding?" in render(after)


def test_stages_say_why_they_were_built_and_which_were_reused(built: tuple[Run, dict[str, Manifest]]) -> None:
    run, inputs = built
    (tokens, *_) = compose(run, inputs, {}).stages
    created = inputs["tokens"].created_utc
    assert (tokens.action, tokens.why) == (f"built {created}", "tokens changed")
    uri = fs.join(run.store.uri, "plans", f"{REPORT.fingerprint(run.recipe)[:12]}.json")
    fs.write_bytes_atomic(uri, json.dumps({"created_utc": "2999-01-01T00:00:00+00:00"}).encode())
    assert {stage.action.split()[0] for stage in compose(run, inputs, {}).stages} == {"reused,"}
    unsaid = inputs | {"tokens": replace(inputs["tokens"], provenance={})}
    assert compose(run, unsaid, {}).stages[0].why == "not recorded"


def test_a_word_that_is_not_learned_is_warned_of(built: tuple[Run, dict[str, Manifest]]) -> None:
    run, inputs = built
    assert compose(run, inputs, {}).warnings == []
    report = compose(run, inputs, {"known_rate": 0.75, "ppl_exact_known": 7.25})
    assert report.warnings == [
        "25.0% of the test sentences hold <unk>, and no training sentence does: what it costs is an accident of "
        "training. Compare models by the figures of known words; tokenizer.min_count=2 has the model learn it."
    ]
    assert {figure.name: figure.value for figure in report.figures}["ppl_exact_known"] == 7.25
