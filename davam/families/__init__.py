"""The table of model families. Adding one: a file here, and a line in each of the two tables below."""

from typing import Annotated

from pydantic import Field

from davam.families.davam import Davam, DavamConfig
from davam.families.davam_q import DavamQ, DavamQConfig
from davam.families.gavam import Gavam, GavamConfig
from davam.families.lstm_lm import LstmLm, LstmLmConfig
from davam.families.text import TextFamily
from davam.families.vae import Vae, VaeConfig
from davam.families.vae_attn import VaeAttn, VaeAttnConfig

FamilyConfig = Annotated[
    DavamConfig | DavamQConfig | LstmLmConfig | VaeConfig | VaeAttnConfig | GavamConfig, Field(discriminator="kind")
]
FAMILIES: tuple[type[TextFamily], ...] = (Davam, DavamQ, LstmLm, Vae, VaeAttn, Gavam)


def family_of(config: FamilyConfig) -> type[TextFamily]:
    """The class of a family's settings."""
    return next(family for family in FAMILIES if family.kind == config.kind)


def build_family(config: FamilyConfig, vocab_size: int, max_tokens: int, labels: int = 0) -> TextFamily:
    """The untrained model that the settings describe, conditional on one of so many labels if any."""
    return family_of(config)(config, vocab_size, max_tokens, labels)
