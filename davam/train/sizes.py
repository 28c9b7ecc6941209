"""How many weights a recipe's model has, and the language model of as many."""

import torch
from torch import nn

from davam.families import build_family
from davam.families.codes import CodebookConfig
from davam.nn.priors import build_prior
from davam.recipe import Recipe

WIDEST = 1 << 16


def count_weights(recipe: Recipe, vocab_size: int, labels: int = 0) -> int:
    """The trained numbers of the recipe's model, its prior among them; nothing is allocated."""
    with torch.device("meta"):
        parts: list[nn.Module] = [build_family(recipe.model, vocab_size, recipe.data.max_tokens, labels)]
        if recipe.prior is not None and isinstance(recipe.model, CodebookConfig):
            parts.append(build_prior(recipe.prior, recipe.model.codebook_size, labels, recipe.data.max_tokens))
    return sum(weight.numel() for part in parts for weight in part.parameters())


def hidden_dim_of(weights: int, recipe: Recipe, vocab_size: int, labels: int = 0) -> int:
    """The `model.hidden_dim` that brings the recipe's model nearest to so many weights."""
    low, high = 2, WIDEST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _weights_at(recipe, middle, vocab_size, labels) <= weights else (low, middle)
    return min((low, high), key=lambda dim: abs(_weights_at(recipe, dim, vocab_size, labels) - weights))


def _weights_at(recipe: Recipe, hidden_dim: int, vocab_size: int, labels: int) -> int:
    model = recipe.model.model_copy(update={"hidden_dim": hidden_dim})
    return count_weights(recipe.model_copy(update={"model": model}), vocab_size, labels)
