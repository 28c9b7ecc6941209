"""One steady progress line for long work: workers tell an actor, the driver asks it and prints."""

import contextlib
import contextvars
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.metrics import SHOWN, StageMetrics
from cluster.session import unique_name
from davam.log import is_json, say

TERMINAL_EVERY_S = 0.5
LOG_EVERY_S = 10.0


@ray.remote(num_cpus=0)
class Counter:
    """Holds the latest report of a stage, and exports it as metrics: `add` counts work done, `put` replaces values,
    `fail` keeps a message."""

    def __init__(self, what: str, total: float, unit: str) -> None:
        self.metrics = StageMetrics(what, total, unit)
        self.values: dict[str, float] = {}
        self.message = ""

    def add(self, **amounts: float) -> None:
        """Count amounts, each under its name."""
        for name, amount in amounts.items():
            self.values[name] = self.values.get(name, 0.0) + amount
        self.metrics.update(self.values)

    def put(self, values: dict[str, float]) -> None:
        """Replace values."""
        self.values.update(values)
        self.metrics.update(self.values)

    def fail(self, message: str) -> None:
        """Keep the message of a user's error."""
        self.message = message

    def failure(self) -> str:
        """The kept message, empty when there is none."""
        return self.message

    def get(self) -> dict[str, float]:
        """All values."""
        return self.values


@contextlib.contextmanager
def progress(what: str, total: float, unit: str) -> Iterator[Any]:
    """The actor to report to; meanwhile the driver prints a line with how far, the rate and the time left.

    The actor's `done` is measured against the total; the values that start with `SHOWN` follow as they are.
    """
    # Beside the driver: on another machine it would be lost with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    named = Counter.options(name=unique_name("progress"), scheduling_strategy=here)  # type: ignore[attr-defined]
    counter = named.remote(what, total, unit)
    stop = threading.Event()
    # With the run and the stage that lines are about, which a thread does not have by itself.
    here_too = contextvars.copy_context().run
    thread = threading.Thread(target=here_too, args=(_print_until, counter, what, total, unit, stop), daemon=True)
    thread.start()
    try:
        yield counter
    finally:
        stop.set()
        thread.join(timeout=5)
        ray.kill(counter)


def busy_s(counter: Any) -> float:
    """The seconds that all who report to the counter spent on their rows."""
    values: dict[str, float] = ray.get(counter.get.remote())
    return values.get("busy_s", 0.0)


def render(what: str, values: dict[str, float], total: float, unit: str, rate_per_s: float) -> str:
    """The line: what, how far, rate and time left where the rate is known (not 0), and the shown values."""
    done = values.get("done", 0.0)
    digits = ",.1f" if rate_per_s >= 1 else ".2g"  # few models a minute are a rate as well
    rate = f"{rate_per_s:{digits}} {unit}/s" if rate_per_s > 0 else ""
    left = f"{timedelta(seconds=round((total - done) / rate_per_s))} left" if rate_per_s > 0 and done < total else ""
    shown = "  ".join(
        f"{name.removeprefix(SHOWN)} {value:.4g}" for name, value in values.items() if name.startswith(SHOWN)
    )
    return "  ".join(part for part in (f"{what:<10}", f"{done:,.0f}/{total:,.0f} {unit}", rate, left, shown) if part)


def _print_until(counter: Any, what: str, total: float, unit: str, stop: threading.Event) -> None:
    terminal = sys.stderr.isatty() and not is_json()
    every_s = TERMINAL_EVERY_S if terminal else LOG_EVERY_S
    begun: tuple[float, float] | None = None  # when the first report came, and how far it was
    printed = ""
    while not stop.wait(every_s):
        try:
            values = ray.get(counter.get.remote(), timeout=5)
        except ray.exceptions.GetTimeoutError:
            continue  # a busy machine answers the next time
        except ray.exceptions.RayError:
            return
        if not values.get("done"):
            continue
        now = time.monotonic()
        begun = begun or (now, values["done"])
        rate_per_s = (values["done"] - begun[1]) / (now - begun[0]) if now > begun[0] else 0.0
        line = render(what, values, total, unit, rate_per_s)
        if line == printed:
            continue
        if terminal:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        else:
            say(line, done=values["done"], total=total, per_s=float(f"{rate_per_s:.4g}"), unit=unit)
        printed = line
    if terminal and printed:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
