"""Weights counted without a model, and the language model of as many."""

import pytest

from davam.recipe import load_recipe
from davam.train.sizes import count_weights, hidden_dim_of
from davam.train.stages import stage_one_module, stage_two_module


@pytest.mark.parametrize("preset", ["lstm_lm", "vae", "gavam", "davam_class", "davam_joint", "daps"])
def test_the_count_is_that_of_the_model(preset: str) -> None:
    recipe = load_recipe(["abstract" if preset == "davam_joint" else preset, "tiny"])
    assert count_weights(recipe, 50, 2) == sum(
        weight.numel() for weight in stage_one_module(recipe, 50, 2).parameters()
    )


def test_a_prior_that_is_trained_afterwards_counts_too() -> None:
    recipe = load_recipe(["recommended", "tiny"])
    modules = stage_one_module(recipe, 50), stage_two_module(recipe)
    assert count_weights(recipe, 50) == sum(weight.numel() for module in modules for weight in module.parameters())


@pytest.mark.parametrize("weights", [1, 100_000, 3_000_000])
def test_no_other_size_is_nearer(weights: int) -> None:
    recipe = load_recipe(["lstm_lm", "tiny"])
    found = hidden_dim_of(weights, recipe, 500)
    far = {}
    for hidden_dim in {max(2, found - 1), found, found + 1}:
        model = recipe.model.model_copy(update={"hidden_dim": hidden_dim})
        far[hidden_dim] = abs(count_weights(recipe.model_copy(update={"model": model}), 500) - weights)
    assert far[found] == min(far.values())
