"""What a generated corpus is: everything that decides its rows."""

from typing import Any

from pydantic import Field

from davam.config import Frozen
from davam.data.artifacts import fingerprint
from davam.quality.checks import Filters
from davam.sampling import ANCESTRAL_SAMPLING, Sampling

VERSION = 3  # of the rows: raised when the same settings give other rows


class Spec(Frozen):
    """Row i is a function of the model, the seed, the sampling and i; which rows stay, of the filters as well."""

    seed: int = Field(0, ge=0, lt=2**63)
    sampling: Sampling = ANCESTRAL_SAMPLING
    filters: Filters = Filters()

    def identity(self, model_sha256: str, text_sha256: str | None) -> dict[str, Any]:
        """The settings with the digests of the model and of the training text that rows are compared with."""
        return {
            "version": VERSION,
            "model_sha256": model_sha256,
            "text_sha256": text_sha256,
            "spec": self.model_dump(mode="json"),
        }


class Variation(Frozen):
    """Which new sentences are made of given ones: n of each, with this share of the codes drawn anew."""

    n: int = Field(5, ge=1, le=10_000)
    share: float = Field(0.3, ge=0, le=1)
    seed: int = Field(0, ge=0, lt=2**63)
    sampling: Sampling = ANCESTRAL_SAMPLING


def spec_digest(identity: dict[str, Any]) -> str:
    """One number for an identity."""
    return fingerprint("generate", VERSION, identity, {})
