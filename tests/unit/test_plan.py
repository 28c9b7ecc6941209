"""What a recipe will take: the work of its stages, costs fitted from builds, and the table of both."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from davam.cli import TABLES, main
from davam.corpus import Corpus, corpus_of
from davam.data import grammar
from davam.data.artifacts import Store, write_table
from davam.data.schemas import SCHEMAS
from davam.errors import ConfigError, DataError
from davam.plan.cost import Build, Cost, fitted
from davam.plan.estimate import estimates, read_reference, sampling_probe, totals
from davam.plan.runs import alike, builds_of
from davam.plan.work import Work, work_of
from davam.recipe import Recipe, load_recipe
from pipelines.full import plan

TINY = ["recommended", "tiny", "brief"]
CORPUS = Corpus({"train": 1000.0, "valid": 50.0, "test": 100.0}, 8.0, 3)


def batch_build(units: float, wall_s: float, busy_s: float | None, workers: int = 2, size: int = 0) -> Build:
    return Build(Work("codes", "rows", units, workers, units), wall_s, busy_s, size)


@given(
    st.tuples(*[st.floats(0, 1e3)] * 3),
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 64)), min_size=2, max_size=5, unique_by=lambda x: x[0]),
    st.integers(1, 10**6),
)
def test_planted_coefficients_predict_other_sizes(
    planted: tuple[float, ...], sizes: list[tuple[int, int]], other: int
) -> None:
    fixed_s, serial_ms, worker_ms = planted

    def wall_s(units: int, workers: int) -> float:
        return fixed_s + units * (serial_ms + worker_ms / workers) / 1e3

    builds = [
        batch_build(units, wall_s(units, workers), units * worker_ms / 1e3, workers, 7 * units)
        for units, workers in sizes
    ]
    work = Work("codes", "rows", other, 5, other)
    cost = fitted(builds)
    assert cost.wall_s(work) == pytest.approx(wall_s(other, 5), rel=1e-3, abs=1e-3)
    assert cost.bytes(work) == pytest.approx(7 * other)
    assert cost.most_units == max(units for units, _ in sizes)


def test_of_one_size_the_rest_is_start_up_and_of_the_driver_all_is_work() -> None:
    cost = fitted([batch_build(100, 14.0, 8.0), batch_build(100, 16.0, 8.0)])
    assert (cost.fixed_s, cost.serial_s_per_unit, cost.worker_s_per_unit) == (11.0, 0.0, 0.08)
    cost = fitted([batch_build(100, 14.0, None, 1)])
    assert (cost.fixed_s, cost.serial_s_per_unit, cost.worker_s_per_unit) == (0.0, 0.14, 0.0)


@pytest.mark.parametrize(
    ("seconds", "fixed_s", "slope"), [((5.0, 3.0), 4.0, 0.0), ((0.0, 10.0), 0.0, 20 / 5), ((2.0, 3.0), 1.0, 1.0)]
)
def test_no_coefficient_is_below_zero(seconds: tuple[float, float], fixed_s: float, slope: float) -> None:
    cost = fitted([batch_build(units, wall_s, 0.0) for units, wall_s in zip((1, 2), seconds, strict=True)])
    assert (cost.fixed_s, cost.serial_s_per_unit) == pytest.approx((fixed_s, slope))
    grid_GG2 = np.stack(np.meshgrid(np.linspace(0, 6, 61), np.linspace(0, 6, 61)), axis=-1)
    missed_GG = sum((grid_GG2 @ [1, units] - wall_s) ** 2 for units, wall_s in zip((1, 2), seconds, strict=True))
    missed = sum((fixed_s + slope * units - wall_s) ** 2 for units, wall_s in zip((1, 2), seconds, strict=True))
    assert missed <= missed_GG.min() + 1e-9


def test_more_seconds_of_work_than_of_the_clock_are_no_start_up_below_zero() -> None:
    assert batch_build(10, 3.0, 8.0).overhead_s == 0.0
    assert fitted([batch_build(10, 3.0, 8.0)]).fixed_s == 0.0


@pytest.mark.parametrize("method", ["recommended", "davam_q", "vae", "vae,pretraining_fbp", "abstract", "daps"])
def test_there_is_work_for_every_stage_in_order(method: str) -> None:
    recipe = load_recipe([*method.split(","), "tiny"])
    assert [work.stage for work in work_of(recipe, CORPUS, 2)] == [stage.name for stage in plan(recipe)]


def test_the_work_is_what_the_stages_do() -> None:
    recipe = load_recipe(TINY, ["stage_one.epochs=4", "stage_two.batch_rows=16", "samples.rows=7000"])
    found = {work.stage: work for work in work_of(recipe, CORPUS, 20, {"stage_one": 3})}
    assert found["tokens"] == Work("tokens", "rows", 1150, 3, 1150)  # three pieces, so three at a time
    assert found["stage_one"] == Work("stage_one", "tokens", 3 * 8000, 20)  # it ended after three
    assert found["stage_two"] == Work("stage_two", "tokens", 5 * 8000, 16)
    assert found["codes"] == Work("codes", "rows", 1150, 1, 1150)  # a block, so one at a time
    assert found["samples"] == Work("samples", "rows", 7000, 4, 7000)
    assert found["evaluate"] == Work("evaluate", "rows", 100, 1, 100)
    assert found["faithfulness"] == Work("faithfulness", "train_rows", 1000, 1)
    weighed = work_of(load_recipe(["vae", "tiny"], ["evaluation.importance_draws=500"]), CORPUS, 20)
    assert Work("evaluate", "rows", 100, 20, 100) in weighed  # every row 501 times


def test_the_embedded_corpus_is_known_exactly() -> None:
    corpus = corpus_of(load_recipe(TINY, ["data.train_rows=1234"]))
    assert corpus == Corpus({"train": 1234, "valid": 1000, "test": 1000}, grammar.mean_tokens(), 1)


def files(*overrides: str) -> Recipe:
    return load_recipe(["recommended"], ["data.kind=files", *overrides])


def test_files_are_judged_by_their_first_rows(tmp_path: Path) -> None:
    line = "a man is running in the park\n"
    (tmp_path / "a.txt").write_text(line * 10_000)
    (tmp_path / "b.txt").write_text(line * 2_000)
    corpus = corpus_of(files(f"data.train={tmp_path}/*.txt", "data.valid_share=0.1", "data.test_share=0.2"))
    assert corpus.rows == pytest.approx({"train": 8400, "valid": 1200, "test": 2400})
    assert (corpus.tokens_per_row, corpus.pieces) == (8, 2)
    few = corpus_of(files(f"data.root={tmp_path}", "data.train=b.txt", "data.valid=a.txt", "data.test=a.txt"))
    assert few.rows == pytest.approx({"train": 2000, "valid": 10_000, "test": 10_000})
    bpe = corpus_of(files(f"data.train={tmp_path}/b.txt", "tokenizer.kind=bpe"))
    assert bpe.tokens_per_row == len(line.rstrip()) / 4 + 1


def test_rows_of_parquet_are_counted_by_itself(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["two words"] * 321}), tmp_path / "a.parquet")
    corpus = corpus_of(files(f"data.train={tmp_path}/a.parquet", "data.valid_share=0", "data.test_share=0"))
    assert corpus.rows["train"] == 321
    assert corpus.tokens_per_row == 3


def test_an_empty_file_is_no_corpus(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: no rows, here or in the corpus's other files; add text"):
        corpus_of(files(f"data.train={tmp_path}/*.parquet"))
    pq.write_table(pa.table({"text": ["two words"] * 321}), tmp_path / "b.parquet")
    assert sum(corpus_of(files(f"data.train={tmp_path}/*.parquet")).rows.values()) == pytest.approx(321)


def test_runs_are_alike_whatever_their_text_and_length() -> None:
    recipe = load_recipe(TINY)
    assert alike(recipe, load_recipe(TINY, ["data.train_rows=5", "stage_one.epochs=9", "seed=3", "samples.rows=7"]))
    for other in ("model.codebook_size=64", "stage_two.batch_rows=16", "prior.layers=2", "tokenizer.kind=bpe"):
        assert not alike(recipe, load_recipe(TINY, [other])), other


def write_run(store: Store, recipe: Recipe, name: str, took: dict[str, dict[str, float]]) -> None:
    """A finished run of 60 training sentences, 8 tokens each, whose builds took so long."""
    identities = {stage: f"{stage}-{name}" for stage in took if stage != "report"} | {"report": name}
    manifests = {}
    for stage, values in took.items():
        attempt = store.new_attempt(stage, identities[stage])
        rows = 60 if stage == "tokens" else 10
        columns = {"id": range(rows), "tokens": [[1] * 8] * rows, "length": [8] * rows, "text": ["x"] * rows}
        write_table(f"{attempt.uri}/split=train/a.parquet", pa.table(columns).cast(SCHEMAS["tokens/1"]))
        manifests[stage] = store.commit(
            attempt,
            version=1,
            recipe={},
            inputs={key: value for key, value in identities.items() if key != "report"},
            counts={"epochs": 2} if stage == "stage_one" else {},
            metrics={name: values[name] for name in ("train_s", "beside_s") if name in values},
            provenance=values,
        )
    store.write_run(manifests["report"], {"recipe": recipe.plain()})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with a run like `TINY`, and with others that are not."""
    found = Store(str(tmp_path))
    took = {
        "tokens": {"wall_s": 9.0, "workers": 2},  # by a version that did not note what workers spent
        "stage_one": {"wall_s": 30.0, "train_s": 18.0, "beside_s": 2.0, "workers": 2},
        "codes": {"wall_s": 7.0, "workers": 2, "busy_s": 6.0},
        "report": {"wall_s": 0.5, "workers": 2},
    }
    recipe = load_recipe(TINY, ["data.train_rows=60"])
    write_run(found, recipe, "a" * 12, took)
    write_run(found, load_recipe(TINY, ["model.hidden_dim=64"]), "b" * 12, took | {"codes": {"wall_s": 99.0}})
    resumed = took | {"stage_one": {"wall_s": 5.0, "train_s": 20.0, "workers": 2}, "codes": {"wall_s": 7.0}}
    write_run(found, recipe, "d" * 12, resumed)
    on_gpu = {stage: values | {"gpu": True, "wall_s": 77.0} for stage, values in took.items()}
    write_run(found, recipe, "c" * 12, on_gpu)
    (tmp_path / "runs" / "old").mkdir()
    (tmp_path / "runs" / "old" / "run.json").write_text('{"recipe": {"no": "such"}, "inputs": {}}')
    return found


