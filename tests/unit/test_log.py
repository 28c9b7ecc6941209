"""Lines of talk: for people as they are, for machines as JSON with what they are about."""

import json
import threading
from contextvars import copy_context
from pathlib import Path
from unittest.mock import Mock

import pytest

from cluster.progress import _print_until
from davam import log
from davam.data.artifacts import Attempt, Manifest, short
from davam.errors import DataError
from pipelines.stage import Built, Run, Stage, guarded, run_stage
from tests.unit.test_force import STAGE, a_run


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_people_get_the_line_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with log.about(run="r"):
        log.say("tokens      done   3 rows", wall_s=1.5)
    assert capsys.readouterr().err == "tokens      done   3 rows\n"


def test_machines_get_an_object_with_all_that_it_is_about(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAVAM_LOG", "JSON")
    with log.about(run="r", job=""):
        with log.about(stage="tokens", rank=1):
            log.say("tokens      done   «drei» rows\n", wall_s=1.5)
        log.say("it was cold", "warning")
    log.say("afterwards")
    first, second, third = said(capsys)
    assert {name: value for name, value in first.items() if name != "time"} == {
        "level": "info",
        "run": "r",
        "stage": "tokens",
        "rank": 1,
        "message": "tokens done «drei» rows",
        "wall_s": 1.5,
    }
    assert str(first["time"]).endswith("+00:00")
    assert (second["level"], second["run"], "stage" in second, "run" in third) == ("warning", "r", False, False)


def test_an_error_is_about_what_was_worked_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAVAM_LOG", "json")

    def act() -> None:
        with log.about(run="r"), log.about(stage="codes"):
            raise DataError("no text")

    assert guarded(act) == 2
    (line,) = said(capsys)
    assert (line["level"], line["message"], line["run"], line["stage"]) == ("error", "error: no text", "r", "codes")


def test_stdout_takes_results_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        log.result("ppl_bound 5.79")
        thread = threading.Thread(target=print, args=["8 processes have been started"])
        thread.start()
        thread.join()
        assert guarded(lambda: log.result("rows 3")) == 0
        print("a library's talk")

    assert guarded(act) == 0
    log.result("afterwards")
    given = capsys.readouterr()
    assert given.out == "ppl_bound 5.79\nrows 3\nafterwards\n"
    assert given.err == "8 processes have been started\na library's talk\n"


def test_a_stage_names_itself_and_says_how_long_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAVAM_LOG", "json")
    manifest = run_stage(STAGE, a_run(tmp_path, ()))
    lines = said(capsys)
    assert {(line["stage"], line["fingerprint"]) for line in lines} == {("note", short(manifest.fingerprint))}
    assert lines[-1]["wall_s"] == manifest.provenance["wall_s"]


def test_the_seconds_of_workers_are_noted_where_there_are_some(tmp_path: Path) -> None:
    def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
        return Built(STAGE.build(run, inputs, attempt).counts, busy_s=2.0)

    assert "busy_s" not in run_stage(STAGE, a_run(tmp_path / "a", ())).provenance
    busy = Stage("note", 1, lambda recipe: (), lambda recipe: {}, build)
    assert run_stage(busy, a_run(tmp_path / "b", ())).provenance["busy_s"] == 2.0


def test_a_manifest_says_why_its_stage_was_built(tmp_path: Path) -> None:
    assert run_stage(STAGE, a_run(tmp_path, ())).provenance["why"] == "never built here"
    assert run_stage(STAGE, a_run(tmp_path, ("note",))).provenance["why"] == "forced"


def test_progress_is_about_the_stage_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DAVAM_LOG", "json")
    monkeypatch.setattr("cluster.progress.ray.get", Mock(return_value={"done": 5.0}))
    stop = Mock(wait=Mock(side_effect=[False, True]))
    with log.about(stage="codes"):
        thread = threading.Thread(target=copy_context().run, args=(_print_until, Mock(), "codes", 10.0, "rows", stop))
        thread.start()
        thread.join()
    (line,) = said(capsys)
    assert (line["stage"], line["done"], line["total"], line["unit"]) == ("codes", 5.0, 10.0, "rows")
    assert line["message"] == "codes 5/10 rows"
