"""Sweeps as their users make them: real Ray Tune, every trial trained once, nothing held when it ends."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from davam.data.artifacts import Store
from davam.data.schemas import check
from tests.programs import ROOT, run

TINY = ["data.train_rows=400", "data.valid_rows=60", "data.test_rows=60", "model.hidden_dim=32", "model.embed_dim=16"]
SHORT = [*TINY, "stage_one.epochs=2", "stage_one.batch_rows=32"]
CODES = ["--preset", "recommended,tiny", *SHORT, "model.code_dim=8"]
FREE = """
import logging, sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
for _ in range(30):
    if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
        sys.exit(0)
    time.sleep(1)
sys.exit(f"held: {ray.available_resources()} of {ray.cluster_resources()}")
"""


@pytest.fixture
def small_codes(tmp_path: Path) -> str:
    """A preset for so few rows."""
    path = tmp_path / "small.yaml"
    path.write_text("model: {codebook_size: 16, code_dim: 8}")
    return str(path)


@pytest.fixture
def cluster() -> Iterator[Callable[[int], str]]:
    """Starts a cluster of so many CPUs; its address."""
    made: list[Cluster] = []

    def start(cpus: int) -> str:
        made.append(Cluster(initialize_head=True, head_node_args={"num_cpus": cpus}))
        return str(made[0].address)

    yield start
    made[0].shutdown()


def started(address: str, store: Path, *arguments: str) -> subprocess.Popen[str]:
    """The sweep in the background, on the cluster."""
    command = [sys.executable, "pipelines/sweep.py", "--store", str(store), "--checkpoint-every-s", "1", *arguments]
    environment = {**os.environ, "RAY_ADDRESS": address}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it printed and said. Fails when it failed."""
    out, talk = process.communicate(timeout=1_200)
    assert process.returncode == 0, talk
    return out, talk


