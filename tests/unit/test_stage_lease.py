"""Two processes that want the same stage: one builds it, the other waits and has it."""

import dataclasses
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from davam.data import lease
from davam.data.artifacts import Attempt, Manifest
from pipelines.stage import SUBMITTED, Built, Run, Stage, job_id, run_stage
from tests.unit.test_force import STAGE, a_run, write_note


def test_the_same_stage_is_built_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lease, "POLL_S", 0.02)
    builds: list[str] = []
    waiting = threading.Event()
    monkeypatch.setattr("pipelines.stage._say_waiting", lambda stage, holder: waiting.set())

    def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
        builds.append(attempt.name)
        assert waiting.wait(10)
        return write_note(run, inputs, attempt)

    stage: Stage = dataclasses.replace(STAGE, build=build)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: run_stage(stage, a_run(tmp_path, ())), range(2))
    assert first == second
    assert builds == [first.attempt]
    assert "built meanwhile" in capfd.readouterr().err


def test_a_submitted_job_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SUBMITTED not in os.environ
    assert job_id() == ""
    monkeypatch.setenv(SUBMITTED, '{"metadata": {"job_submission_id": "raysubmit_abc", "job_name": "x"}}')
    assert job_id() == "raysubmit_abc"
