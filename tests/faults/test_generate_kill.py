"""Generation that is killed for real, again and again, ends with the rows of the unbroken run."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from ray.cluster_utils import Cluster

import davam
from davam.data import grammar
from davam.generation.corpus import read_corpus
from tests.programs import ROOT, kill_actor

ROWS, ROUNDS = 6_000, 20
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_000)]


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
    environment |= {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"} if address else {}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def check(store: Path, unbroken: pa.Table) -> None:
    """Every row once, each as in the unbroken run."""
    made = pa.concat_tables(read_corpus(str(store)))
    assert made["id"].to_pylist() == unbroken["id"].to_pylist()
    assert made["text"].to_pylist() == unbroken["text"].to_pylist()
    assert made["codes"].to_pylist() == unbroken["codes"].to_pylist()


def finish(process: subprocess.Popen[str]) -> None:
    """Waits for the program to end well."""
    _, talk = process.communicate(timeout=400)
    assert process.returncode == 0, talk


def test_the_driver(model: Path, unbroken: pa.Table, tmp_path: Path) -> None:
    for round_index in range(ROUNDS):
        store, moment = tmp_path / str(round_index), random.Random(round_index)
        for _ in range(2):
            process = started(model, store)
            time.sleep(moment.uniform(4, 20))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.communicate(timeout=60)
        finish(started(model, store))
        check(store, unbroken)


def test_an_actor(model: Path, unbroken: pa.Table, tmp_path: Path) -> None:
    killed = 0
    for round_index in range(ROUNDS):
        store, moment = tmp_path / str(round_index), random.Random(round_index)
        process = started(model, store)
        time.sleep(moment.uniform(6, 15))
        killed += kill_actor(process.pid, moment)
        finish(process)
        check(store, unbroken)
    assert killed > ROUNDS // 2


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    beats = {
        "health_check_initial_delay_ms": 500,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 3,
    }
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": beats})
    yield made
    made.shutdown()


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers(cluster: Cluster, workers: int, model: Path, unbroken: pa.Table, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=4)
    cluster.wait_for_nodes()
    finish(started(model, tmp_path, cluster.address, workers))
    check(tmp_path, unbroken)


def test_a_node(cluster: Cluster, model: Path, unbroken: pa.Table, tmp_path: Path) -> None:
    spare = [cluster.add_node(num_cpus=2) for _ in range(2)]
    cluster.wait_for_nodes()
    for round_index in range(ROUNDS):
        store, moment = tmp_path / str(round_index), random.Random(round_index)
        process = started(model, store, cluster.address)
        time.sleep(moment.uniform(6, 15))
        cluster.remove_node(spare.pop(moment.randrange(len(spare))), allow_graceful=False)
        spare.append(cluster.add_node(num_cpus=2))
        finish(process)
        check(store, unbroken)
