"""What a person can ask of new text: how codes and words are drawn, how long it is, and whether it may hold `<unk>`."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from davam.config import Frozen
from davam.nn.choice import ANCESTRAL, Choice


class Sampling(Frozen):
    """How sentences are drawn. As it is: from the model's own distribution, prior and decoder alike.

    Lengths are in tokens and bind the decoder as well as the prior, so that a text has between `min_length` and
    `max_length` tokens whatever the family.
    """

    prior: Choice = Field(ANCESTRAL, description="of codes; of a Gaussian prior the temperature alone")
    decoder: Choice = Field(ANCESTRAL, description="of words")
    min_length: int = Field(1, ge=1, description="tokens")
    max_length: int | None = Field(None, ge=1, description="tokens; none: as many as the model can hold")
    unknown: bool = Field(True, description="whether the unknown word may occur")
    labels: Literal["balanced"] | dict[str, float] | None = Field(
        None, description="of a model with labels: their shares, or all alike; none: as in its training text"
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _shares(cls, given: Any) -> Any:
        if given is None or given == "balanced":
            return given
        # YAML reads the label 1 as a number.
        shares = {str(name): share for name, share in given.items()} if isinstance(given, Mapping) else {}
        if not shares or not all(isinstance(share, int | float) and share > 0 for share in shares.values()):
            raise ValueError("give `balanced`, or a share above 0 for each label, e.g. {joy: 3, anger: 1}")
        return shares

    @model_validator(mode="after")
    def _range(self) -> "Sampling":
        if self.max_length is not None and self.max_length < self.min_length:
            raise ValueError(f"max_length={self.max_length} is under min_length={self.min_length}")
        return self


ANCESTRAL_SAMPLING = Sampling()
GREEDY = Sampling(decoder=Choice(top_k=1))
