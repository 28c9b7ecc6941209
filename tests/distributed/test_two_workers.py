"""Two data-parallel workers equal one worker on the concatenated batch: loss, weights and codebook."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from davam.families import FamilyConfig, build_family
from davam.families.base import Trainable
from davam.families.prior import PriorTraining
from davam.nn.priors import LstmPriorConfig, build_prior
from davam.recipe import Sgd, TrainConfig
from davam.train.comm import workers
from davam.train.loop import Hooks, train
from davam.train.optim import build_optimizer
from davam.train.state import FILE_NAME, TrainState, load_state, save_state
from davam.train.step import Job
from tests.small import CODES, VOCAB, WIDEST, adamw, fresh, quiet, random_rows, sgd, small_davam

# As in the preset `paper`: other modules, other parameters.
PAPER = {"encoder": "lstm", "attention": "feed", "positions": False, "normalize_states": False}


SMALL = {"embed_dim": 8, "hidden_dim": 12}
LATENT = {"latent_dim": 4, "kl": {"kind": "linear", "warmup_epochs": 2}}
CATEGORICAL = {"latents": 2, "codebook_size": 4, "init": "fan_in"}
CATEGORICAL |= {"prior": {"kind": "lstm", "embed_dim": 4, "hidden_dim": 6}}
OTHERS: dict[str, dict[str, Any]] = {
    # Few of the rows hold a word beyond the shortlist, so that some slices have none.
    "lstm_lm": {"output_shortlist": 29},
    "transformer_lm": {"transformer": {"heads": 2}, "width": 12},
    "vae": {**LATENT, "free_bits": {"kind": "batch", "target_nats": 0.001}},
    "vae_attn": {**LATENT, "attention_dim": 8},
    "gavam": {**LATENT, "attention_dim": 8, "prior": {"layers": 2, "hidden_dim": 8}},
    "dvae": {**CATEGORICAL, "estimator": {"kind": "score", "draws": 1}},
    "daps": {**CATEGORICAL, "encoder": {"channels": 8, "heads": 2}, "eta": {"kind": "solved"}},
    "davam_q": {"codebook_size": CODES, "code_dim": 4},
    # Words are dealt out to codes in the midst of the training.
    "davam_exact": {"codebook_size": CODES, "code_dim": 4, "continuous_epochs": 1, "quantized_epochs": 1},
    "davam_class": {"codebook_size": CODES, "continuous_epochs": 1},
    "davam_joint": {
        **{"codebook_size": CODES, "code_dim": 4, "stride": 2, "quantized_epochs": 0, "init": "fan_in"},
        "prior": {"kind": "lstm", "embed_dim": 4, "hidden_dim": 6},
    },
}


# Further forms of a family.
FORMS: dict[str, dict[str, Any]] = {
    "dvae-gumbel": {**CATEGORICAL, "free_bits": {"kind": "batch", "target_nats": 0.001}, "batch_prior_weight": 0.5},
    "daps-descended": {
        **OTHERS["daps"],
        "eta": {"kind": "descended", "start": 3, "rate": 0.1},
        "batch_prior_weight": 0.5,
        "encoder_rate_share": 0.5,
    },
}


def build(stage: str) -> Trainable:
    """An untrained module of the stage, with dropout."""
    if stage in OTHERS or stage in FORMS:
        values = {"kind": stage.split("-")[0], **SMALL, **(OTHERS | FORMS)[stage]}
        config: Any = TypeAdapter(FamilyConfig).validate_python(values)
        family = build_family(config, VOCAB, WIDEST)
        family.init_weights(0)
        return family
    if stage != "stage_two":
        # Restarts from the first step on, so that they are compared too.
        return small_davam(restart_share=0.5, ema_decay=0.8, **(PAPER if stage == "paper" else {}))
    module = PriorTraining(build_prior(LstmPriorConfig(embed_dim=8, hidden_dim=16, dropout=0.2), CODES))
    module.init_weights(0)
    return module


def lagging(epochs: int, batch_rows: int) -> TrainConfig:
    """Aggressive training of the encoder."""
    return sgd(epochs, batch_rows).model_copy(update={"encoder_updates": "aggressive"})


def calm(epochs: int, batch_rows: int, rate: float = 0.05) -> TrainConfig:
    """Small steps, for families that draw codes: large ones turn rounding into another code."""
    return sgd(epochs, batch_rows).model_copy(update={"optimizer": Sgd(lr=rate)})


def trained(stage: str, config: TrainConfig, parallel: bool) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """The weights and history after training; the module runs inside DDP when parallel."""
    torch.set_num_threads(1)
    module = build(stage)
    # 45 rows in batches of 7: every batch is uneven for two workers, and the last one short.
    terminator, first, last = (2, 4, 30) if stage != "stage_two" else (CODES, 0, CODES)
    rows, valid = (random_rows(n, seed, terminator, first, last) for n, seed in ((45, 0), (9, 1)))
    call = DistributedDataParallel(module, broadcast_buffers=False) if parallel else module
    state = train(Job(module, call, rows, valid, config, seed=3), build_optimizer(module, config), fresh(), quiet())
    return {name: value.clone() for name, value in module.state_dict().items()}, state.history


CASES = {
    "stage_one-adamw": ("stage_one", adamw(3, 7)),
    "stage_one-sgd": ("stage_one", sgd(3, 7)),
    "paper": ("paper", sgd(3, 7)),
    "stage_two": ("stage_two", adamw(2, 7)),
    "vae-aggressive": ("vae", lagging(2, 7)),
    **{kind: (kind, sgd(2, 7)) for kind in OTHERS},
    **{kind: (kind, sgd(4, 7)) for kind in ("davam_exact", "davam_class")},
    **{kind: (kind, calm(2, 7)) for kind in ("daps", "davam_joint", *FORMS)},
    # The score function's gradients are large: at 0.05 rounding grows from 1e-7 to 1e-5 in these few steps.
    "dvae": ("dvae", calm(2, 7, rate=0.01)),
}


class Stopped(Exception):
    """Ends a training at its first checkpoint within an epoch."""


def resumed(folder: Path, parallel: bool) -> list[dict[str, float]]:
    """The history of a language model's training that was stopped in the midst of an epoch and gone on with."""

    def save(state: TrainState, module: Trainable, optimizer: torch.optim.Optimizer) -> None:
        if state.step:
            if workers().rank == 0:
                save_state(folder, state, module, optimizer)
            raise Stopped

    config, rows, valid = sgd(2, 2), random_rows(45, 0), random_rows(9, 1)
    for hooks in (Hooks(lambda values: None, save, due=lambda: True), quiet()):
        module = build("lstm_lm")
        call = DistributedDataParallel(module) if parallel else module
        job, optimizer = Job(module, call, rows, valid, config, seed=3), build_optimizer(module, config)
        saved = (folder / FILE_NAME).exists()
        state = load_state(folder, module, optimizer) if saved else fresh()
        with contextlib.suppress(Stopped):
            train(job, optimizer, state, hooks)
        if parallel:
            torch.distributed.barrier()
    return state.history


