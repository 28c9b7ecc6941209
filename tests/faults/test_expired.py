"""Credentials of the store that expire in the middle of a training: what is said, and that the same command goes on."""

from collections.abc import Iterator
from threading import Event

import boto3
import pytest

from davam.data import fs
from davam.data.artifacts import Store
from tests.faults.test_kill import LONG
from tests.programs import run, started
from tests.s3 import environment, fake_server

STORE = "s3://runs/store"
ARGUMENTS = ["--store", STORE, "--workers", "1", "--checkpoint-every-s", "1", *LONG]


@pytest.fixture
def expired(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Whether the credentials of all that run in the test have expired."""
    event = Event()
    with fake_server(event) as endpoint:
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="runs")
        yield event


def has_checkpoint() -> bool:
    return any(path.endswith("train_state.pt") for path, _ in fs.list_files(f"{STORE}/train"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_credentials_that_expire_in_a_training(expired: Event) -> None:
    assert run(*ARGUMENTS, script="tokens").returncode == 0
    process = started("stage_one", ARGUMENTS, until=has_checkpoint)
    expired.set()
    _, talk = process.communicate(timeout=580)
    assert process.returncode == 1, talk
    assert "Traceback" not in talk
    message = talk.split("error: ", 1)[1]
    assert "ExpiredToken" in message or "token has expired" in message
    assert "the same command goes on from the last checkpoint" in message
    expired.clear()
    assert has_checkpoint()
    again = run(*ARGUMENTS, script="stage_one")
    assert again.returncode == 0, again.stderr
    assert Store(STORE).list_stage("stage_one")
