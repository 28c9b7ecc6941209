"""What a stage is, and how one is built, skipped, explained and run as a program.

A stage's output is named by its fingerprint: the stage, its version, the part of the recipe that it uses and the
fingerprints of its inputs. A stage whose manifest is there is skipped.
"""

import argparse
import json
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from davam import config, log
from davam.data import channel, fs, lease
from davam.data.artifacts import Attempt, Manifest, Store, explain_change, fingerprint, provenance, short
from davam.errors import ArtifactError, ConfigError, DavamError
from davam.execution import Execution
from davam.log import result, say
from davam.recipe import Recipe, load_recipe

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in the environment of every submitted job's driver
DEFAULT_PRESETS = "recommended,tiny,brief"
# What --force can name: the stages of all programs, as one program hands the option on to another.
STAGES = (
    *("tokens", "pretraining", "stage_one", "codes", "stage_two", "samples", "evaluate", "faithfulness", "report"),
    *("selection", "judge", "draws", "real", "strung", "judged", "frozen", "subset", "augment_cell"),
)
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Built:
    """What a stage reports about its output: counts of rows and the like, and measures; and the seconds that all its
    workers together spent on the rows themselves, where it has workers that say so."""

    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    busy_s: float | None = None


@dataclass(frozen=True)
class Run:
    """One invocation: the recipe, how it is carried out, where results go, and the line that repeats it."""

    recipe: Recipe
    execution: Execution
    store: Store
    arguments: tuple[str, ...]

    def connect(self) -> None:
        """Ray, when a stage first needs it."""
        connect(self.execution)


@dataclass(frozen=True)
class Stage:
    """A step from manifests to a manifest. `needs` names the stages that it reads, for that recipe; `uses` is the slice
    of the recipe that its output depends on; `sources` gives the digests of inputs from outside the store."""

    name: str
    version: int
    needs: Callable[[Recipe], tuple["Stage", ...]]
    uses: Callable[[Recipe], dict[str, Any]]
    build: Callable[[Run, dict[str, Manifest], Attempt], Built]
    sources: Callable[[Recipe], dict[str, str]] = lambda recipe: {}

    def inputs(self, recipe: Recipe) -> dict[str, str]:
        """The fingerprint of every input."""
        return {stage.name: stage.fingerprint(recipe) for stage in self.needs(recipe)} | self.sources(recipe)

    def fingerprint(self, recipe: Recipe) -> str:
        """The name of this stage's output for the recipe."""
        return fingerprint(self.name, self.version, self.uses(recipe), self.inputs(recipe))


def connect(execution: Execution) -> None:
    """Ray, for work of this size."""
    from cluster import session

    session.connect(execution)
    _stop_cleanly_on_sigterm()  # ray.init puts its own handler in place


def run_stage(stage: Stage, run: Run) -> Manifest:
    """The stage's manifest, built now unless it is there, or is being built by another process: that is waited for.

    Raises ArtifactError when an input is missing.
    """
    identity = stage.fingerprint(run.recipe)
    with log.about(stage=stage.name, fingerprint=short(identity)):
        return _run_stage(stage, run, identity)


def _run_stage(stage: Stage, run: Run, identity: str) -> Manifest:
    found = _reusable(stage, run, identity)
    if found is not None:
        say(f"{stage.name:<10}  skip   {short(identity)}  unchanged")
        return found
    with lease.held(run.store.uri, f"{stage.name}-{short(identity)}", job_id(), partial(_say_waiting, stage)):
        found = _reusable(stage, run, identity)
        if found is not None:
            say(f"{stage.name:<10}  skip   {short(identity)}  built meanwhile")
            return found
        return _build(stage, run, identity)


def _build(stage: Stage, run: Run, identity: str) -> Manifest:
    why = _why(stage, run)
    say(f"{stage.name:<10}  build  {short(identity)}  {why}")
    inputs = {need.name: require(need, run, stage) for need in stage.needs(run.recipe)}
    began = time.monotonic()
    attempt = run.store.new_attempt(stage.name, identity)
    built = stage.build(run, inputs, attempt)
    wall_s = time.monotonic() - began
    manifest = run.store.commit(
        attempt,
        version=stage.version,
        recipe=stage.uses(run.recipe),
        inputs=stage.inputs(run.recipe),
        counts=built.counts,
        metrics=built.metrics,
        provenance=provenance() | _took(built, wall_s, run.execution) | {"why": why},
    )
    counted = ", ".join(f"{value:,} {name}" for name, value in built.counts.items())
    say(f"{stage.name:<10}  done   {short(identity)}  {wall_s:.1f} s  {counted}", wall_s=round(wall_s, 2))
    return manifest


