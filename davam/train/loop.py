"""The training loop of any stage of any family: one process or many, with two injected callables.

It knows neither Ray nor paths. `hooks.report` gets a dictionary for the progress line, `hooks.save` persists the
state. Each epoch's batches come from the plan, so a resumed run repeats the unbroken one exactly.
"""

import math
import operator
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from davam.data.batches import Indices, plan_epoch, plan_in_order, row_noise
from davam.errors import TrainingError
from davam.families.base import Clock, Trainable, Workers
from davam.nn.noise import Stream, generator
from davam.train import comm
from davam.train.lagging import encoder_steps, is_decoder, latent_information
from davam.train.optim import learning_rate
from davam.train.state import TrainState
from davam.train.step import Job, all_parameters, optimizer_step

CHECK_EVERY_STEPS = 10  # how often the workers ask rank 0 whether to save and whether to stop


@dataclass(frozen=True)
class Hooks:
    """What the loop calls outside itself. `due` (asked on rank 0 only) says whether it is time to save, `listens` (the
    same) whether it is time to ask `warned`, which all workers are asked together: whether one of them is about to lose
    its machine, and what there is should be saved now."""

    report: Callable[[dict[str, float]], None]
    save: Callable[[TrainState, Trainable, torch.optim.Optimizer], None]
    due: Callable[[], bool] = lambda: False
    listens: Callable[[], bool] = lambda: False
    warned: Callable[[], bool] = lambda: False


def train(job: Job, optimizer: torch.optim.Optimizer, state: TrainState, hooks: Hooks) -> TrainState:
    """Trains from the given state to the end; the module then holds the weights of the best epoch.

    Raises TrainingError when a gradient or the validation's objective is not finite.
    """
    group = comm.workers()
    if group.rank:  # a state that was saved holds what all workers had summed
        state.epoch_sums = dict.fromkeys(state.epoch_sums, 0.0)
    while not state.finished:
        plan = plan_epoch(job.train.lengths, job.seed, state.epoch, job.config.batch_rows)
        _run_epoch(job, optimizer, state, hooks, plan, group)
        _close_epoch(job, optimizer, state, hooks, len(plan), group)
    job.module.load_state_dict(state.best_weights)
    return state


def evaluate(job: Job, epoch: int, group: Workers) -> dict[str, float]:
    """Means per validation row of the module's measures, each row counted once, without dropout; and the measures
    that the module takes from its tally of the rows."""
    plan = plan_in_order(job.valid.lengths, job.config.batch_rows)
    totals: dict[str, Tensor] = {}
    was_training = job.module.training
    job.module.eval()
    with torch.no_grad():
        for batch in job.slices(job.valid, plan, group):
            terms = job.module(batch, Clock(epoch, 0, len(plan), group.all_reduce), None)
            for name, value in {**terms.sums, "tally": job.module.tally(terms)}.items():
                totals[name] = totals.get(name, torch.zeros_like(value, dtype=torch.float64)) + value.double()
    job.module.train(was_training)
    reduced = {name: group.all_reduce(value) if value.numel() else value for name, value in totals.items()}
    tally, rows = reduced.pop("tally"), float(reduced.pop("rows"))
    return {name: float(value) / rows for name, value in reduced.items()} | job.module.describe(tally)


def _run_epoch(
    job: Job, optimizer: torch.optim.Optimizer, state: TrainState, hooks: Hooks, plan: list[Indices], group: Workers
) -> None:
    lengths = job.train.lengths
    if state.step == 0:
        codes_per_step = float(job.module.num_codes(torch.from_numpy(lengths - 1)).sum() / len(plan))
        began = time.monotonic()
        job.module.begin_epoch(state.epoch, lambda: job.slices(job.train, plan, group), codes_per_step, job.seed, group)
        state.beside_s += time.monotonic() - began
        state.epoch_sums = {}
    job.module.train()
    ticked = time.monotonic()
    for batch in job.slices(job.train, plan[state.step :], group):
        clock = Clock(state.epoch, state.step, len(plan), group.all_reduce)
        rate = learning_rate(job.config, clock.global_step, job.config.epochs * len(plan), state.plateau)
        rows = plan[state.step]
        moved = all_parameters
        if job.config.encoder_updates == "aggressive" and state.lagging:
            encoder_steps(job, optimizer, rows, plan, clock, rate, group)
            moved = is_decoder
        noise = row_noise(batch, job.seed, clock.global_step)
        terms = optimizer_step(job, optimizer, batch, rows, clock, rate, noise, moved, group)
        job.module.after_step(terms, batch, clock, partial(_picks, job, clock, rows), group)
        sums = {name: float(value) for name, value in terms.sums.items()}
        for name, value in sums.items():
            state.epoch_sums[name] = state.epoch_sums.get(name, 0.0) + value
        state.step += 1
        now = time.monotonic()
        state.train_s, ticked = state.train_s + now - ticked, now
        if state.step % CHECK_EVERY_STEPS == 0 or state.step == len(plan):
            hooks.report(
                {
                    "epoch": clock.epochs_done,
                    "epochs": job.config.epochs,
                    "step": clock.global_step + 1,
                    "steps": job.config.epochs * len(plan),
                    "lr": rate,
                    **state.epoch_sums,
                }
            )
            if state.step < len(plan) and _must_save(hooks, job.device):
                # Rank 0's state is saved for all, so it gets all that was summed, and the others begin at nothing.
                sums = _over_workers(state.epoch_sums, job.device, group)
                state.epoch_sums = sums if group.rank == 0 else dict.fromkeys(sums, 0.0)
                hooks.save(state, job.module, optimizer)


