"""Everything that training must remember to go on as if it had never stopped.

Random numbers are functions of (seed, step, row), so there is no generator state among it.
"""

import dataclasses
import io
import math
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from davam.errors import ArtifactError
from davam.families.base import Trainable
from davam.train.optim import Plateau

FILE_NAME = "train_state.pt"


@dataclass
class TrainState:
    """The position in training, the rule's state, running sums of the epoch, the history and the best weights."""

    epoch: int = 0
    step: int = 0
    plateau: Plateau = field(default_factory=Plateau)
    epoch_sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    best_objective: float = math.inf
    best_epoch: int = -1
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    finished: bool = False
    train_s: float = 0.0  # spent in training steps, over all starts,
    beside_s: float = 0.0  # and in what comes between them: validation, and k-means before the first quantized epoch
    lagging: bool = True  # of aggressive encoder training: whether it still goes on,
    information_nats: float = 0.0  # and what the latent carried after the last epoch


def training_record(state: TrainState, module: Trainable) -> dict[str, Any]:
    """What a model folder keeps of a finished training: the measure that selects, its best value, the history, the time
    spent in steps and between them, and how many parameters were trained."""
    return {
        "parameters": sum(weight.numel() for weight in module.parameters()),
        "train_s": round(state.train_s, 1),
        "beside_s": round(state.beside_s, 1),
        "objective": module.objective,
        "best_valid": state.best_objective,
        "best_epoch": state.best_epoch + 1,
        "epochs": state.epoch,
        "history": state.history,
    }


def save_state(folder: Path, state: TrainState, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the state, the weights and the optimizer into the folder."""
    values = {entry.name: getattr(state, entry.name) for entry in dataclasses.fields(state)}
    values["plateau"] = dataclasses.asdict(state.plateau)
    payload = {"state": values, "module": module.state_dict(), "optimizer": optimizer.state_dict()}
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    (folder / FILE_NAME).write_bytes(buffer.getvalue())


def load_state(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState:
    """The saved state; the module and the optimizer take their saved values.

    Raises ArtifactError when the file is torn, belongs to another model, or would run code.
    """
    path = folder / FILE_NAME
    try:
        payload: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(payload["module"])
        optimizer.load_state_dict(payload["optimizer"])
        values = dict(payload["state"])
        values["plateau"] = Plateau(**values["plateau"])
        return TrainState(**values)
    except pickle.UnpicklingError:  # its text is advice to read the file without this check
        raise ArtifactError(
            f"checkpoint {path} is not one that a training writes, and was not read, since it could run code; find out "
            "where it comes from, then start the stage afresh with --force"
        ) from None
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError) as error:
        raise ArtifactError(f"checkpoint {path} cannot be used: {error}; start the stage afresh with --force") from None
