"""Texts and their judges as stages with real Ray; and the tables as their user makes them."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import davam
from davam.api import load_judge
from davam.errors import DataError
from davam.evaluate.text_tables import Setting
from davam.execution import Execution
from davam.nn.choice import Choice
from davam.recipe import load_recipe
from pipelines.draws import draws_stage, judged_stage, real_stage, strung_stage
from pipelines.model import model_stage
from pipelines.stage import Run, run_stage
from pipelines.text_tables import judge_source
from tests.judges import causal_lm_folder
from tests.programs import SMALL, run

SETTINGS = [Setting("length", 4, 12), Setting("temperature", 0.7, 300)]
ORDER = [("setting", "ascending"), ("id", "ascending")]


@pytest.fixture(scope="module")
def small(built: tuple[Path, subprocess.CompletedProcess[str]]) -> Iterator[Run]:
    """The run that left the small model."""
    assert built[1].returncode == 0, built[1].stderr
    store = str(built[0])
    recipe = load_recipe(["recommended", "tiny", "brief"], SMALL)
    yield Run(recipe, Execution(store=store), davam.data.artifacts.Store(store), ())
    ray.shutdown()


def test_texts_are_drawn_and_judged_once(small: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = judge_source(str(causal_lm_folder(tmp_path)), False)
    for stage, lengths in ((draws_stage(SETTINGS), 12), (real_stage(SETTINGS), 12), (strung_stage(SETTINGS[:1]), 12)):
        texts = run_stage(stage, small)
        judged = run_stage(judged_stage(stage, judge), small)
        table = small.store.read_table(judged, "judged/2").sort_by(ORDER)
        of_length = [row for row in table.to_pylist() if row["setting"] == 0]
        assert {len(row["text"].split()) for row in of_length} <= {4}
        assert len(of_length) <= lengths
        costs = load_judge(judge.name)(table["text"].to_pylist())
        assert table["nats"].to_pylist() == pytest.approx(costs.nats_N.tolist(), rel=1e-4)
        assert table["tokens"].to_pylist() == costs.tokens_N.tolist()
        assert table["unknown"].to_pylist() == costs.unknown_N.tolist()
        capsys.readouterr()
        assert run_stage(stage, small) == texts
        assert run_stage(judged_stage(stage, judge), small) == judged
        assert capsys.readouterr().err.count("  skip   ") == 2


def test_a_text_that_the_judge_cannot_read_is_one_message(small: Run, tmp_path: Path) -> None:
    judge = judge_source(str(causal_lm_folder(tmp_path, positions=4)), False)
    with pytest.raises(DataError, match=r"^texts\[\d+\] \('.+'\) has \d+ tokens, but the judge reads 4; give another"):
        run_stage(judged_stage(real_stage(SETTINGS), judge), small)


def test_drawn_texts_are_those_of_the_library(small: Run) -> None:
    table = small.store.read_table(run_stage(draws_stage(SETTINGS), small), "draws/1").sort_by(ORDER)
    stage = model_stage(small.recipe)
    model = davam.load(small.store.artifact_uri(stage.name, stage.fingerprint(small.recipe)))
    four = model.sample(12, seed=0, sampling=davam.Sampling(min_length=4, max_length=4)).texts
    choice = Choice(temperature=0.7)
    sampling = davam.Sampling(prior=choice, decoder=choice)
    warm = model.sample_ids(range(12, 312), seed=0, sampling=sampling).texts
    assert table["text"].to_pylist() == four + warm


@pytest.mark.slow
def test_the_tables_are_made_once(tmp_path: Path) -> None:
    arguments = ["--preset", "tiny", "--store", str(tmp_path), "--rows", "vae_attn", "--epochs", "2"]
    arguments += ["--lengths", "5,40", "--sentences", "10", "--curve-sentences", "30", "--temperatures", "0.5,1"]
    arguments += ["data.train_rows=400", "data.valid_rows=200", "data.test_rows=200", "model.hidden_dim=32"]
    arguments += ["stage_one.batch_rows=32", "samples.rows=64"]
    done = run(*arguments, script="text_tables")
    assert done.returncode == 0, done.stderr
    for name in ("real test text", "lstm_lm", "vae_attn"):
        assert f"| {name} | 5 | " in done.stdout
    assert "Left out: length 40, more than data.max_tokens=32." in done.stdout
    assert "Judge: the project's own" in done.stdout
    twin = json.loads((tmp_path / "tables" / "text_tables-tiny-own.json").read_text("utf-8"))
    assert [row["name"] for row in twin["rows"]] == ["real test text", "real, strung and cut", "lstm_lm", "vae_attn"]
    assert (tmp_path / "tables" / "text_tables-tiny-own.html").exists()
    again = run(*arguments, script="text_tables")
    assert again.returncode == 0, again.stderr
    assert "  build  " not in again.stderr
    assert again.stdout == done.stdout
