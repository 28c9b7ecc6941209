"""The collectives of the process group at hand; with one process they return their input."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from davam.families.base import Workers

Result = TypeVar("Result")


def workers() -> Workers:
    """The workers of the initialised process group, or one alone."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return Workers(0, 1, _same, lambda tensor: [tensor], _same)
    return Workers(dist.get_rank(), dist.get_world_size(), _all_reduce, _all_gather, _broadcast)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _all_reduce(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    dist.all_reduce(tensor)
    return tensor


def _broadcast(tensor: Tensor) -> Tensor:
    dist.broadcast(tensor, 0)
    return tensor


def _all_gather(tensor: Tensor) -> list[Tensor]:
    """Tensors whose first dimension may differ between workers, in rank order."""
    sizes = [torch.zeros(1, dtype=torch.long, device=tensor.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(tensor)], device=tensor.device))
    widest = int(max(size.item() for size in sizes))
    padded = torch.cat([tensor, tensor.new_zeros(widest - len(tensor), *tensor.shape[1:])])
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [part[: int(size)] for part, size in zip(parts, sizes, strict=True)]


def on_rank_zero(decide: Callable[[], bool], device: torch.device) -> bool:
    """Rank 0's answer, known to all workers."""
    group = workers()
    flag = torch.tensor([float(group.rank == 0 and decide())], device=device)
    return bool(group.broadcast(flag).item())
