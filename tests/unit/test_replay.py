"""Steps that are replayed as CUDA graphs, beside the same steps as they stand. Where there is no GPU, a stand-in keeps
a graph's rules: inputs and results have their places, and the next call overwrites them."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from davam.data.tokenizer import UNK_ID
from davam.families.prior import PriorTraining
from davam.families.text import TextFamily
from davam.families.word_codes import WordCodes
from davam.nn import replay
from davam.nn.priors import Prior
from davam.sampling import Sampling
from tests.small import CODES, LABELS, VOCAB, WIDEST
from tests.unit.test_contract import MODULES

ROWS, SHORT = 32, Sampling(max_length=6)
FAMILIES = {name: copy.deepcopy(module) for name, module in MODULES if isinstance(module, TextFamily)}
for exact in FAMILIES.values():
    if isinstance(exact, WordCodes):
        exact.code_V[UNK_ID:] = torch.arange(VOCAB - UNK_ID) % CODES
PRIORS = {name: module.prior for name, module in MODULES if isinstance(module, PriorTraining)}


def like_a_graph(function: Callable[..., Any], own: tuple[Any, ...]) -> Callable[..., Any]:
    """Inputs are copied one after the other to where the graph reads them, and results stand where it wrote them."""
    results, spec = tree_flatten(function(*own))

    def graphed(*args: Any) -> Any:
        for inner, given in zip(tree_leaves(own), tree_leaves(args), strict=True):
            inner.copy_(given)
        for result, fresh in zip(results, tree_leaves(function(*own)), strict=True):
            result.copy_(fresh)
        return tree_unflatten(results, spec)

    return graphed


def prior_for(model: TextFamily) -> Prior | None:
    """One of its own, with labels or without, as the model."""
    fitting = (prior for prior in PRIORS.values() if (prior.label_embedding is None) == (not model.labels))
    return copy.deepcopy(next(fitting)) if model.has_codes else None


def texts(model: TextFamily, prior: Prior | None, device: str = "cpu") -> tuple[Tensor, ...]:
    """Latents and words of the same rows."""
    random = torch.Generator().manual_seed(1)
    label_B = torch.arange(ROWS, device=device) % LABELS if model.labels else None
    uniform_BN = torch.rand(ROWS, model.draw_width, generator=random).to(device)
    draw = model.draw(uniform_BN, prior, SHORT, label_B)
    uniform_BS2 = torch.rand(ROWS, WIDEST + 1, 2, generator=random).to(device)
    words = model.generate(draw.latents, SHORT, uniform_BS2, label_B)
    return draw.latents.latent_BTD, draw.nats_B, words.tokens_BS, words.nats_B


def codes(prior: Prior) -> tuple[Tensor, ...]:
    """Codes of the same rows, and half of them drawn anew."""
    random = torch.Generator().manual_seed(1)
    label_B = None if prior.label_embedding is None else torch.arange(ROWS) % LABELS
    first = prior.sample(torch.rand(ROWS, 6, generator=random), label_B=label_B)
    uniform_BT = torch.rand(first.codes_BT.shape, generator=random)
    varied = prior.resample(first.codes_BT, first.length_B, uniform_BT > 0.5, uniform_BT, label_B=label_B)
    return first.codes_BT, first.nats_B, *varied


def generations() -> dict[str, tuple[Any, Callable[[Any], tuple[Tensor, ...]]]]:
    """What generates, and how, by name."""
    models = {name: (model, partial(texts, prior=prior_for(model))) for name, model in FAMILIES.items()}
    return models | {name: (prior, codes) for name, prior in PRIORS.items()}


@pytest.mark.parametrize(("module", "run"), generations().values(), ids=generations())
@torch.no_grad()
def test_what_is_generated_is_the_same_when_steps_are_replayed(
    module: Any, run: Callable[[Any], tuple[Tensor, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = copy.deepcopy(module).eval()  # graphs are kept in it
    plain = run(module)
    monkeypatch.setattr(replay, "replays", lambda first: True)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", like_a_graph)
    made = []
    for _ in range(2):
        for wanted, found in zip(plain, run(module), strict=True):
            assert torch.equal(wanted, found)
        made.append(list(module.__dict__["_graphs"]))
    assert made[0] == made[1], "each graph is made once"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
def test_on_a_gpu_replayed_steps_equal_steps_as_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, family in FAMILIES.items():
        model, prior = copy.deepcopy(family).eval().cuda(), prior_for(family)
        prior = None if prior is None else prior.cuda()
        with monkeypatch.context() as patch:
            replayed = texts(model, prior, "cuda")
            patch.setattr(replay, "replays", lambda first: False)
            for wanted, found in zip(texts(model, prior, "cuda"), replayed, strict=True):
                assert torch.equal(wanted, found), name
