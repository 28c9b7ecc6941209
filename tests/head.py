"""A cluster as its users have one: a head with a token and ports of its own, and the jobs that it is given."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray.util import get_node_ip_address

from tests.programs import ROOT, children

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """Where drivers and submissions find it, and what the environment of its clients has."""

    address: str
    dashboard: str
    token: str
    pid: int

    def environment(self) -> dict[str, str]:
        """That of a client with the token, which has not been told of any cluster."""
        inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        return inherited | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "NO_COLOR": "1"}

    def nodes(self) -> int:
        """How many nodes there are beside it, of those that it has started itself."""
        return sum(child.name() == "raylet" for child in children(self.pid) if is_running(child)) - 1


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(port: int, *options: str, **variables: str) -> Iterator[Head]:
    """The head, at that port; in the end, nothing of it is left."""
    dashboard_port = free_port()
    # A folder of its own, and of a short name: jobs take their cluster's address from a file in it.
    folder = tempfile.mkdtemp(prefix="ray")
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", f"--temp-dir={folder}", *options]
    # All ports are its own: without the agent's, which jobs go through, it takes no job beside another cluster.
    command += [f"--dashboard-port={dashboard_port}", f"--ray-client-server-port={free_port()}"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    token = secrets.token_hex(32)
    environment = {**os.environ, **variables, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    environment["PATH"] = f"{BIN}:{os.environ['PATH']}"
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    head = Head(f"{get_node_ip_address()}:{port}", f"http://127.0.0.1:{dashboard_port}", token, process.pid)
    try:
        deadline = time.monotonic() + 120
        while not answers(f"{head.dashboard}/api/version", token) or head.nodes() < 0:
            assert process.poll() is None, "the head did not start"
            assert time.monotonic() < deadline, "the head did not start in time"
            time.sleep(0.5)
        yield head
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def answers(url: str, token: str) -> bool:
    """Whether the server is up."""
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and all that it has started."""
    rest = children(process.pid)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    for child in psutil.wait_procs(rest, timeout=10)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def is_running(process: psutil.Process) -> bool:
    """Whether it has neither ended nor only been left in the list."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def ray_job(head: Head, action: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The finished `ray job` command."""
    command = [str(BIN / "ray"), "job", action, "--address", head.dashboard, *arguments]
    environment = head.environment()
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=590, check=False)


def submitted(head: Head, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The finished `ray job submit`, given again as long as a young head has not all of its parts."""
    deadline = time.monotonic() + 120
    done = ray_job(head, "submit", *arguments)
    while "No available agent to submit job" in done.stderr and time.monotonic() < deadline:
        time.sleep(1)
        done = ray_job(head, "submit", *arguments)
    return done


def submit(head: Head, *arguments: str, program: str = "pipelines/full.py") -> subprocess.CompletedProcess[str]:
    """The finished submission, which has followed the job to its end."""
    return submitted(head, "--working-dir", ".", "--", "python", program, *arguments)


def begin(head: Head, name: str, *arguments: str, program: str = "pipelines/full.py") -> None:
    """Submits the job under that name, and leaves it running."""
    options = ["--submission-id", name, "--no-wait", "--working-dir", "."]
    done = submitted(head, *options, "--", "python", program, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def job(head: Head, name: str, part: str = "") -> dict[str, Any]:
    """What is known of the job of that name: its `status` and the like, or, as part `/logs`, its `logs`."""
    url, bearer = f"{head.dashboard}/api/jobs/{name}{part}", {"Authorization": f"Bearer {head.token}"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=bearer), timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found
