"""Runs that are killed for real, and the same command given again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from davam.data.artifacts import Store
from tests.programs import ROOT, SMALL, run

LONG = [*SMALL, "data.train_rows=4000", "stage_one.epochs=8"]


def stage_one_weights(store_uri: Path) -> dict[str, bytes]:
    """The bits of every weight and buffer of the trained stage one."""
    store = Store(str(store_uri))
    manifest = store.list_stage("stage_one")[0]
    path = next(uri for uri in store.file_uris(manifest) if uri.endswith("model.safetensors"))
    return {name: value.numpy().tobytes() for name, value in load_file(path).items()}


def started(store: Path) -> subprocess.Popen[str]:
    """The program in the background, saving often."""
    command = [sys.executable, "pipelines/stage_one.py", "--store", str(store), "--workers", "2"]
    command += ["--checkpoint-every-s", "1", *LONG]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for_checkpoint(store: Path, process: subprocess.Popen[str]) -> None:
    """Until the run has saved something in the middle of its training."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and process.poll() is None:
        if list(store.glob("train/stage_one-*/checkpoint_*/train_state.pt")):
            return
        time.sleep(0.2)
    pytest.fail(f"no checkpoint was written: {process.communicate()[1] if process.poll() is not None else 'too slow'}")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["kill", "term", "interrupt"])
def test_a_killed_run_goes_on_and_ends_as_the_unbroken_one(tmp_path: Path, blow: signal.Signals) -> None:
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    for store in (broken, whole):
        assert run("--store", str(store), *LONG, script="tokens").returncode == 0
    process = started(broken)
    wait_for_checkpoint(broken, process)
    os.kill(process.pid, blow)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[blow]
    assert not list(broken.glob("artifacts/stage_one/*/manifest.json"))
    if blow is not signal.SIGKILL:
        assert "Traceback" not in talk
        assert "stopped; the same command goes on from the last checkpoint" in talk
    for store in (broken, whole):
        done = run("--store", str(store), "--workers", "2", *LONG, script="stage_one")
        assert done.returncode == 0, done.stderr
    assert stage_one_weights(broken) == stage_one_weights(whole)
