"""The whole pipeline, hit in the middle of each kind of work: a driver that is killed, a machine that goes. It ends
with what the unbroken run ends with."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from davam.data.artifacts import Store
from davam.data.lease import leases
from tests.programs import ROOT, SMALL, run, two_nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
SETTINGS = [*SMALL, "data.train_rows=3000", "samples.rows=3000"]
MOMENTS = range(10)


def command(store: Path, workers: str) -> list[str]:
    given = ["--store", str(store), "--workers", workers, "--checkpoint-every-s", "2"]
    return [sys.executable, "pipelines/full.py", *given, *SETTINGS]


def started(store: Path, workers: str = "2", address: str | None = None) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_ADDRESS": address} if address else {}
    return subprocess.Popen(
        command(store, workers), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def table_of(store: Path, stage: str, schema: str) -> pa.Table:
    opened = Store(str(store))
    return opened.read_table(opened.list_stage(stage)[0], schema).sort_by("id")


def check(store: Path, unbroken: Path, exact: bool) -> None:
    """The same artifacts: codes and samples word for word, weights bit for bit or, where other numbers of workers have
    added in another order, nearly so."""
    for stage, schema in (("tokens", "tokens/1"), ("codes", "codes/1"), ("samples", "samples/2")):
        found, wanted = table_of(store, stage, schema), table_of(unbroken, stage, schema)
        same = [name for name in found.column_names if not name.endswith("_nats")]
        assert found.select(same).equals(wanted.select(same)), stage
    for stage in ("stage_one", "stage_two"):
        found_weights, wanted_weights = (weights(each, stage) for each in (store, unbroken))
        for name, value in found_weights.items():
            tolerance = 0.0 if exact else 1e-3
            torch.testing.assert_close(value, wanted_weights[name], rtol=tolerance, atol=tolerance)


def weights(store: Path, stage: str) -> dict[str, torch.Tensor]:
    opened = Store(str(store))
    uris = opened.file_uris(opened.list_stage(stage)[0])
    return load_file(next(uri for uri in uris if uri.endswith("model.safetensors")))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("unbroken")
    done = run("--store", str(store), "--workers", "2", *SETTINGS)
    assert done.returncode == 0, done.stderr
    return store


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_driver_and_a_new_submission(moment: int, unbroken: Path, tmp_path: Path) -> None:
    """At a random moment of a run, by its place between two of its stages' ends."""
    chance = random.Random(moment)
    process = started(tmp_path)
    wait_for(chance.choice(("tokens", "stage_one", "codes", "stage_two", "samples")), tmp_path, process)
    time.sleep(chance.uniform(0, 4))
    blow = chance.choice((signal.SIGKILL, signal.SIGTERM))
    process.send_signal(blow)
    process.communicate(timeout=60)
    again = run(*command(tmp_path, "2")[2:])
    assert again.returncode == 0, again.stderr
    check(tmp_path, unbroken, exact=True)


def wait_for(stage: str, store: Path, process: subprocess.Popen[str]) -> None:
    """Until the stage is being built, or has been."""
    while not any(lease.name.startswith(f"{stage}-") for lease in leases(str(store))):
        if list(store.glob(f"artifacts/{stage}/*/manifest.json")):
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


@pytest.mark.parametrize("stage", ["stage_one", "codes", "stage_two", "samples"])
def test_a_machine_goes(stage: str, cluster: Cluster, unbroken: Path, tmp_path: Path) -> None:
    """One of two machines is lost in the middle of a stage, and comes back later; the run goes on by itself."""
    nodes = two_nodes(cluster)
    process = started(tmp_path, "1:2", cluster.address)
    wait_for(stage, tmp_path, process)
    if stage.startswith("stage"):
        while not list(tmp_path.glob(f"train/{stage}-*/checkpoint_*/train_state.pt")):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
    else:
        time.sleep(4)
    cluster.remove_node(nodes[0], allow_graceful=False)
    two_nodes(cluster)
    _, talk = process.communicate(timeout=900)
    if process.returncode and "the same command goes on" in talk:
        again = started(tmp_path, "1:2", cluster.address)
        _, talk = again.communicate(timeout=900)
        process = again
    assert process.returncode == 0, talk
    check(tmp_path, unbroken, exact=False)