def worker(rank: int, folder: str) -> None:
    """One of two processes: every case, one after the other."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/sync", rank=rank, world_size=2)
    for name, (stage, config) in CASES.items():
        torch.save(trained(stage, config, parallel=True), f"{folder}/{name}-{rank}.pt")
    state = Path(folder, "state")
    state.mkdir(exist_ok=True)
    torch.save(resumed(state, parallel=True), f"{folder}/resumed-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what two workers made of every case."""
    folder = tmp_path_factory.mktemp("together")
    spawn(worker, args=(str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_workers_equal_one(together: Path, name: str) -> None:
    (first, history), (second, _) = (torch.load(together / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
    alone, alone_history = trained(*CASES[name], parallel=False)
    for weight, value in alone.items():
        assert torch.equal(first[weight], second[weight]), weight
        assert torch.allclose(first[weight], value, rtol=1e-4, atol=1e-5), weight
    for ours, theirs in zip(history, alone_history, strict=True):
        # The KL of a categorical posterior is a small difference of large terms.
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-3)


def test_a_resumed_training_of_two_workers_has_the_unbroken_history(together: Path) -> None:
    unbroken = trained("lstm_lm", sgd(2, 2), parallel=False)[1]
    for rank in (0, 1):
        history = torch.load(together / f"resumed-{rank}.pt", weights_only=True)
        for ours, theirs in zip(history, unbroken, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
