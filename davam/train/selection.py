"""What models are compared by before they are finished: measures of the validation rows, all in nats a sentence."""

import math
from collections.abc import Mapping

from davam.families import FamilyConfig, family_of
from davam.families.davam import DavamConfig


def epoch_nats(record: Mapping[str, float], model: FamilyConfig) -> float | None:
    """An estimate of Rec plus the cost of the latents after one epoch of stage one; nothing while it has no codes.

    Codes are charged the entropy of their own frequencies in these rows, without context and without an end: what the
    epoch's measures hold. It ranks models in training, and is no bound.
    """
    if not family_of(model).has_codes:
        return record.get("valid/elbo_nats", record["valid/rec_nats"])
    if "valid/code_perplexity" not in record:
        return None
    codes = (record["valid/tokens"] - 1) / model.stride if isinstance(model, DavamConfig) else 1.0
    return record["valid/rec_nats"] + codes * math.log(record["valid/code_perplexity"])