def test_finished_runs_of_the_same_model_are_what_counts(store: Store) -> None:
    found = builds_of(store, load_recipe(TINY), gpu=False)
    assert found.keys() == {"stage_one", "codes", "report"}
    (stage_one,), (codes,), report = found["stage_one"], found["codes"], found["report"][0]
    assert stage_one.work == Work("stage_one", "tokens", 2 * 60 * 8, 2)
    assert (stage_one.busy_s, stage_one.compute_s, stage_one.overhead_s) == (40, 20, 10)
    assert (codes.work.units, codes.compute_s, codes.overhead_s) == (60, 6, 1)
    assert (report.busy_s, report.compute_s, report.overhead_s) == (None, 0.5, 0)
    assert [build.wall_s for build in builds_of(store, load_recipe(TINY), gpu=True)["codes"]] == [77]
    assert builds_of(store, load_recipe(["lstm_lm", "tiny"]), gpu=False) == {}


def test_estimates_are_of_the_store_and_otherwise_of_the_reference(store: Store) -> None:
    recipe, reference = load_recipe(TINY, ["samples.rows=9000"]), read_reference(f"{TABLES}/costs.yaml")
    works = work_of(recipe, CORPUS, 4)
    found = {each.work.stage: each for each in estimates(works, builds_of(store, recipe, gpu=False), reference)}
    assert {stage: each.builds for stage, each in found.items() if each.builds} == {
        "stage_one": 1,
        "codes": 1,
        "report": 2,
    }
    assert found["codes"].wall_s == pytest.approx(1 + 1150 * (6 / 60))
    samples = reference.stages["samples"]
    assert found["samples"].wall_s == pytest.approx(samples.fixed_s + 9000 * samples.worker_s_per_unit / 4)
    figures = totals(list(found.values()), 4, 0.9)
    assert figures["wall_s"] == pytest.approx(sum(each.wall_s for each in found.values()))
    assert figures["usd"] == pytest.approx(figures["wall_s"] / 3600 * 4 * 0.9)
    probe = sampling_probe(list(found.values()))
    assert (probe.rows, probe.kept) == (9000, 9000)
    assert probe.busy_s == pytest.approx(9000 * samples.worker_s_per_unit)