def _must_save(hooks: Hooks, device: torch.device) -> bool:
    if comm.on_rank_zero(hooks.due, device):
        return True
    return comm.on_rank_zero(hooks.listens, device) and hooks.warned()


def _close_epoch(
    job: Job, optimizer: torch.optim.Optimizer, state: TrainState, hooks: Hooks, steps: int, group: Workers
) -> None:
    """Validate, keep the best weights, apply the learning-rate rule, save."""
    began = time.monotonic()
    valid = evaluate(job, state.epoch, group)
    state.beside_s += time.monotonic() - began
    loss = valid[job.module.objective]
    trained = _over_workers(state.epoch_sums, job.device, group)
    record = {"epoch": float(state.epoch + 1)}
    record |= {f"train/{name}": value / trained["rows"] for name, value in trained.items() if name != "rows"}
    record |= {f"valid/{name}": value for name, value in valid.items()}
    state.history.append(record)
    if job.config.encoder_updates == "aggressive" and state.lagging:
        information_nats = latent_information(job, group)
        record["valid/latent_information_nats"] = information_nats
        # The encoder has caught up once what it says no longer grows; from then on all step together, for good.
        state.lagging = comm.on_rank_zero(partial(operator.ge, information_nats, state.information_nats), job.device)
        state.information_nats = information_nats
    if job.module.selectable(state.epoch):
        if not math.isfinite(loss):
            raise TrainingError(
                f"training diverged in epoch {state.epoch + 1}: the validation rows' {job.module.objective} is {loss}; "
                "lower the optimizer's lr, or look at these rows"
            )
        if loss < state.best_objective:
            state.best_objective, state.best_epoch = loss, state.epoch
            state.best_weights = {name: value.detach().cpu().clone() for name, value in job.module.state_dict().items()}
        _apply_plateau(job, optimizer, state, loss)
    state.epoch, state.step = state.epoch + 1, 0
    state.finished = state.epoch >= job.config.epochs or state.plateau.stopped or _time_is_up(job, state)
    hooks.report(
        {
            "epoch": float(state.epoch),
            "epochs": job.config.epochs,
            "step": state.epoch * steps,
            "steps": job.config.epochs * steps,
            **record,
        }
    )
    hooks.save(state, job.module, optimizer)


def _over_workers(sums: dict[str, float], device: torch.device, group: Workers) -> dict[str, float]:
    packed = torch.tensor(list(sums.values()), dtype=torch.float64, device=device)
    return dict(zip(sums, group.all_reduce(packed).tolist(), strict=True))


def _time_is_up(job: Job, state: TrainState) -> bool:
    """Rank 0's answer, for all workers: their clocks differ. A training goes on until it has weights to end with."""
    minutes = job.config.max_minutes
    return (
        minutes is not None
        and bool(state.best_weights)
        and comm.on_rank_zero(lambda: state.train_s >= 60 * minutes, job.device)
    )


def _apply_plateau(job: Job, optimizer: torch.optim.Optimizer, state: TrainState, loss: float) -> None:
    rule = job.config.optimizer
    if rule.kind == "sgd" and state.plateau.observe(loss, state.epoch, rule):
        job.module.load_state_dict(state.best_weights)


def _picks(job: Job, clock: Clock, rows: Indices, count: int) -> Tensor:
    """Positions of the global batch, (row index, position) pairs, from (seed, step) alone."""
    rng = generator(job.seed, Stream.RESTART, clock.global_step)
    index = rng.choice(rows, size=count)
    words = job.train.lengths[index] - 1
    return torch.from_numpy(np.stack([index, (rng.random(count) * words).astype(np.int64)], axis=1))
