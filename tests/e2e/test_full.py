"""The whole pipeline as its user runs it: real Ray, two workers, a small recipe of the embedded corpus."""

import json
import subprocess
from pathlib import Path

import davam
from davam.data import grammar
from davam.data.artifacts import Store
from davam.execution import BLOCK_ROWS
from tests.programs import SMALL, STAGES, actions, report_of, run


def test_every_stage_is_built_and_reported(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    done = built[1]
    assert done.returncode == 0, done.stderr
    assert actions(done.stderr) == dict.fromkeys(STAGES, "build")
    lines = done.stdout.splitlines()
    assert len([line for line in lines[:10] if line.strip()]) == 10
    figures = {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith(("ppl_", "rec_", "codes_"))}
    assert figures["ppl_bound"] >= figures["ppl_floor"]
    assert figures["ppl_bound"] < len(grammar.vocabulary())  # better than guessing among all words
    assert "ppl_bound" in report_of(done).read_text("utf-8")
    assert "ray job submit --working-dir . -- python pipelines/full.py" in lines[-1]


def test_counts_agree_between_stages(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    store = Store(str(built[0]))
    manifests = {stage: store.list_stage(stage)[0] for stage in STAGES}
    assert manifests["tokens"].counts["rows"] == manifests["codes"].counts["rows"] == 2200 > BLOCK_ROWS
    assert manifests["samples"].counts["rows"] == 130
    tokens = store.read_table(manifests["tokens"], "tokens/1")
    codes = store.read_table(manifests["codes"], "codes/1")
    assert sorted(tokens["id"].to_pylist()) == sorted(codes["id"].to_pylist()) == list(range(2200))


def test_codes_do_not_depend_on_workers_or_batches(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    store = Store(str(built[0]))
    tokens, stored = (store.read_table(store.list_stage(stage)[0], f"{stage}/1") for stage in ("tokens", "codes"))
    model = davam.load(store.artifact_uri("stage_one", store.list_stage("stage_one")[0].fingerprint))
    backwards = tokens.sort_by([("id", "descending")])
    again = model.encode_tokens(backwards["tokens"].to_pylist())
    assert again == stored.sort_by([("id", "descending")])["codes"].to_pylist()


def test_samples_do_not_depend_on_workers_or_batches(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    store = Store(str(built[0]))
    stored = store.read_table(store.list_stage("samples")[0], "samples/2").sort_by("id")
    model = davam.load(store.artifact_uri("stage_two", store.list_stage("stage_two")[0].fingerprint))
    shuffled = list(range(129, -1, -1))
    again = model.sample_ids(shuffled, seed=0).table().sort_by("id")
    assert again["text"].to_pylist() == stored["text"].to_pylist()
    assert again["codes"].to_pylist() == stored["codes"].to_pylist()
    assert again["prior_nats"].to_pylist() == stored["prior_nats"].to_pylist()


def test_a_second_run_builds_nothing(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    again = run("--store", str(built[0]), "--workers", "1", *SMALL)
    assert again.returncode == 0, again.stderr
    assert actions(again.stderr) == dict.fromkeys(STAGES, "skip")
    assert again.stdout.splitlines()[:10] == built[1].stdout.splitlines()[:10]


def test_an_override_rebuilds_its_descendants_alone(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    plan = run("--store", str(built[0]), "--dry-run", *SMALL, "prior.dropout=0.2")
    assert plan.returncode == 0, plan.stderr
    assert actions(plan.stdout) == {
        "tokens": "skip",
        "stage_one": "skip",
        "codes": "skip",
        "stage_two": "build",
        "samples": "build",
        "evaluate": "build",
        "faithfulness": "build",
        "report": "build",
    }
    assert "recipe changed: prior.dropout 0.05 -> 0.2" in plan.stdout


def test_a_stage_alone_says_what_it_needs(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    alone = run("--store", str(built[0]), *SMALL, "model.codebook_size=32", script="codes")
    assert alone.returncode == 1
    assert "codes needs stage_one for this recipe; run: python pipelines/stage_one.py" in alone.stderr
    assert "Traceback" not in alone.stderr


def test_the_run_can_be_loaded_and_shown(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    record = next((built[0] / "runs").glob("*/run.json"))
    assert len(davam.load(record.parent).sample(3).texts) == 3
    assert set(json.loads(record.read_text())["inputs"]) == set(STAGES) - {"report"}