def test_the_reference_has_every_stage_and_says_of_what() -> None:
    reference = read_reference(f"{TABLES}/costs.yaml")
    works = work_of(reference.recipe, corpus_of(reference.recipe), 2)
    assert reference.stages.keys() == {work.stage for work in works}
    assert {work.stage: work.unit for work in works} == {name: cost.unit for name, cost in reference.stages.items()}
    pretrained = work_of(load_recipe(["vae", "pretraining_fbp", "tiny"]), CORPUS, 1)
    found = {each.work.stage: each.cost for each in estimates(pretrained, {}, reference)}
    assert found["pretraining"] == reference.stages["stage_one"]


def test_a_table_of_costs_that_is_none_is_refused(tmp_path: Path) -> None:
    for text in ("stages: 3", "a: [", "[]"):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"--reference .*x.yaml: no table of costs \(.*see cluster/costs.yaml"):
            read_reference(str(tmp_path / "x.yaml"))
    with pytest.raises(ConfigError, match="no table of costs"):
        read_reference(str(tmp_path / "none.yaml"))
    reference = read_reference(f"{TABLES}/costs.yaml").model_copy(update={"stages": dict[str, Cost]()})
    with pytest.raises(ConfigError, match="no costs of tokens, and none were measured in this store"):
        estimates(work_of(load_recipe(TINY), CORPUS, 1), {}, reference)


