"""DAVAM: LSTM encoder, a code for every word (or `stride` of them), attention decoder, trained in two stages.
Eq. (3), (6)-(9).

Legend: B rows, T source positions (words), N codes, E embedding, H hidden, D code dim.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from davam.data.tokenizer import PAD_ID
from davam.families.codes import CodebookConfig, QuantizedFamily, normalized
from davam.families.text import TextConfig
from davam.families.transformer import TransformerParts
from davam.nn import ops
from davam.nn.attention import Positions
from davam.nn.backbones import EncoderKind, build_encoder
from davam.nn.codebook import Codebook
from davam.nn.decoder import AttentionForm, attention_decoder
from davam.sampling import Sampling


class DavamConfig(TextConfig, CodebookConfig, TransformerParts):
    """The model of stage one and its objective, Eq. (3), (6), (8)."""

    kind: Literal["davam"] = "davam"
    encoder: EncoderKind = "local"
    attention: AttentionForm = Field("parallel", description="feed: additive, inside the recurrence")
    attention_dim: int = Field(256, ge=1, description="width of the additive score of `feed`")
    positions: bool = Field(True, description="one table added to the codes and to the queries")
    stride: int = Field(1, ge=1, description="words a code; the last code of a text may stand for fewer")
    dropout: float = Field(0.3, ge=0, lt=1, description="on word embeddings and on the output layer's input")
    init: Literal["uniform", "fan_in"] = "fan_in"


class Davam(QuantizedFamily):
    """Encoder, codebook and decoder; as a `Trainable`, stage one."""

    kind: ClassVar[str] = "davam"
    about: ClassVar[str] = (
        "A Discrete Auto-regressive Variational Attention Model. Its encoder turns every word into a code, its "
        "decoder rebuilds the text from the codes, and a prior models the code sequences. Its likelihood is known as a "
        "bound only."
    )

    config: DavamConfig

    def __init__(self, config: DavamConfig, vocab_size: int, max_tokens: int, labels: int = 0) -> None:
        super().__init__(config, vocab_size, max_tokens, labels)
        embed, hidden, dim = config.embed_dim, config.hidden_dim, config.code_dim
        self.encoder_embedding = nn.Embedding(vocab_size, embed, padding_idx=PAD_ID)
        self.encoder = build_encoder(config.encoder, embed, hidden, config.transformer, max_tokens)
        # No bias, as in the authors' code: under SGD at rate 1.0 the commitment's gradient of a bias, summed over all
        # positions, overshoots, and the codebook collapses.
        self.to_code = nn.Linear(hidden, dim, bias=False)
        self.codebook = Codebook(config.codebook_size, dim, config.ema_decay, config.restart_share)
        positions = Positions(config.positions, max_tokens + 1, dim, config.stride)
        decoder = attention_decoder(
            config.attention, embed, hidden, dim, config.attention_dim, positions, config.transformer, max_tokens
        )
        self.add_decoder(decoder, bias=True)

    def states(self, words_BT: Tensor, length_B: Tensor) -> Tensor:
        """One state a code in code space, h_BND: the mean over its words."""
        enc_BTH = self.encoder(self.encoder_embedding(words_BT), length_B)
        if self.config.stride > 1:
            enc_BTH = ops.block_means(enc_BTH, length_B, self.config.stride)
        return normalized(self.to_code(enc_BTH), self.config.normalize_states)

    def num_codes(self, word_B: Tensor) -> Tensor:
        """One for every `stride` words that a text has or begins."""
        return -(-word_B // self.config.stride)

    def code_range(self, sampling: Sampling) -> tuple[int, int | None]:
        """As many as texts of the lengths asked for have."""
        stride, most = self.config.stride, sampling.max_length
        return -(-sampling.min_length // stride), None if most is None else -(-most // stride)
