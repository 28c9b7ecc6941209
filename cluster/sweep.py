"""Ray Tune: the trials of a sweep, as many at a time as the cluster holds.

A trial is a program of its own that joins the cluster as a job of its own. When Tune stops a trial, its job ends, and
with a job Ray frees everything that it held. An actor of Tune's watches the program and reports what the training
writes to the store epoch by epoch; it takes no CPU. What a trial came to is read from the store, never from Tune, so
that nothing has to be restored when a sweep is started again.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # ours ends the program
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # the last report has an exit code instead
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("TUNE_WARN_THRESHOLD_S", "60")

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from cluster.metrics import SHOWN
from cluster.progress import progress
from cluster.session import address, slots
from davam.data.artifacts import Store
from davam.execution import Execution
from davam.recipe import Recipe
from davam.train.history import read_history
from davam.train.selection import epoch_nats

POLL_S = 1.0
END_S = 60.0  # for a program that was told to end
REDUCTION = 3  # of the trials at a rung, those under the best third's worst are stopped


@dataclass(frozen=True)
class TrialTask:
    """A trial as a program: its command and log, and where its first training is found."""

    name: str
    command: tuple[str, ...]
    log: str
    recipe: Recipe
    store: str
    stage_one: str
    ended: bool  # nothing is left to run: its epochs are only reported, for others to be compared with


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: by itself, with an exit code; or stopped by the scheduler; or lost with its node."""

    stopped: bool
    exit_code: int | None


@dataclass(frozen=True)
class Place:
    """Where and as what the programs run: those of the sweep itself."""

    folder: str
    environment: dict[str, str]


class TrialActor(tune.Trainable):
    """Runs a trial's program, and reports an epoch of its first training a step."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], tasks: Mapping[str, TrialTask], place: Place
    ) -> None:
        """Starts the program, unless nothing is left to run."""
        self.task, self.reported = tasks[config["trial"]], 0
        self.process = None if self.task.ended else start(self.task, place)

    def step(self) -> dict[str, Any]:
        """The next epoch that has codes, if its family has any; at the end the program's exit code."""
        store, last = Store(self.task.store), self.task.recipe.stage_one.epochs
        while True:
            exit_code = 0 if self.process is None else self.process.poll()
            # The last epoch is reported with the end: there is nothing left to save by stopping.
            for record in read_history(store, "stage_one", self.task.stage_one)[self.reported :]:
                if record["epoch"] >= last:
                    break
                self.reported += 1
                nats = epoch_nats(record, self.task.recipe.model)
                if nats is not None:
                    return {"epoch": int(record["epoch"]), "nats": nats}
            if exit_code is not None:
                return {"exit_code": exit_code, tune.result.DONE: True}
            time.sleep(POLL_S)

    def cleanup(self) -> None:
        """Ends the program if it still runs, and waits for it."""
        if self.process is None:
            return
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(task: TrialTask, place: Place) -> subprocess.Popen[bytes]:
    """The program in the background, its talk in the log. It ends with its standard input, whatever happens here."""
    os.makedirs(os.path.dirname(task.log), exist_ok=True)
    with open(task.log, "ab") as log:
        return subprocess.Popen(
            task.command, cwd=place.folder, env=place.environment, stdin=subprocess.PIPE, stdout=log, stderr=log
        )


class Watcher(tune.Callback):
    """Tells of trials as they start and end; counts the epochs, of which none is left once a trial has ended."""

    def __init__(
        self, tell: Callable[[str, Outcome | None], None], counter: Any, all_epochs: Mapping[str, int]
    ) -> None:
        self.tell = tell
        self.counter = counter
        self.all_epochs = all_epochs
        self.epochs: dict[str, int] = {}
        self.ended = 0

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes down what it runs with, but it is never restored from that."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins."""
        self.tell(trial.config["trial"], None)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **i: Any) -> None:
        """Another epoch of a trial."""
        if "epoch" in result:
            self._count(trial.config["trial"], result["epoch"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ends, by itself or by the scheduler."""
        exit_code = trial.last_result.get("exit_code")
        self._end(trial.config["trial"], Outcome(exit_code is None, exit_code))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's actor is lost."""
        self._end(trial.config["trial"], Outcome(False, None))

    def _end(self, name: str, outcome: Outcome) -> None:
        self.ended += 1
        self._count(name, self.all_epochs[name])
        self.tell(name, outcome)

    def _count(self, name: str, epochs: int) -> None:
        self.epochs[name] = epochs
        self.counter.put.remote({"done": float(sum(self.epochs.values())), f"{SHOWN}ended": float(self.ended)})


def run_trials(
    tasks: Sequence[TrialTask],
    execution: Execution,
    grace_epochs: int | None,
    tell: Callable[[str, Outcome | None], None],
) -> None:
    """Runs all trials to their ends; with an epoch of grace, successive halving begins there. `tell` hears of every
    start (without an outcome) and end as it happens."""
    place = Place(os.getcwd(), {**os.environ, "RAY_ADDRESS": address()})
    all_epochs = {task.name: task.recipe.stage_one.epochs for task in tasks}
    scheduler: TrialScheduler = FIFOScheduler()
    if grace_epochs is not None:
        scheduler = AsyncHyperBandScheduler(
            time_attr="epoch",
            metric="nats",
            mode="min",
            max_t=max(grace_epochs, *all_epochs.values()),
            grace_period=grace_epochs,
            reduction_factor=REDUCTION,
            stop_last_trials=False,
        )
    with tempfile.TemporaryDirectory() as folder, progress("sweep", sum(all_epochs.values()), "epochs") as counter:
        actor = tune.with_parameters(TrialActor, tasks={task.name: task for task in tasks}, place=place)
        tune.Tuner(
            tune.with_resources(actor, tune.PlacementGroupFactory([beside_the_driver()])),
            param_space={"trial": tune.grid_search([task.name for task in tasks])},
            tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=slots(execution)),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=folder,
                verbose=0,
                callbacks=[Watcher(tell, counter, all_epochs)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()


def beside_the_driver() -> dict[str, float]:
    """The resources of an actor that takes no CPU, on this node: the programs, and the files that they may read, are
    those of the driver."""
    return {f"node:{ray.util.get_node_ip_address()}": 0.001}