def _took(built: Built, wall_s: float, execution: Execution) -> dict[str, Any]:
    """What the stage was built with, and how long it took."""
    busy = {} if built.busy_s is None else {"busy_s": round(built.busy_s, 3)}
    return {"wall_s": round(wall_s, 2), "workers": execution.workers, "gpu": execution.gpu} | busy


def _say_waiting(stage: Stage, holder: lease.Holder) -> None:
    say(f"{stage.name:<10}  wait   {holder} builds it")


def require(stage: Stage, run: Run, needed_by: Stage) -> Manifest:
    """The manifest of an input. Raises ArtifactError that names the command which builds it."""
    manifest = run.store.find(stage.name, stage.fingerprint(run.recipe))
    if manifest is None:
        command = f"python pipelines/{stage.name}.py {shlex.join(run.arguments)}"
        raise ArtifactError(f"{needed_by.name} needs {stage.name} for this recipe; run: {command}")
    return manifest


def explain(stages: Sequence[Stage], run: Run) -> list[str]:
    """One line per stage: skip or build, and why."""
    lines = []
    for stage in stages:
        identity = stage.fingerprint(run.recipe)
        if _reusable(stage, run, identity) is not None:
            lines.append(f"{stage.name:<10}  skip   {short(identity)}  unchanged")
        else:
            lines.append(f"{stage.name:<10}  build  {short(identity)}  {_why(stage, run)}")
    return lines


def main(stage: Stage, arguments: Sequence[str] | None = None) -> int:
    """Runs one stage as a program; its inputs must have been built."""
    return program(
        stage.name,
        lambda recipe: (stage,),
        lambda run: result(run.store.artifact_uri(stage.name, run_stage(stage, run).fingerprint)),
        arguments,
    )


