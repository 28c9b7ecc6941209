"""Ray Train: one stage's training loop on N data-parallel workers, with checkpoints, resume and progress.

The run's name is the stage's fingerprint: the same recipe on the same store goes on from its last checkpoint, and a
different recipe can never inherit one.
"""

import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch.nn.parallel import DistributedDataParallel

from cluster.batch import loss_error, users_error
from cluster.metrics import EXPORTED, SHOWN
from cluster.progress import progress
from davam import log
from davam.api import TextModel
from davam.data import fs
from davam.data.artifacts import Manifest
from davam.errors import ArtifactError, DavamError, TrainingError
from davam.execution import Execution
from davam.families.base import Trainable
from davam.recipe import Recipe
from davam.train.history import training_uri, write_history
from davam.train.loop import Hooks, train
from davam.train.optim import build_optimizer
from davam.train.stages import build_job, check_enough, place
from davam.train.state import TrainState, load_state, save_state, training_record
from davam.train.step import Job

LISTEN_EVERY_S = 5.0  # for warnings that a machine will be taken away: all workers have to meet for it


@dataclass(frozen=True)
class TrainTask:
    """What a worker needs to know: plain data and the two module-level functions of its stage.

    `build` gives a worker's untrained module with its training and validation rows; `export` turns the trained
    module into the model that is saved.
    """

    stage: str
    name: str
    recipe: Recipe
    execution: Execution
    inputs: dict[str, Manifest]
    attempt_uri: str
    build: Callable[["TrainTask"], tuple[Trainable, Any, Any]]
    export: Callable[["TrainTask", Trainable], TextModel]


def run_training(task: TrainTask, total_steps: int) -> dict[str, Any]:
    """Trains the stage, leaves the model folder in the attempt, and returns the stage's part of its `metrics.json`.

    Raises the worker's own DavamError when there was one.
    """
    storage = fs.join(task.execution.store, "train")
    filesystem, path = fs.resolve_without_markers(storage)
    execution = task.execution
    per_worker = {"CPU": float(execution.cpus_per_worker)} | ({"GPU": 1.0} if execution.gpu else {})
    with progress(task.name.partition("-")[0], total_steps, "steps") as counter:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"task": task, "counter": counter, "about": log.ids()},
            scaling_config=ScalingConfig(
                num_workers=_worker_numbers(execution), use_gpu=execution.gpu, resources_per_worker=per_worker
            ),
            run_config=RunConfig(
                name=task.name,
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(  # type: ignore[call-arg]
                    max_failures=execution.max_failures, controller_failure_limit=3
                ),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            trainer.fit()
            message = ray.get(counter.failure.remote())
        except Exception as error:
            raise users_error(error) or loss_error(error) or _as_training_error(error, task) from error
    if message:
        raise TrainingError(message)
    record: dict[str, Any] = json.loads(fs.read_bytes(fs.join(task.attempt_uri, "metrics.json")))[task.stage]
    fs.delete_folder(training_uri(execution.store, task.name))
    return record


def _worker_numbers(execution: Execution) -> Any:  # a pair is right for Ray, and not in its types
    """How many workers there are, or the fewest and the most: the batches of a step are the same for any number."""
    least = execution.least_workers
    return execution.workers if least is None else (least, execution.workers)


def train_worker(settings: dict[str, Any]) -> None:
    """One worker's training, start to end. A user's error is told to the driver rather than raised, so that Ray does
    not repeat what would fail again."""
    task: TrainTask = settings["task"]
    torch.set_num_threads(task.execution.cpus_per_worker)
    rank = ray.train.get_context().get_world_rank()
    try:
        with log.about(**settings["about"], rank=rank):
            _train_worker(task, settings["counter"], rank)
    except DavamError as error:
        ray.get(settings["counter"].fail.remote(str(error)))


def _train_worker(task: TrainTask, counter: Any, rank: int) -> None:
    module, train_rows, valid_rows = task.build(task)
    check_enough(len(train_rows), len(valid_rows), task.recipe.model)
    place(module, task.execution.gpu)
    job = build_job(module, _data_parallel(module), train_rows, valid_rows, task.recipe, task.stage)
    optimizer = build_optimizer(module, job.config)
    state = _resume(job, optimizer)
    # Into this process's own log: what a worker says is not what the driver says.
    log.say(f"{task.stage}  worker {rank} begins at epoch {state.epoch}, step {state.step}")
    hooks = _hooks(task, counter, rank)
    train(job, optimizer, state, hooks)
    if rank == 0:
        _export(task, module, state)


def _data_parallel(module: Trainable) -> Any:
    if ray.train.get_context().get_world_size() == 1:
        return module
    # The codebook is kept equal by its own all-reduce, so DDP must not overwrite it with rank 0's.
    return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)