def require_free(address: str) -> None:
    """Fails when CPUs of the cluster are held by anything."""
    done = subprocess.run([sys.executable, "-c", FREE, address], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def rows(stdout: str) -> list[list[str]]:
    """The cells of the printed table."""
    lines = [line for line in stdout.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def attempts(store: Path, stage: str) -> dict[str, list[str]]:
    """The attempts that left files, by artifact."""
    found: dict[str, list[str]] = {}
    for path in store.glob(f"artifacts/{stage}/*/*/*"):
        found.setdefault(path.parents[1].name, [])
        if path.parent.name not in found[path.parents[1].name]:
            found[path.parents[1].name].append(path.parent.name)
    return found


def programs_of(store: Path) -> list[psutil.Process]:
    """The running trials of a store."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if str(store) in line and any(part.endswith("trial.py") for part in line):
            found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trials_are_trained_once_and_full_goes_on_from_the_best(tmp_path: Path, small_codes: str) -> None:
    grid = f"preset=[recommended,{small_codes}],lstm_lm"
    arguments = ["--store", str(tmp_path), "--preset", "tiny", "--grid", grid, *SHORT]
    done = run(*arguments, script="sweep")
    assert done.returncode == 0, done.stderr
    table = rows(done.stdout)
    assert sorted(row[1] for row in table) == ["done", "done"]
    found = pq.read_table(next(tmp_path.glob("sweeps/*/trials.parquet")))
    check(found.schema, "sweep/1", "the table")
    assert found["value"].to_pylist() == sorted(found["value"].to_pylist())
    assert set(found["metric"].to_pylist()) == {"valid_ppl_bound_bigram", "valid_ppl_exact"}
    assert "<svg" in next(tmp_path.glob("sweeps/*/sweep.html")).read_text()
    before = attempts(tmp_path, "stage_one")
    again = run(*arguments, script="sweep")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("skip   done") == 2
    assert "build" not in again.stderr
    assert rows(again.stdout) == table
    assert attempts(tmp_path, "stage_one") == before
    assert [len(names) for names in before.values()] == [1, 1]
    line = next(line for line in again.stdout.splitlines() if line.startswith("python pipelines/full.py "))
    plan = run(*shlex.split(line)[2:], "--dry-run").stdout.splitlines()
    assert {row.split()[0]: row.split()[1] for row in plan[:2]} == {"tokens": "skip", "stage_one": "skip"}


@pytest.mark.slow
@pytest.mark.timeout(2_400)
def test_a_killed_sweep_goes_on_and_trains_nothing_twice(tmp_path: Path, cluster: Callable[[int], str]) -> None:
    address = cluster(4)
    grid = ["--grid", "model.codebook_size=8,12,16,24", "--grid", "model.beta_max=0.1,1"]
    arguments = [*CODES, *grid, "stage_one.epochs=12"]
    process = started(address, tmp_path, *arguments)
    while len(list(tmp_path.glob("artifacts/selection/*/manifest.json"))) < 3 or not list(
        tmp_path.glob("train/stage_one-*/checkpoint_*")
    ):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while programs_of(tmp_path):
        assert time.monotonic() < deadline, "a trial outlived its sweep"
        time.sleep(0.2)
    require_free(address)
    half = {path.parent.name.removeprefix("stage_one-") for path in tmp_path.glob("train/stage_one-*/checkpoint_*")}
    before = {manifest.fingerprint: manifest for manifest in Store(str(tmp_path)).list_stage("stage_one")}
    assert before
    assert half
    out, talk = finished(started(address, tmp_path, *arguments))
    assert [row[1] for row in rows(out)] == ["done"] * 8
    assert talk.count("skip   done") >= 3
    after = {manifest.fingerprint: manifest for manifest in Store(str(tmp_path)).list_stage("stage_one")}
    assert len(after) == 8
    assert {name: after[name] for name in before} == before
    assert half <= {name[:12] for name in after}
    assert not list(tmp_path.glob("train/stage_one-*/checkpoint_*"))
    require_free(address)


@pytest.mark.slow
@pytest.mark.timeout(2_400)
def test_halving_stops_trials_and_frees_their_cpus(tmp_path: Path, cluster: Callable[[int], str]) -> None:
    address = cluster(2)  # one trial at a time, so that the first is always what the others are compared with
    learning = ["--grid", "stage_one.optimizer.lr=1,0.0003,0.0002,0.0001", "stage_one.epochs=40"]
    arguments = ["--asha", "--preset", "lstm_lm,tiny", *TINY, "data.train_rows=2000", *learning]
    out, talk = finished(started(address, tmp_path, *arguments))
    assert [row[1] for row in rows(out)] == ["done", "stopped", "stopped", "stopped"]
    assert rows(out)[0][0] == "lr=1"
    assert talk.count("stopped: others were better after as many epochs") == 3
    require_free(address)
    assert len(list(tmp_path.glob("artifacts/stage_one/*/manifest.json"))) == 1
    again, talk = finished(started(address, tmp_path, *arguments))
    assert rows(again) == rows(out)
    assert talk.count("skip   stopped") == 3
    assert "build" not in talk


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_a_failed_trial_is_named_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    grid = ["--grid", "model.codebook_size=8,5000"]
    done = run("--store", str(tmp_path), *CODES, *grid, script="sweep")
    assert done.returncode == 1
    (best, failed) = rows(done.stdout)
    assert best[:2] == ["codebook_size=8", "done"]
    assert failed[1].startswith("failed: 400 training sentences for 5000 codes: every code needs several; add text")
    assert "trials that failed: codebook_size=5000; see their logs, and give the command again" in done.stderr


def test_what_is_refused_before_any_work(tmp_path: Path) -> None:
    for arguments, message in (
        ([], "nothing to sweep: give --grid KEY=VALUE,VALUE,..."),
        (["--grid", "model.codebok_size=8,16"], "model.codebok_size: unknown key; did you mean codebook_size?"),
        (
            ["--preset", "tiny", "--grid", "preset=recommended,gavam", "model.codebook_size=16"],
            "trial preset=gavam: model.codebook_size: unknown key",
        ),
        (["--grid", "model.code_dim=8,16", "--metric", "valid_ppl_exact"], "without --prior) has no such measure; it"),
    ):
        done = run("--store", str(tmp_path), *arguments, script="sweep")
        assert done.returncode == 2, (arguments, done.stderr)
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
