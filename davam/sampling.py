"""What a person can ask of new text: how codes and words are drawn, how long it is, and whether it may hold `<unk>`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

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
    labels: Literal["balanced"] | Annotated[dict[str, PositiveFloat], Field(min_length=1)] | None = Field(
        None, description="of a model with labels: their shares, or all alike; none: as in its training text"
    )

    @model_validator(mode="after")
    def _range(self) -> "Sampling":
        if self.max_length is not None and self.max_length < self.min_length:
            raise ValueError(f"max_length={self.max_length} is under min_length={self.min_length}")
        return self


ANCESTRAL_SAMPLING = Sampling()
GREEDY = Sampling(decoder=Choice(top_k=1))
