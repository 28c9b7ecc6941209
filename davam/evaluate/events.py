"""A training's history as event files, which TensorBoard reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboardX import SummaryWriter


def write_events(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Every measure of every epoch as a scalar, at the epoch as its step."""
    with SummaryWriter(str(folder)) as writer:
        for row in history:
            for name, value in row.items():
                if name != "epoch":
                    writer.add_scalar(name, value, row["epoch"])
