"""The whole pipeline, hit in the middle of each kind of work: a driver that is killed, a job that is stopped, a machine
that goes. It ends with what the unbroken run ends with, and has not done more again than it has to."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from davam.data.artifacts import Store
from davam.data.lease import leases
from tests.head import Head, begin, free_port, job, ray_job, running, submit
from tests.programs import ROOT, SMALL, STAGES, actions, two_nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
SETTINGS = [*SMALL, "data.train_rows=3000", "samples.rows=3000"]
MOMENTS = range(10)
PROGRAM = str(ROOT / "tests" / "faults" / "traced_full.py")


def arguments(store: Path, workers: str = "2") -> list[str]:
    return ["--store", str(store), "--workers", workers, "--checkpoint-every-s", "2", *SETTINGS]


def started(store: Path, workers: str = "2", address: str | None = None) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_ADDRESS": address} if address else {}
    command = [sys.executable, PROGRAM, *arguments(store, workers)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(store: Path) -> str:
    """What the program says, once it has ended well."""
    process = started(store)
    _, talk = process.communicate(timeout=900)
    assert process.returncode == 0, talk
    return talk


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


def check_extra_work(store: Path) -> None:
    """Each start of a training goes on from its last checkpoint, or from the one before it, where Ray had not yet taken
    note of the last one: what is done again is at most what lies between two checkpoints."""
    traces = list(store.glob("steps/*.txt"))
    assert len(traces) == 2
    for trace in traces:
        done, saved = 0, [0, 0]
        for line in trace.read_text().splitlines():
            if line == "saved":
                saved.append(done)
                continue
            step = int(line)
            assert saved[-2] <= step <= done, trace.read_text()
            saved = [0, 0, *(each for each in saved[2:] if each <= step)]
            done = step + 1


def complete(store: Path) -> set[str]:
    """The stages that have been built; each is whole."""
    opened, found = Store(str(store)), set()
    for stage in STAGES:
        for manifest in opened.list_stage(stage):
            assert opened.find(stage, manifest.fingerprint) is not None
            found.add(stage)
    return found


def weights(store: Path, stage: str) -> dict[str, torch.Tensor]:
    opened = Store(str(store))
    uris = opened.file_uris(opened.list_stage(stage)[0])
    return load_file(next(uri for uri in uris if uri.endswith("model.safetensors")))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("unbroken")
    finished(store)
    return store


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """With two CPUs, all of them for the two workers."""
    with running(free_port(), "--num-cpus=2") as made:
        yield made


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_driver_and_a_new_start(moment: int, unbroken: Path, tmp_path: Path) -> None:
    """At a random moment of a run, by its place between two of its stages' ends."""
    chance = random.Random(moment)
    process = started(tmp_path)
    wait_for_moment(chance, tmp_path, lambda: process.poll() is None)
    process.send_signal(chance.choice((signal.SIGKILL, signal.SIGTERM)))
    process.communicate(timeout=60)
    before = complete(tmp_path)
    assert actions(finished(tmp_path)) == {stage: "skip" if stage in before else "build" for stage in STAGES}
    check(tmp_path, unbroken, exact=True)
    check_extra_work(tmp_path)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stopped_job_and_a_new_submission(moment: int, head: Head, unbroken: Path, tmp_path: Path) -> None:
    name = f"moment-{moment}"
    begin(head, name, *arguments(tmp_path), program=PROGRAM)
    wait_for_moment(random.Random(100 + moment), tmp_path, lambda: job(head, name)["status"] in ("PENDING", "RUNNING"))
    stopped = ray_job(head, "stop", name)
    assert job(head, name)["status"] == "STOPPED", stopped.stdout
    before = complete(tmp_path)
    again = submit(head, *arguments(tmp_path), program=PROGRAM)
    assert again.returncode == 0, again.stdout
    assert actions(again.stdout) == {stage: "skip" if stage in before else "build" for stage in STAGES}
    check(tmp_path, unbroken, exact=True)
    check_extra_work(tmp_path)


def test_a_second_submission_waits_and_goes_on_where_the_first_is_stopped(
    head: Head, unbroken: Path, tmp_path: Path
) -> None:
    begin(head, "first", *arguments(tmp_path), program=PROGRAM)
    wait_for("tokens", tmp_path, lambda: job(head, "first")["status"] in ("PENDING", "RUNNING"))
    begin(head, "second", *arguments(tmp_path), program=PROGRAM)
    waits = re.compile(r"^\w+ +wait   process \d+ on \S+, job first, since .* builds it$", re.MULTILINE)
    while not waits.search(job(head, "second", "/logs")["logs"]) or not list(tmp_path.glob("steps/*")):
        assert job(head, "first")["status"] == "RUNNING"
        time.sleep(0.1)
    ray_job(head, "stop", "first")
    assert job(head, "first")["status"] == "STOPPED"
    ray_job(head, "logs", "--follow", "second")
    assert job(head, "second")["status"] == "SUCCEEDED", job(head, "second", "/logs")["logs"]
    check(tmp_path, unbroken, exact=True)
    check_extra_work(tmp_path)


def wait_for_moment(chance: random.Random, store: Path, runs: Callable[[], bool]) -> None:
    """Until some while after the beginning of some stage."""
    wait_for(chance.choice(("tokens", "stage_one", "codes", "stage_two", "samples")), store, runs)
    time.sleep(chance.uniform(0, 4))


def wait_for(stage: str, store: Path, runs: Callable[[], bool]) -> None:
    """Until the stage is being built, or has been."""
    while not any(lease.name.startswith(f"{stage}-") for lease in leases(str(store))):
        if list(store.glob(f"artifacts/{stage}/*/manifest.json")):
            return
        assert runs(), f"it ended before {stage}"
        time.sleep(0.05)


def saved(store: Path, stage: str) -> bool:
    """Whether the stage's training has a checkpoint."""
    return bool(list(store.glob(f"train/{stage}-*/checkpoint_*/train_state.pt")))


@pytest.mark.parametrize("stage", ["stage_one", "codes", "stage_two", "samples"])
def test_a_machine_goes(stage: str, cluster: Cluster, unbroken: Path, tmp_path: Path) -> None:
    """One of two machines is lost in the middle of a stage, and comes back later; the run goes on by itself."""
    nodes = two_nodes(cluster)
    process = started(tmp_path, "1:2", cluster.address)
    wait_for(stage, tmp_path, lambda: process.poll() is None)
    if stage.startswith("stage"):
        while not saved(tmp_path, stage):
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
    check_extra_work(tmp_path)
