"""Leases: one process works, the others wait; what is lost is taken over by one."""

import dataclasses
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from davam.data import fs, lease
from davam.data.lease import Holder, held, is_gone, leases
from davam.errors import ArtifactError

SLEEPER = """
import sys, time
from davam.data.lease import held
with held(sys.argv[1], "work", "job-7", print):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RENEW_S", 0.05), ("LOST_AFTER_S", 0.6), ("POLL_S", 0.02)):
        monkeypatch.setattr(lease, name, value)


def leave(store: Path, holder: Holder, generation: int = 1) -> None:
    """A lease as its holder left it."""
    uri = f"{store}/leases/work/{generation:09d}.json"
    fs.write_bytes_atomic(uri, json.dumps(dataclasses.asdict(holder)).encode())


ELSEWHERE = Holder("another/pid:[1]", 12, "", "2026-01-01 00:00:00", beats=3)
WRONG_CLOCKS = pytest.mark.parametrize("ahead", [timedelta(hours=-9), timedelta(hours=9)], ids=["behind", "ahead"])


def by_a_clock(ahead: timedelta) -> Holder:
    """A holder on another machine, whose clock is so far ahead of this one's."""
    return dataclasses.replace(ELSEWHERE, since_utc=f"{datetime.now(UTC) + ahead:%Y-%m-%d %H:%M:%S}")


def test_of_many_at_once_one_creates_the_file(tmp_path: Path) -> None:
    uri = f"{tmp_path}/deep/file.json"
    with ThreadPoolExecutor(16) as pool:
        created = list(pool.map(lambda number: fs.create_bytes(uri, b"%d" % number), range(64)))
    assert created.count(True) == 1
    assert fs.read_bytes(uri) == b"%d" % created.index(True)
    assert [path for path, _ in fs.list_files(str(tmp_path))] == ["deep/file.json"]


def test_of_many_at_once_one_works_and_all_get_their_turn(tmp_path: Path) -> None:
    inside, most, turns = 0, 0, 0
    lock = threading.Lock()

    def work(_: int) -> None:
        nonlocal inside, most, turns
        with held(str(tmp_path), "work", "", lambda holder: None):
            with lock:
                inside, turns = inside + 1, turns + 1
                most = max(most, inside)
            time.sleep(0.01)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(12)))
    assert (most, turns) == (1, 12)
    assert leases(str(tmp_path)) == []


def test_who_holds_it_is_said_and_its_end_awaited(tmp_path: Path) -> None:
    waited: list[Holder] = []
    entered = threading.Event()

    def second() -> None:
        with held(str(tmp_path), "work", "", waited.append):
            entered.set()

    with held(str(tmp_path), "work", "raysubmit_1", lambda holder: None):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(1.2)  # longer than a lease that is not renewed would last
        assert [each.name for each in leases(str(tmp_path))] == ["work"]
    thread.join(5)
    assert entered.is_set()
    assert len(waited) == 1
    assert str(waited[0]).startswith(f"process {waited[0].pid} on ")
    assert ", job raysubmit_1, since 20" in str(waited[0])


def test_a_killed_holder_of_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert not is_gone(leases(str(tmp_path))[0].holder)
    process.kill()
    while not is_gone(leases(str(tmp_path))[0].holder):  # before anybody has waited for it
        time.sleep(0.01)
    process.wait()
    assert is_gone(leases(str(tmp_path))[0].holder)
    with held(str(tmp_path), "work", "", lambda holder: pytest.fail("waited")):
        assert leases(str(tmp_path))[0].generation == 2


@WRONG_CLOCKS
def test_a_lease_that_nobody_renews_is_taken_over_whatever_its_clock_said(tmp_path: Path, ahead: timedelta) -> None:
    leave(tmp_path, by_a_clock(ahead))
    waited: list[Holder] = []
    began = time.monotonic()
    with held(str(tmp_path), "work", "", waited.append):
        assert time.monotonic() - began >= lease.LOST_AFTER_S
        assert leases(str(tmp_path))[0].generation == 2
    assert [holder.machine for holder in waited] == ["another/pid:[1]"]


@WRONG_CLOCKS
def test_a_lease_that_is_renewed_elsewhere_is_not_taken_whatever_its_clock_says(
    tmp_path: Path, ahead: timedelta
) -> None:
    holder = by_a_clock(ahead)
    leave(tmp_path, holder)
    taken = threading.Event()

    def second() -> None:
        with held(str(tmp_path), "work", "", lambda holder: None):
            taken.set()

    thread = threading.Thread(target=second)
    thread.start()
    for beats in range(4, 14):
        time.sleep(0.1)
        leave(tmp_path, dataclasses.replace(holder, beats=beats))
    assert not taken.is_set()
    leave(tmp_path, dataclasses.replace(holder, released=True))
    thread.join(5)
    assert taken.is_set()


def test_an_error_inside_releases_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), held(str(tmp_path), "work", "", lambda holder: None):
        raise ValueError("inside")
    assert leases(str(tmp_path)) == []


def test_a_store_that_is_away_in_the_end_does_not_hide_the_error_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(uri: str, data: bytes) -> None:
        raise ArtifactError(f"cannot write {uri}: ExpiredToken")

    def fails() -> None:
        monkeypatch.setattr(fs, "write_bytes_atomic", away)
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"), held(str(tmp_path), "work", "", lambda holder: None):
        fails()


def test_what_is_no_lease_is_named(tmp_path: Path) -> None:
    fs.write_bytes_atomic(f"{tmp_path}/leases/work/000000004.json", b"{}")
    with pytest.raises(ArtifactError, match=r"leases/work/000000004.json is no lease .*; delete it$"):
        leases(str(tmp_path))
