"""The way clusters are used: a running head, a submitted job, its log and its exit code; and who is not let in."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from davam.data.artifacts import Store
from tests.head import Head, free_port, ray_job, running, submit
from tests.programs import ROOT, SMALL, STAGES, actions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SETTLED = """
import sys
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
from ray._private.ray_constants import KV_NAMESPACE_CLUSTER
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
print(client.internal_kv_get(CLUSTER_METADATA_KEY, namespace=KV_NAMESPACE_CLUSTER).decode())
if len(sys.argv) > 2:
    client.internal_kv_put(CLUSTER_METADATA_KEY, sys.argv[2].encode(), overwrite=True, namespace=KV_NAMESPACE_CLUSTER)
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """With two CPUs, all of them for the two workers."""
    with running(free_port(), "--num-cpus=2") as made:
        yield made


def drive(head: Head, store: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A driver from outside, whose environment has these variables instead of the token."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment = inherited | {"HOME": str(store), "RAY_ADDRESS": head.address} | variables
    command = [sys.executable, "pipelines/full.py", "--store", str(store), *SMALL]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)


def metadata(head: Head, *instead: str) -> str:
    """What the cluster says of itself to those who connect; or said, if it is to say something else from now on."""
    command, environment = [sys.executable, "-c", SETTLED, head.address, *instead], head.environment()
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True).stdout


def test_a_job_does_the_same_and_passes_its_exit_code_on(head: Head, tmp_path: Path) -> None:
    done = submit(head, "--store", str(tmp_path), "--workers", "2", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert actions(done.stdout) == dict.fromkeys(STAGES, "build")
    assert "ppl_bound" in done.stdout
    assert not re.search(r"Traceback|WARNING.*ray|\x1b\[K", done.stdout), done.stdout
    assert Store(str(tmp_path)).list_stage("report")
    again = submit(head, "--store", str(tmp_path), "--workers", "2", *SMALL)
    assert actions(again.stdout) == dict.fromkeys(STAGES, "skip")
    wrong = submit(head, "--store", str(tmp_path), "model.codebok_size=9")
    assert wrong.returncode != 0
    assert "error: model.codebok_size: unknown key; did you mean codebook_size?" in wrong.stdout


def test_a_request_that_the_cluster_cannot_meet(head: Head, tmp_path: Path) -> None:
    done = submit(head, "--store", str(tmp_path), "--workers", "3", *SMALL)
    assert done.returncode != 0
    assert "error: --workers 3 needs 3 CPUs, but the cluster has 2; ask for fewer workers" in done.stdout


@pytest.mark.parametrize(
    "variables", [{}, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32}]
)
def test_a_client_without_the_token_is_refused(head: Head, tmp_path: Path, variables: dict[str, str]) -> None:
    done = drive(head, tmp_path, **variables)
    assert done.returncode == 2, done.stderr
    assert f"error: the cluster at {head.address} takes only who has its token (" in done.stderr
    assert "; set RAY_AUTH_MODE=token, and give the token as RAY_AUTH_TOKEN or in ~/.ray/auth_token" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "artifacts").exists()


def test_a_submission_without_the_token_is_refused(head: Head, tmp_path: Path) -> None:
    stranger = Head(head.address, head.dashboard, "ab" * 32, head.pid)
    done = ray_job(stranger, "submit", "--", "python", "-c", f"open('{tmp_path}/ran', 'w')")
    assert done.returncode != 0
    assert "RAY_AUTH_TOKEN" in done.stdout + done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_client_of_other_versions_is_refused(head: Head, tmp_path: Path) -> None:
    own = metadata(head)
    try:
        metadata(head, json.dumps(json.loads(own) | {"ray_version": "2.9.0", "python_version": "3.10.1"}))
        done = drive(head, tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=head.token)
    finally:
        metadata(head, own)
    assert done.returncode == 2, done.stderr
    assert f"error: the cluster at {head.address} has Ray 2.9.0 and Python 3.10.1, but this program " in done.stderr
    assert "Traceback" not in done.stderr
