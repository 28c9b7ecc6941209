"""The autoregressive priors p(z_1..z_T, end) of Eq. (7) and (9). Adding one: a file, and a line in each table below."""

from typing import Annotated

from pydantic import Field

from davam.nn.priors.base import Prior
from davam.nn.priors.lstm import LstmPrior, LstmPriorConfig
from davam.nn.priors.pixelcnn import PixelCnnConfig, PixelCnnPrior

PriorConfig = Annotated[PixelCnnConfig | LstmPriorConfig, Field(discriminator="kind")]


__all__ = ["LstmPriorConfig", "PixelCnnConfig", "Prior", "PriorConfig", "build_prior"]


def build_prior(config: PixelCnnConfig | LstmPriorConfig, codebook_size: int, labels: int = 0) -> Prior:
    """The prior that the settings describe, over K codes and the end code, given one of so many labels if any."""
    if isinstance(config, PixelCnnConfig):
        return PixelCnnPrior(config, codebook_size, labels)
    return LstmPrior(config, codebook_size, labels)
