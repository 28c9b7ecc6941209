"""What a training begins with where the recipe names a model: its tokenizer and its weights."""

from functools import cache

from torch import nn

from davam import api
from davam.data.tokenizer import TextTokenizer
from davam.errors import ConfigError
from davam.recipe import Recipe


def model_source(recipe: Recipe) -> dict[str, str]:
    """The digest of the model to begin with, among a stage's inputs; none for a recipe that begins from scratch."""
    return {} if recipe.warm_start is None else {"warm_start": _digest(recipe.warm_start)}


def tokenizer_source(recipe: Recipe) -> dict[str, str]:
    """The digest of its tokenizer alone: many models share one."""
    return {} if recipe.warm_start is None else {"tokenizer": tokenizer(recipe.warm_start).digest()}


@cache
def tokenizer(uri: str) -> TextTokenizer:
    """The tokenizer of the model."""
    return TextTokenizer.load(api.model_folder(uri))


def begin(core: nn.Module, recipe: Recipe) -> None:
    """Gives a model before stage one the weights to begin with, where there are some. Raises ConfigError."""
    if recipe.warm_start is not None:
        _load(core, api.load(recipe.warm_start).core, recipe.warm_start)


def begin_prior(prior: nn.Module, recipe: Recipe) -> None:
    """The same for a prior before stage two."""
    if recipe.warm_start is None:
        return
    trained = api.load(recipe.warm_start).prior
    if trained is None:
        raise ConfigError(f"warm_start={recipe.warm_start}: this model has no prior yet; give a finished run")
    _load(prior, trained, recipe.warm_start)


def _load(module: nn.Module, trained: nn.Module, uri: str) -> None:
    try:
        module.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(
            f"warm_start={uri}: its weights do not fit this recipe's model ({reason}); give the presets and settings "
            "that it was trained with, or begin from scratch"
        ) from None


@cache
def _digest(uri: str) -> str:
    return api.model_digest(uri)
