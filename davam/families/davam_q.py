"""DAVAM-q: the paper's ablation without attention. Only the encoder's last state is quantized, and the decoder reads
its code vector at every step, as the baselines read their latent.

Legend: B rows, T source positions, H hidden, D code dim.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from davam.data.tokenizer import PAD_ID
from davam.families.codes import CodebookConfig, QuantizedFamily, normalized
from davam.families.text import TextConfig
from davam.nn.backbones import LstmEncoder, last_state
from davam.nn.codebook import Codebook
from davam.nn.decoder import LatentDecoder
from davam.sampling import Sampling


class DavamQConfig(TextConfig, CodebookConfig):
    """The model of stage one: a codebook of whole sentences."""

    kind: Literal["davam_q"] = "davam_q"


class DavamQ(QuantizedFamily):
    """Encoder, codebook and decoder with one code a sentence; as a `Trainable`, stage one."""

    kind: ClassVar[str] = "davam_q"
    about: ClassVar[str] = (
        "A model with one code a sentence: the encoder's last state is quantized, the decoder reads its code at every "
        "step, and a prior models the codes. Its likelihood is known as a bound only."
    )

    ends_by_code: ClassVar[bool] = False

    def __init__(self, config: DavamQConfig, vocab_size: int, max_tokens: int, labels: int = 0) -> None:
        super().__init__(config, vocab_size, max_tokens, labels)
        embed, hidden, dim = config.embed_dim, config.hidden_dim, config.code_dim
        self.encoder_embedding = nn.Embedding(vocab_size, embed, padding_idx=PAD_ID)
        self.encoder = LstmEncoder(embed, hidden, bidirectional=False)
        self.to_code = nn.Linear(hidden, dim, bias=False)
        self.codebook = Codebook(config.codebook_size, dim, config.ema_decay, config.restart_share)
        self.add_decoder(LatentDecoder(embed, hidden, dim), bias=False)

    def states(self, words_BT: Tensor, length_B: Tensor) -> Tensor:
        """One state a sentence in code space, h_B1D."""
        enc_BTH = self.encoder(self.encoder_embedding(words_BT), length_B)
        return normalized(self.to_code(last_state(enc_BTH, length_B))[:, None], self.config.normalize_states)

    def num_codes(self, word_B: Tensor) -> Tensor:
        """One code, however many words."""
        return torch.ones_like(word_B)

    def code_range(self, sampling: Sampling) -> tuple[int, int | None]:
        """One, however many words."""
        return 1, 1
