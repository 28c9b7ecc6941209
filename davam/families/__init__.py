"""The table of model families. Adding one: a file here, and a line in each of the two tables below."""

from typing import Annotated

from pydantic import Field

from davam.families.daps import Daps, DapsConfig
from davam.families.davam import Davam, DavamConfig
from davam.families.davam_class import DavamClass, DavamClassConfig
from davam.families.davam_exact import DavamExact, DavamExactConfig
from davam.families.davam_joint import DavamJoint, DavamJointConfig
from davam.families.davam_q import DavamQ, DavamQConfig
from davam.families.dvae import Dvae, DvaeConfig
from davam.families.gavam import Gavam, GavamConfig
from davam.families.lstm_lm import LanguageModel, LstmLm, LstmLmConfig
from davam.families.text import TextFamily
from davam.families.transformer_lm import TransformerLm, TransformerLmConfig
from davam.families.vae import Vae, VaeConfig
from davam.families.vae_attn import VaeAttn, VaeAttnConfig
from davam.families.word_codes import WordCodes

FamilyConfig = Annotated[
    DavamConfig
    | DavamExactConfig
    | DavamClassConfig
    | DavamJointConfig
    | DavamQConfig
    | LstmLmConfig
    | TransformerLmConfig
    | VaeConfig
    | VaeAttnConfig
    | GavamConfig
    | DvaeConfig
    | DapsConfig,
    Field(discriminator="kind"),
]
FAMILIES: tuple[type[TextFamily], ...] = (
    Davam,
    DavamExact,
    DavamClass,
    DavamJoint,
    DavamQ,
    LstmLm,
    TransformerLm,
    Vae,
    VaeAttn,
    Gavam,
    Dvae,
    Daps,
)


def family_of(config: FamilyConfig) -> type[TextFamily]:
    """The class of a family's settings."""
    return next(family for family in FAMILIES if family.kind == config.kind)


def is_language_model(config: FamilyConfig) -> bool:
    """Whether the family is a plain language model, without latents."""
    return issubclass(family_of(config), LanguageModel)


def has_code_a_word(config: FamilyConfig) -> bool:
    """Whether the family has a code for every word."""
    return issubclass(family_of(config), WordCodes) or (isinstance(config, DavamConfig) and config.stride == 1)


def build_family(config: FamilyConfig, vocab_size: int, max_tokens: int, labels: int = 0) -> TextFamily:
    """The untrained model that the settings describe, conditional on one of so many labels if any."""
    return family_of(config)(config, vocab_size, max_tokens, labels)
