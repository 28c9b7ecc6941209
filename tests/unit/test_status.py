"""What goes on in a store, in one screen."""

import dataclasses
import json
from pathlib import Path

import pytest

from davam.cli import main
from davam.data import channel, fs
from davam.data.artifacts import Store
from davam.data.lease import Holder, held
from davam.data.status import status
from pipelines.stage import run_stage
from tests.unit.test_force import STAGE, a_run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store in which one stage of a run of three is done, and the second is being built."""
    run = a_run(tmp_path, ())
    run_stage(STAGE, run)
    stages = {"note": STAGE.fingerprint(run.recipe), "stage_one": "1" * 64, "stage_two": "2" * 64}
    run.store.write_plan(stages, ["--preset", "tiny"])
    return run.store


def test_a_run_is_shown_stage_by_stage(store: Store) -> None:
    with held(store.uri, f"stage_one-{'1' * 12}", "raysubmit_9", lambda holder: None):
        lines = status(store.uri)
    assert lines[0] == f"store     {store.uri}"
    assert lines[1].startswith(f"run       {'2' * 12}  20")
    assert lines[1].endswith("  done: note; left: stage_two  (--preset tiny)")
    assert lines[2].startswith("working   stage_one: process ")
    assert ", job raysubmit_9, since 20" in lines[2]
    assert len(lines) == 3


def test_a_finished_run_is_done(store: Store) -> None:
    run = a_run(Path(store.uri), ())
    store.write_plan({"note": STAGE.fingerprint(run.recipe)}, [])
    assert status(store.uri)[1].endswith("  done  ()")


def test_what_was_left_by_a_process_that_has_ended_is_said(store: Store) -> None:
    with held(store.uri, "other-3", "", lambda holder: None):
        path = Path(store.uri) / "leases" / "other-3" / "000000001.json"
        mine = Holder(**json.loads(path.read_text()))
    path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(mine, pid=2**22 + 1, released=False))))
    assert status(store.uri)[-1].endswith(", which has ended")


def test_channels_and_rolling_back(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        fs.write_bytes_atomic(fs.join(store.uri, "runs", name, "run.json"), b"{}")
        after = channel.following(
            channel.current(store.uri, "prod"), run=f"runs/{name}", model_sha256="", reasons=("x",)
        )
        assert channel.promote(store.uri, "prod", after)
    assert status(store.uri)[-1].startswith("channel   prod: runs/b, number 2, 20")
    assert main(["rollback", store.uri, "--channel", "prod", "--reason", "it stutters"]) == 0
    assert capsys.readouterr().out == "prod runs/a\n"
    assert main(["status", store.uri]) == 0
    assert capsys.readouterr().out.rstrip().endswith("; it stutters")
    assert main(["rollback", store.uri, "--channel", "prod", "--reason", "again"]) == 1
    assert "nothing that is kept came before runs/a" in capsys.readouterr().err


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    assert status(str(tmp_path)) == [f"store     {tmp_path}", "nothing was made here yet"]
    fs.write_bytes_atomic(f"{tmp_path}/davam.txt", b"")
    assert status(str(tmp_path))[1] == "nothing was made here yet"
