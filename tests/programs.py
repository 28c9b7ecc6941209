"""The programs as their users run them: real Ray, a small recipe of the embedded corpus."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
SMALL = [
    "data.train_rows=2000",  # with the others more than a block, so that two actors make the codes
    "data.valid_rows=100",
    "data.test_rows=100",
    "model.codebook_size=64",
    "model.hidden_dim=64",
    "prior.hidden_dim=64",
    "prior.embed_dim=32",
    "stage_one.epochs=3",
    "stage_two.epochs=3",
    "stage_one.batch_rows=32",
    "stage_two.batch_rows=32",
    "samples.rows=130",
]
STAGES = ["tokens", "stage_one", "codes", "stage_two", "samples", "evaluate", "faithfulness", "report"]


def run(*arguments: str, script: str = "full") -> subprocess.CompletedProcess[str]:
    """The finished program; how long it may take is the test's own limit."""
    command = [sys.executable, f"pipelines/{script}.py", *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def actions(stderr: str) -> dict[str, str]:
    """What was done with each stage, by the program's own lines."""
    words = [line.split() for line in stderr.splitlines()]
    return {line[0]: line[1] for line in words if len(line) > 2 and line[0] in STAGES and line[1] in ("skip", "build")}


def started(script: str, arguments: Sequence[str], until: Callable[[], object]) -> subprocess.Popen[str]:
    """The program in the background, as soon as that holds. Fails when it ends before; the test's own time limit ends
    the wait for one that stands still."""
    command = [sys.executable, f"pipelines/{script}.py", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not until():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
    except BaseException:
        process.kill()
        raise
    return process


def killed(script: str, arguments: Sequence[str], when: Callable[[], object]) -> None:
    """Starts the program, and kills it as soon as that holds."""
    process = started(script, arguments, when)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def kill_actor(driver: int, moment: random.Random) -> bool:
    """Kills one of the program's model actors, if there is one now."""
    actors = [child for child in children(driver) if "MapWorker" in child.name()]
    if actors:
        os.kill(moment.choice(actors).pid, signal.SIGKILL)
    return bool(actors)


def two_nodes(cluster: Any) -> list[Any]:
    """The cluster's nodes beside its head: always two of two CPUs."""
    while len(cluster.worker_nodes) < 2:
        cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    return sorted(cluster.worker_nodes, key=lambda node: node.unique_id)


def children(pid: int) -> list[psutil.Process]:
    """All processes below that one; none where it has ended."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def report_of(done: subprocess.CompletedProcess[str]) -> Path:
    """The page that the program named."""
    return Path(next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("report ")))
