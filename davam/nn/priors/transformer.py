"""A causal Transformer over codes: every code sees all before it, and training needs no recurrence.

Legend: B rows, T positions, E embedding, H hidden, K codes.
"""

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from davam.nn.noise import RowNoise, Stream
from davam.nn.priors.base import Prior
from davam.nn.transformer import Cache, Transformer, TransformerConfig


class TransformerPriorConfig(TransformerConfig):
    """Depth, width, heads, positions and dropout of the Transformer prior."""

    kind: Literal["transformer"] = "transformer"
    embed_dim: int = Field(128, ge=1)
    hidden_dim: int = Field(192, ge=2)
    dropout: float = Field(0.3, ge=0, lt=1, description="on embeddings and on the output layer's input")

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "TransformerPriorConfig":
        self.check_width("hidden_dim", self.hidden_dim)
        return self


class TransformerPrior(Prior):
    """Embedding, causal Transformer, linear output; dropout before and after the Transformer."""

    def __init__(self, config: TransformerPriorConfig, codebook_size: int, labels: int, max_tokens: int) -> None:
        super().__init__(codebook_size, config.embed_dim, labels)
        self.dropout = config.dropout
        # One position more than codes: the end is predicted after the last.
        self.transformer = Transformer(config, config.embed_dim, config.hidden_dim, max_tokens + 1)
        self.output = nn.Linear(config.hidden_dim, codebook_size + 1)

    def logits(self, x_BTE: Tensor, noise: RowNoise | None) -> Tensor:
        """logits_BTK of each next code."""
        if noise is not None:
            x_BTE = noise.dropout(x_BTE, self.dropout, Stream.PRIOR_IN)
        h_BTH = self.transformer(x_BTE)
        if noise is not None:
            h_BTH = noise.dropout(h_BTH, self.dropout, Stream.PRIOR_OUT)
        return self.output(h_BTH)

    def start(self, rows: int) -> Cache:
        """For every block no keys and no values."""
        return self.transformer.start(rows)

    def step(self, x_BE: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """logits_BK after one more input, and the longer cache."""
        h_BH, cache = self.transformer.step(x_BE, cache)
        return self.output(h_BH), cache
