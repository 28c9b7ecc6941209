"""Leases: of several processes that want to make the same thing in a store, one makes it and the others wait.

    <store>/leases/<name>/<generation>.json

The holder is in the newest generation, and writes it anew every few seconds. A lease that stays as it is for longer
than `LOST_AFTER_S` is lost, by the clock of whoever watches it: clocks of two machines are never compared. To take it,
the next generation is created, which succeeds for one process alone. A holder that was only suspended may then do its
work beside the new one; stages bear that, since the same work gives the same artifact.
"""

import contextlib
import dataclasses
import json
import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from davam.data import fs
from davam.errors import ArtifactError

RENEW_S = 5.0
LOST_AFTER_S = 60.0
POLL_S = 1.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lease: process and machine, the submitted job if it is one, and since when by that machine's clock.
    `beats` counts the renewals."""

    machine: str
    pid: int
    job: str
    since_utc: str
    beats: int = 0
    released: bool = False

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.machine.partition('/')[0]}{job}, since {self.since_utc}"


@dataclass(frozen=True)
class Lease:
    """The newest generation of a lease."""

    name: str
    generation: int
    holder: Holder


_HOLDER = TypeAdapter(Holder)


@contextlib.contextmanager
def held(store_uri: str, name: str, job: str, waiting: Callable[[Holder], None]) -> Iterator[None]:
    """Holds the lease, once nobody else does; `waiting` is called once for each holder that is waited for.

    Raises ArtifactError when the store cannot be read or written.
    """
    folder = fs.join(store_uri, "leases", name)
    holder = Holder(_machine(), os.getpid(), job, f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}")
    uri = _acquire(folder, holder, waiting)
    stop = threading.Event()
    thread = threading.Thread(target=_renew, args=(uri, holder, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(ArtifactError):  # it is lost in a minute, and the error inside says more
            _write(uri, dataclasses.replace(holder, released=True))


def leases(store_uri: str) -> list[Lease]:
    """The newest generation of every lease that was not released. Some of them may be lost."""
    folder = fs.join(store_uri, "leases")
    names = sorted({path.rpartition("/")[0] for path, _ in fs.list_files(folder)})
    found = [_newest(fs.join(folder, name), name) for name in names]
    return [lease for lease in found if lease is not None and not lease.holder.released]


def is_gone(holder: Holder) -> bool:
    """Whether the holder is a process of this machine that has ended."""
    if holder.machine != _machine():
        return False
    try:
        os.kill(holder.pid, 0)
        # A process that nobody has waited for is still in the list.
        return Path(f"/proc/{holder.pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except OSError:  # another user's, or a system without such files
        return False


def _acquire(folder: str, holder: Holder, waiting: Callable[[Holder], None]) -> str:
    while True:
        lease = _newest(folder, "")
        if lease is None or lease.holder.released or is_gone(lease.holder) or _is_lost(folder, lease, waiting):
            generation = 1 if lease is None else lease.generation + 1
            uri = _uri(folder, generation)
            if fs.create_bytes(uri, _json(holder)):
                _remove_older(folder, generation)
                return uri


def _is_lost(folder: str, lease: Lease, waiting: Callable[[Holder], None]) -> bool:
    """Watches the lease until it is lost, or changes hands."""
    waiting(lease.holder)
    seen, since_s = lease, time.monotonic()
    while time.monotonic() - since_s < LOST_AFTER_S:
        time.sleep(POLL_S)
        now = _newest(folder, "")
        if now is None or now.generation != lease.generation or now.holder.released or is_gone(now.holder):
            return False
        if now != seen:
            seen, since_s = now, time.monotonic()
    return True


def _renew(uri: str, holder: Holder, stop: threading.Event) -> None:
    while not stop.wait(RENEW_S):
        holder = dataclasses.replace(holder, beats=holder.beats + 1)
        with contextlib.suppress(ArtifactError):  # a store that is away for a while may be back the next time
            _write(uri, holder)


def _newest(folder: str, name: str) -> Lease | None:
    generations = _generations(folder)
    if not generations:
        return None
    uri = _uri(folder, max(generations))
    try:
        return Lease(name, max(generations), _HOLDER.validate_json(fs.read_bytes(uri)))
    except FileNotFoundError:  # a newer generation came, and removed it
        return _newest(folder, name)
    except ValidationError as error:
        raise ArtifactError(f"{uri} is no lease ({error.errors()[0]['msg']}); delete it") from None


def _generations(folder: str) -> list[int]:
    stems = [path.removesuffix(".json") for path, _ in fs.list_files(folder)]
    return [int(stem) for stem in stems if stem.isdecimal()]  # others are being written


def _remove_older(folder: str, generation: int) -> None:
    for older in _generations(folder):
        if older < generation:
            fs.delete_file(_uri(folder, older))


def _write(uri: str, holder: Holder) -> None:
    fs.write_bytes_atomic(uri, _json(holder))


def _json(holder: Holder) -> bytes:
    return (json.dumps(dataclasses.asdict(holder)) + "\n").encode()


def _uri(folder: str, generation: int) -> str:
    return fs.join(folder, f"{generation:09d}.json")


def _machine() -> str:
    """The machine or container: process numbers mean something inside it alone."""
    try:
        inside = os.readlink("/proc/self/ns/pid")
    except OSError:
        inside = platform.system()
    return f"{socket.gethostname()}/{inside}"
