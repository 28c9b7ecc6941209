"""The Transformer language model: no latents, an exact likelihood, by default as many weights as the LSTM's.

Legend: B rows.
"""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from davam.errors import ConfigError
from davam.families.lstm_lm import LanguageModel
from davam.families.text import TextConfig
from davam.nn.decoder import LatentTransformerDecoder
from davam.nn.transformer import FEEDFORWARD, Transformer, TransformerConfig, transformer_size

FEEDFORWARD_MULTIPLE = 8


class TransformerLmConfig(TextConfig):
    """Sizes and dropout of the language model. A corpus' preset gives `embed_dim` and `hidden_dim` for an LSTM; from
    these follow the sizes that make the Transformer as large."""

    kind: Literal["transformer_lm"] = "transformer_lm"
    hidden_dim: int = Field(256, ge=2, description="of the lstm_lm that this model is as large as")
    transformer: TransformerConfig = TransformerConfig()
    width: int | None = Field(None, ge=2, description="of the Transformer, whatever an lstm_lm's size")

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "TransformerLmConfig":
        if self.width is not None:
            self.transformer.check_width("width", self.width)
        return self


class TransformerLm(LanguageModel):
    """Embedding, causal Transformer, softmax."""

    kind: ClassVar[str] = "transformer_lm"
    about: ClassVar[str] = "A Transformer language model: no latents, and an exact likelihood."

    def __init__(self, config: TransformerLmConfig, vocab_size: int, max_tokens: int, labels: int = 0) -> None:
        super().__init__(config, vocab_size, max_tokens, labels)
        width, feedforward_dim = lm_sizes(config, vocab_size, max_tokens)
        transformer = Transformer(config.transformer, config.embed_dim, width, max_tokens + 1, feedforward_dim)
        self.add_decoder(LatentTransformerDecoder(transformer, 0), bias=False)


def lm_sizes(config: TransformerLmConfig, vocab_size: int, max_tokens: int) -> tuple[int, int]:
    """Width and feed-forward width: those given, or the widest with feed-forward layers of at least four times the
    width in a model as large as the LSTM of `hidden_dim`.

    Raises ConfigError when so many layers are always larger.
    """
    if config.width is not None:
        return config.width, FEEDFORWARD * config.width
    embed, hidden, sizes = config.embed_dim, config.hidden_dim, config.transformer
    words = vocab_size + (0 < config.output_shortlist < vocab_size)  # the rare symbol is one more
    lstm_lm = 4 * hidden * (embed + hidden + 2) + hidden * words
    step = 2 * sizes.heads
    for width in range(lstm_lm // words // step * step, 0, -step):
        rest = lstm_lm - width * words - transformer_size(sizes, embed, width, max_tokens + 1, 0)
        feedforward_dim = rest / (sizes.layers * (2 * width + 1))
        if feedforward_dim >= FEEDFORWARD * width:
            return width, round(feedforward_dim / FEEDFORWARD_MULTIPLE) * FEEDFORWARD_MULTIPLE
    raise ConfigError(
        f"model.hidden_dim={hidden}: a Transformer of {sizes.layers} layers and {sizes.heads} heads is always larger "
        "than such an LSTM; lower model.transformer.layers, or give model.width"
    )