def program(
    name: str,
    plan: Callable[[Recipe], Sequence[Stage]],
    act: Callable[[Run], object],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parses the arguments, and acts or says what would be built; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser(name).parse_intermixed_args(given)

    def act_or_explain() -> None:
        run = open_run(options, given)
        if options.dry_run:
            result("\n".join(explain(plan(run.recipe), run)))
        else:
            act(run)

    return guarded(act_or_explain)


def guarded(act: Callable[[], None], after_stop: str = "the same command goes on from the last checkpoint") -> int:
    """The exit code of the action; every error that is meant for a user becomes one message."""
    _stop_cleanly_on_sigterm()
    try:
        with log.about(job=job_id()), log.stdout_for_results():
            act()
        return 0
    except DavamError as error:
        with log.about(**log.subject(error)):
            say(f"error: {error}", "error")
        return error.exit_code
    except (KeyboardInterrupt, SystemExit) as error:  # Ray Train turns Ctrl-C into the latter
        with log.about(**log.subject(error)):
            say(f"stopped; {after_stop}", "warning")
        return 128 + (_terminated or signal.SIGINT)


def open_run(options: argparse.Namespace, given: Sequence[str]) -> Run:
    """The run that the parsed options describe. Raises ConfigError."""
    unknown = [name for name in options.force if name not in STAGES]
    if unknown:
        raise ConfigError(f"--force {unknown[0]}: no such stage; there are {', '.join(STAGES)}")
    recipe = load_recipe(options.preset.split(","), options.overrides)
    if recipe.warm_start is not None:
        recipe = recipe.model_copy(update={"warm_start": pointed_to(recipe.warm_start)})
    execution = execution_of(options, checkpoint_every_s=options.checkpoint_every_s, force=tuple(options.force))
    return Run(recipe, execution, Store(execution.store), tuple(given))


def execution_of(options: argparse.Namespace, **more: Any) -> Execution:
    """How the parsed options, and more settings, have the work carried out. Raises ConfigError."""
    given = {name: getattr(options, name) for name in ("gpu", "cpus_per_worker", "wait_for_nodes_s")}
    given["least_workers"], given["workers"] = options.workers
    return config.validate(Execution, {"store": absolute(options.store), **given, **more})


def parser(name: str, dry_run: str = "say what would be built, and why") -> argparse.ArgumentParser:
    """The options that all programs have; `dry_run` says what that option does."""
    options = argparse.ArgumentParser(
        prog=name, description="Overrides are written key=value, e.g. model.codebook_size=256"
    )
    options.add_argument("overrides", nargs="*", metavar="key=value", help="recipe settings that override the presets")
    options.add_argument("--preset", default=DEFAULT_PRESETS, help="presets or YAML files, left to right, by commas")
    add_execution(options, "davam_store")
    options.add_argument("--checkpoint-every-s", type=float, default=60.0)
    options.add_argument("--force", action="append", default=[], metavar="STAGE", help="build this stage again")
    options.add_argument("--dry-run", action="store_true", help=dry_run)
    return options


def add_execution(options: argparse.ArgumentParser, store: str) -> None:
    """The options that say where results go and what carries the work out."""
    options.add_argument("--store", default=store, help="where results go: a folder or any URI")
    options.add_argument(
        "--workers",
        type=_workers,
        default=(None, 1),
        metavar="N or MIN:MAX",
        help="data-parallel workers; MIN:MAX where machines come and go",
    )
    options.add_argument("--gpu", action="store_true", help="one GPU for every worker")
    options.add_argument("--cpus-per-worker", type=int, default=1)
    options.add_argument(
        "--wait-for-nodes-s", type=float, default=0.0, help="how long a cluster that grows may take for the workers"
    )


def numbers(kind: type[Number], least: Number) -> Callable[[str], tuple[Number, ...]]:
    """A parser of numbers by commas, each once, in rising order, for options of argparse."""

    def parse(given: str) -> tuple[Number, ...]:
        found = set()
        for word in given.split(","):
            value = _number(word, kind)
            if value is None or not least <= value < math.inf:
                raise argparse.ArgumentTypeError(f"{word}: give numbers of at least {least} by commas")
            found.add(value)
        return tuple(sorted(found))

    return parse


def _workers(given: str) -> tuple[int | None, int]:
    """The fewest workers, if a range is given, and the most."""
    least, colon, most = given.rpartition(":")
    try:
        return (int(least) if colon else None), int(most)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{given}: give a number, or MIN:MAX") from None


def _workers_text(execution: Execution) -> str:
    least = execution.least_workers
    return f"{execution.workers}" if least is None else f"{least}:{execution.workers}"


def _number(word: str, kind: type[Number]) -> Number | None:
    try:
        return kind(word)
    except ValueError:
        return None


def arguments_of(presets: str, execution: Execution, overrides: Sequence[str]) -> tuple[str, ...]:
    """The command line that `parser` reads this from."""
    arguments = ["--preset", presets, "--store", execution.store, "--workers", _workers_text(execution)]
    arguments += ["--cpus-per-worker", str(execution.cpus_per_worker)]
    arguments += ["--checkpoint-every-s", str(execution.checkpoint_every_s)]
    arguments += ["--gpu"] * execution.gpu
    arguments += ["--wait-for-nodes-s", str(execution.wait_for_nodes_s)] * bool(execution.wait_for_nodes_s)
    arguments += [argument for stage in execution.force for argument in ("--force", stage)]
    return (*arguments, *overrides)


def job_id() -> str:
    """The submission's id in a submitted job, else nothing."""
    return str(json.loads(os.environ.get(SUBMITTED, "{}")).get("metadata", {}).get("job_submission_id", ""))


def absolute(store: str) -> str:
    """The store's absolute form. A submitted job runs in a temporary copy of its folder, which would take a relative
    store with it, so there the store is below the home folder."""
    if SUBMITTED in os.environ and "://" not in store:
        store = os.path.join(os.path.expanduser("~"), store)
    return fs.absolute(store)


def pointed_to(model: str) -> str:
    """The URI of a model; of a channel, that of the run that it points to now, since it may move meanwhile."""
    uri = absolute(model)
    return channel.run_uri(uri) or uri


def _reusable(stage: Stage, run: Run, identity: str) -> Manifest | None:
    # A forced stage is not looked up: --force is the way out of a torn manifest or a lost file.
    return None if stage.name in run.execution.force else run.store.find(stage.name, identity)


def _why(stage: Stage, run: Run) -> str:
    if stage.name in run.execution.force:
        return "forced"
    earlier = run.store.list_stage(stage.name)
    latest = max(earlier, key=lambda manifest: manifest.created_utc, default=None)
    return explain_change(latest, stage.uses(run.recipe), stage.inputs(run.recipe))


_terminated: int = 0  # the signal, once it came: exceptions lose their arguments on their way through Ray


def _stop_cleanly_on_sigterm() -> None:
    def stop(number: int, frame: object) -> None:
        global _terminated
        _terminated = number
        raise KeyboardInterrupt  # what Ray lets through

    signal.signal(signal.SIGTERM, stop)