def test_the_command_prints_a_table_figures_and_where_they_come_from(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["plan", "--store", store.uri, "--workers", "4", "--machine", "cpu-2", "--rows", "10000000000"]
    assert main(asked) == 0
    said = capsys.readouterr()
    header, *lines = [line.split() for line in said.out.splitlines() if not line.startswith(("wall_s ", "generate_"))]
    stages = [dict(zip(header, line, strict=True)) for line in lines if len(line) == len(header)]
    assert [row["stage"] for row in stages] == [stage.name for stage in plan(load_recipe(TINY))]
    assert {row["stage"]: row["costs"] for row in stages}["codes"] == "1_builds"
    figures = {line.split()[0]: float(line.split()[1]) for line in said.out.splitlines() if len(line.split()) == 2}
    assert figures["wall_s"] == pytest.approx(sum(float(row["wall_s"]) for row in stages), abs=0.5)
    assert figures["generate_ranges"] == 5000
    assert figures["generate_driver_gigabytes_near_duplicate"] == 640
    assert "not measured in this store: tokens, stage_two, samples, evaluate, faithfulness; their costs" in said.err
    assert "over 10 times what was measured: stage_one, codes" in said.err
    assert "another model" not in said.err
    assert main([*asked, "model.hidden_dim=32"]) == 0
    assert "that was another model, so they are a guide at best" in capsys.readouterr().err
    assert main(["plan", "--store", store.uri, "--machine", "big"]) == 2
    assert "--machine big: not in the table of prices" in capsys.readouterr().err
    assert main(["plan", "--store", store.uri, "--rows", "-1"]) == 2
    assert capsys.readouterr().err == "error: --rows -1: give at least 1\n"
    assert main(["plan", "--store", store.uri, "--workers", "0"]) == 2
    assert "workers=0: input should be greater than or equal to 1" in capsys.readouterr().err
