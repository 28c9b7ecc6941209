"""The way clusters are used: a running head, a submitted job, its log and its exit code."""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from davam.data.artifacts import Store
from tests.programs import ROOT, SMALL, STAGES, actions

BIN = Path(sys.executable).parent
AUTH = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether the server is up."""
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {AUTH['RAY_AUTH_TOKEN']}"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """The address of a head with two CPUs, all of them for the two workers, and ports of its own."""
    port = free_port()
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={free_port()}", "--num-cpus=2"]
    command += [f"--dashboard-port={port}", f"--ray-client-server-port={free_port()}"]
    environment = {**os.environ, **AUTH, "PATH": f"{BIN}:{os.environ['PATH']}"}
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while not answers(f"{address}/api/version") and time.monotonic() < deadline:
        time.sleep(0.5)
    yield address
    head.send_signal(signal.SIGTERM)
    head.wait(timeout=60)


def submit(dashboard: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The finished submission."""
    command = [str(BIN / "ray"), "job", "submit", "--address", dashboard, "--working-dir", ".", "--"]
    command += ["python", "pipelines/full.py", *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {**AUTH, "NO_COLOR": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_does_the_same_and_passes_its_exit_code_on(dashboard: str, tmp_path: Path) -> None:
    done = submit(dashboard, "--store", str(tmp_path), "--workers", "2", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert actions(done.stdout) == dict.fromkeys(STAGES, "build")
    assert "ppl_bound" in done.stdout
    assert not re.search(r"Traceback|WARNING.*ray|\x1b\[K", done.stdout), done.stdout
    assert Store(str(tmp_path)).list_stage("report")
    again = submit(dashboard, "--store", str(tmp_path), "--workers", "2", *SMALL)
    assert actions(again.stdout) == dict.fromkeys(STAGES, "skip")
    wrong = submit(dashboard, "--store", str(tmp_path), "model.codebok_size=9")
    assert wrong.returncode != 0
    assert "error: model.codebok_size: unknown key; did you mean codebook_size?" in wrong.stdout
