"""The autoregressive priors p(z_1..z_T, end) of Eq. (7) and (9). Adding one: a file, and a line in each table below."""

from typing import Annotated

from pydantic import Field

from davam.nn.priors.base import Prior
from davam.nn.priors.lstm import LstmPrior, LstmPriorConfig
from davam.nn.priors.pixelcnn import PixelCnnConfig, PixelCnnPrior
from davam.nn.priors.transformer import TransformerPrior, TransformerPriorConfig

AnyPriorConfig = PixelCnnConfig | LstmPriorConfig | TransformerPriorConfig
PriorConfig = Annotated[AnyPriorConfig, Field(discriminator="kind")]


__all__ = [
    "AnyPriorConfig",
    "LstmPriorConfig",
    "PixelCnnConfig",
    "Prior",
    "PriorConfig",
    "TransformerPriorConfig",
    "build_prior",
]


def build_prior(config: AnyPriorConfig, codebook_size: int, labels: int = 0, max_tokens: int = 0) -> Prior:
    """The prior that the settings describe, over K codes and the end code, given one of so many labels if any. Learned
    positions end with sequences of `max_tokens` codes."""
    if isinstance(config, PixelCnnConfig):
        return PixelCnnPrior(config, codebook_size, labels)
    if isinstance(config, TransformerPriorConfig):
        return TransformerPrior(config, codebook_size, labels, max_tokens)
    return LstmPrior(config, codebook_size, labels)
