"""What programs tell on stderr: a line for people or, with DAVAM_LOG=json in the environment, one JSON object a line
for what collects logs, with the run, the stage and the worker that it is about. And what they give to machines on
stdout."""

import contextlib
import contextvars
import json
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TextIO

SETTING = "DAVAM_LOG"

Ids = Mapping[str, str | int]

_NOTHING: Ids = MappingProxyType({})
_context: contextvars.ContextVar[Ids] = contextvars.ContextVar("davam_log", default=_NOTHING)
_results: contextvars.ContextVar[TextIO | None] = contextvars.ContextVar("davam_results", default=None)


@contextlib.contextmanager
def about(**ids: str | int) -> Iterator[None]:
    """Whatever is said inside is about these: `run`, `stage`, `fingerprint`, `rank` and the like, but empty ones."""
    token = _context.set({**_context.get(), **{name: value for name, value in ids.items() if value != ""}})
    try:
        yield
    except BaseException as error:
        if not hasattr(error, "davam_log"):  # the innermost, which says most
            error.davam_log = _context.get()  # type: ignore[attr-defined]
        raise
    finally:
        _context.reset(token)


def ids() -> dict[str, str | int]:
    """What is worked on here, for processes that work on a part of it."""
    return dict(_context.get())


def subject(error: BaseException) -> Ids:
    """What was worked on when the error came up: it is told where all of that has been left."""
    found: Ids = getattr(error, "davam_log", _NOTHING)
    return found


def is_json() -> bool:
    """Whether lines are JSON objects."""
    return os.environ.get(SETTING, "").lower() == "json"


def say(line: str, level: str = "info", **values: str | float) -> None:
    """One line of talk. The values are for JSON alone: people read them in the line."""
    print(as_json(line, level, values) if is_json() else line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def stdout_for_results() -> Iterator[None]:
    """Inside, stdout takes what `result` writes and no more: what libraries print, from whatever thread, is talk. Ray
    prints there what its raylet reports, whether or not it has been told to keep its log from the driver."""
    token = _results.set(_results.get() or sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _results.reset(token)


def result(text: str = "") -> None:
    """A line, or several, of what the program was asked for."""
    print(text, file=_results.get() or sys.stdout)


def as_json(line: str, level: str, values: Mapping[str, str | float]) -> str:
    """The line as a JSON object: when, how grave, what it is about, what it says, and its values."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    said = {"time": now, "level": level, **_context.get(), "message": " ".join(line.split()), **values}
    return json.dumps(said, ensure_ascii=False)
