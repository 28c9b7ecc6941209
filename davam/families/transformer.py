"""The settings of families whose encoder and decoder, or decoder alone, can be Transformers."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from davam.config import Frozen
from davam.nn.backbones import EncoderKind
from davam.nn.decoder import AttentionForm
from davam.nn.transformer import TransformerConfig


class TransformerPart(Frozen):
    """Whether the decoder is a Transformer, and its sizes. Without one there is no such key, so that the fingerprints
    of all other models are those from before there was one."""

    hidden_dim: int
    transformer: TransformerConfig | None = Field(
        None, exclude_if=lambda sizes: sizes is None, description="sizes of the decoder, in the place of the LSTM"
    )

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "TransformerPart":
        if self.transformer is not None:
            self.transformer.check_width("hidden_dim", self.hidden_dim)
        return self


class TransformerParts(Frozen):
    """Which parts are Transformers, and their sizes. Without any there is no such key, so that the fingerprints of all
    other models are those from before there was one."""

    hidden_dim: int
    encoder: EncoderKind
    attention: AttentionForm
    transformer: TransformerConfig | None = Field(
        None, exclude_if=lambda sizes: sizes is None, description="sizes of the parts that are Transformers"
    )

    @model_validator(mode="before")
    @classmethod
    def _sizes_where_needed(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "transformer" in (values.get("encoder"), values.get("attention")):
            return {**values, "transformer": values.get("transformer") or {}}
        return values

    @model_validator(mode="after")
    def _sizes_fit(self) -> "TransformerParts":
        if self.encoder == "bilstm" and self.hidden_dim % 2:
            raise ValueError(
                f"hidden_dim={self.hidden_dim}: encoder=bilstm has half of it in each direction; give an even one"
            )
        if self.transformer is None:
            return self
        if "transformer" not in (self.encoder, self.attention):
            raise ValueError(
                "transformer: these are the sizes of no part of this model; set encoder=transformer or "
                "attention=transformer, or leave them out"
            )
        self.transformer.check_width("hidden_dim", self.hidden_dim)
        return self
