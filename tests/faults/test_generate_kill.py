"""Generation that is killed for real, again and again, ends with the rows of the unbroken run."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from ray.cluster_utils import Cluster

import davam
from davam.data import grammar
from davam.generation.corpus import read_corpus
from tests.programs import ROOT, kill_actor, two_nodes

ROWS = 6_000
ROUNDS = pytest.mark.parametrize("round_index", range(20))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    overrides = ["stage_one.epochs=2", "stage_two.epochs=1", "model.codebook_size=64"]
    davam.fit(grammar.sample_sentences(1500, seed=3), davam.load_recipe(["recommended", "tiny"], overrides)).save(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def unbroken(model: Path) -> pa.Table:
    drawn = davam.load(model).sample(ROWS)
    return pa.table({"id": drawn.ids, "text": drawn.texts, "codes": pa.array(drawn.codes, pa.list_(pa.int32()))})


def started(model: Path, store: Path, address: str | None = None, workers: int = 2) -> subprocess.Popen[str]:
    """The program in the background, with ranges of a third of the rows."""
    command = [sys.executable, "pipelines/generate.py", "--model", str(model), "--store", str(store)]
    command += ["--rows", str(ROWS), "--range-rows", str(ROWS // 3 + 1), "--workers", str(workers)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_ADDRESS": address} if address else {}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def check(store: Path, unbroken: pa.Table) -> None:
    """Every row once, each as in the unbroken run."""
    made = pa.concat_tables(read_corpus(str(store)))
    assert made["id"].to_pylist() == unbroken["id"].to_pylist()
    assert made["text"].to_pylist() == unbroken["text"].to_pylist()
    assert made["codes"].to_pylist() == unbroken["codes"].to_pylist()


def finish(process: subprocess.Popen[str], again: Callable[[], subprocess.Popen[str]]) -> None:
    """Waits for the program to end well. After a loss that it cannot make good it says so, and its command is given
    again."""
    _, talk = process.communicate(timeout=400)
    if process.returncode and "the same command goes on" in talk:
        process = again()
        _, talk = process.communicate(timeout=400)
    assert process.returncode == 0, talk


def begun(model: Path, store: Path, address: str | None = None) -> subprocess.Popen[str]:
    """The program in the background, once it has begun with a range."""
    process = started(model, store, address)
    while not (store / "pending").exists() and not (store / "ranges").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    return process


@ROUNDS
def test_the_driver(round_index: int, model: Path, unbroken: pa.Table, tmp_path: Path) -> None:
    moment = random.Random(round_index)
    for _ in range(2):
        process = begun(model, tmp_path)
        time.sleep(moment.uniform(0, 12))
        assert process.poll() is None, "it had ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    finish(started(model, tmp_path), lambda: started(model, tmp_path))
    check(tmp_path, unbroken)


@ROUNDS
def test_an_actor(round_index: int, model: Path, unbroken: pa.Table, tmp_path: Path) -> None:
    moment = random.Random(round_index)
    process = begun(model, tmp_path)
    time.sleep(moment.uniform(0, 15))
    while not kill_actor(process.pid, moment):
        assert process.poll() is None, "it had ended before an actor could be killed"
        time.sleep(0.05)
    finish(process, lambda: started(model, tmp_path))
    check(tmp_path, unbroken)


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers(cluster: Cluster, workers: int, model: Path, unbroken: pa.Table, tmp_path: Path) -> None:
    two_nodes(cluster)
    program = partial(started, model, tmp_path, cluster.address, workers)
    finish(program(), program)
    check(tmp_path, unbroken)


@ROUNDS
def test_a_node(round_index: int, cluster: Cluster, model: Path, unbroken: pa.Table, tmp_path: Path) -> None:
    moment, nodes = random.Random(round_index), two_nodes(cluster)
    process = begun(model, tmp_path, cluster.address)
    time.sleep(moment.uniform(0, 15))
    assert process.poll() is None, "it had ended before a node could be killed"
    cluster.remove_node(moment.choice(nodes), allow_graceful=False)
    two_nodes(cluster)
    finish(process, lambda: started(model, tmp_path, cluster.address))
    check(tmp_path, unbroken)