def _resume(job: Job, optimizer: torch.optim.Optimizer) -> TrainState:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return TrainState()
    with checkpoint.as_directory() as folder:
        return load_state(Path(folder), job.module, optimizer)


def _hooks(task: TrainTask, counter: Any, rank: int) -> Hooks:
    """Progress to the counter, checkpoints to Ray Train. Every worker reports each checkpoint; rank 0 brings it."""
    clock = {"saved": time.monotonic(), "listened": time.monotonic()}
    known: list[Any] = [None]  # the warning that was heeded last

    def report(values: dict[str, float]) -> None:
        if rank == 0:
            counter.put.remote(_shown(values))

    def save(state: TrainState, module: Trainable, optimizer: torch.optim.Optimizer) -> None:
        clock["saved"] = time.monotonic()
        if rank == 0 and state.step == 0:
            write_history(task.execution.store, task.name, state.history)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if rank == 0:
                save_state(Path(folder), state, module, optimizer)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"epoch": state.epoch, "step": state.step}, checkpoint=checkpoint)

    def due() -> bool:
        return time.monotonic() - clock["saved"] > task.execution.checkpoint_every_s

    def listens() -> bool:
        if time.monotonic() - clock["listened"] < LISTEN_EVERY_S:
            return False
        clock["listened"] = time.monotonic()
        return True

    def warned() -> bool:
        """Whether a machine is about to be taken away; a warning counts once."""
        info = ray.train.get_preemption_info()
        if info is None or info == known[0]:
            return False
        known[0] = info
        return True

    return Hooks(report, save, due, listens, warned)


def _shown(values: dict[str, float]) -> dict[str, float]:
    shown = {"done": float(values["step"]), f"{SHOWN}epoch": float(values["epoch"])}
    for name in ("rec_nats", "kl_nats_sum"):
        if name in values and values.get("rows"):
            shown[f"{SHOWN}{name}"] = values[name] / values["rows"]
    # What an epoch's validation came to.
    return shown | {f"{EXPORTED}{name}": value for name, value in values.items() if name.startswith("valid/")}


def _export(task: TrainTask, module: Trainable, state: TrainState) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = task.export(task, module.eval())
        model.training[task.stage] = training_record(state, module)
        model.save(folder)
        fs.upload_folder(folder, task.attempt_uri)


def _as_training_error(error: Exception, task: TrainTask) -> TrainingError:
    error_uri = fs.join(training_uri(task.execution.store, task.name), "error.txt")
    try:
        fs.write_bytes_atomic(error_uri, str(error).encode())
    except ArtifactError as away:
        return TrainingError(f"{task.stage} stopped: {away}; the same command goes on from the last checkpoint")
    return TrainingError(
        f"{task.stage} stopped: {reason(error)}; the whole error is in {error_uri}, "
        "and the same command goes on from the last checkpoint"
    )


def reason(error: Exception) -> str:
    """The line of an error, with the tracebacks of workers in its text, that says what went wrong."""
    lines = str(error).strip().splitlines()
    raised = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception|Exit)\b", line)]
    return (raised or lines or [type(error).__name__])[-1]
