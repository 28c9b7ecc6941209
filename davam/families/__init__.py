"""The table of model families. Adding one: a file here, and a line in the union below."""

from davam.families.davam import Davam, DavamConfig

FamilyConfig = DavamConfig


def build_family(config: FamilyConfig, vocab_size: int, max_tokens: int) -> Davam:
    """The untrained model that the settings describe."""
    return Davam(config, vocab_size, max_tokens)
