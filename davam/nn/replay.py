"""Steps of generation on a GPU: recorded once as a CUDA graph, then replayed, since launching its many small kernels
one by one takes longer than running them. Elsewhere a step is computed as it stands.

Legend: none; tensors are passed on as they are.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map  # what make_graphed_callables itself takes arguments apart with

M = TypeVar("M", bound=nn.Module)
P = ParamSpec("P")
R = TypeVar("R")


def replayed(step: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """A method that maps a tensor and nests of tensors, its positional arguments, to a nest of tensors, and neither
    waits for the device nor moves data to it. One graph is kept for each choice of shapes and of keyword arguments; a
    graph's results last until its next call."""

    @wraps(step)
    def call(module: M, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if not replays(args[0]):
            return step(module, *args, **kwargs)
        leaves = tree_leaves(args)
        graphs = module.__dict__.setdefault("_graphs", {})
        key = (step.__name__, *kwargs.items(), *((leaf.shape, leaf.dtype) for leaf in leaves))
        if key not in graphs:
            graphs[key] = _recorded(partial(step, module, **kwargs), args)
        result: R = graphs[key](*args)
        return result

    return call


def replays(first: object) -> bool:
    """Whether work that begins with this tensor is replayed: on a GPU, where no gradient is asked for."""
    return isinstance(first, Tensor) and first.is_cuda and not torch.is_grad_enabled()


def _recorded(function: Callable[..., Any], args: tuple[Any, ...]) -> Callable[..., Any]:
    """The function as a graph with memory of its own. Results are copies: an input that is passed on, as the PixelCNN's
    cache is, would be overwritten by the next call's inputs."""

    def copied(*inputs: Any) -> Any:
        return tree_map(torch.clone, function(*inputs))

    own: Any = tree_map(torch.clone, args)
    return torch.cuda.make_graphed_callables(copied, own)
