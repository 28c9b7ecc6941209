"""What all families of text models share: a decoder that rebuilds a text from latents, and the contract of a trained
model (score, rebuild, sample).

Legend: B rows, S target positions (words and </s>), T latents, D latent dim, E embedding, C features, N uniforms.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from davam.config import Frozen
from davam.data.batches import Batch
from davam.data.tokenizer import BOS_ID, EOS_ID, PAD_ID
from davam.errors import DataError
from davam.families.base import Trainable
from davam.nn import ops
from davam.nn.attention import POSITION_STD
from davam.nn.decoder import Decoder, Memory
from davam.nn.noise import RowNoise, Stream, generator
from davam.nn.output import OutputLayer, padded_rows
from davam.nn.priors import Prior

#: the modules of every family that belong to its decoder; all others infer the latents, or are their prior
DECODER_MODULES = ("decoder_embedding", "decoder", "output")
WIDTH_MULTIPLE = 16  # latents are padded to this multiple, so that a row is rounded the same way in any company


@dataclass(frozen=True)
class Latents:
    """What a decoder reads: vectors latent_BTD, how many are real, and their codes where the family has codes."""

    latent_BTD: Tensor
    length_B: Tensor
    codes_BT: Tensor | None = None


@dataclass(frozen=True)
class LatentDraw:
    """Latents drawn from the prior, their cost -ln p in nats (of the untempered prior; a density's may be negative),
    and a flag for rows that were cut at the longest length."""

    latents: Latents
    nats_B: Tensor
    truncated_B: Tensor


@dataclass(frozen=True)
class RowScores:
    """Rec and KL of each row in nats, how many latents it has; what of the KL pays for their number, where that has a
    distribution of its own; and, of a single Gaussian latent, mean_BD and logvar_BD."""

    rec_B: Tensor
    kl_B: Tensor
    latents_B: Tensor
    length_nats_B: Tensor | None = None
    posterior: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Decoded:
    """Generated words tokens_BS (with </s>, 0 beyond it), their number, nats of the untempered decoder, and a flag
    for rows that were cut at the longest length."""

    tokens_BS: Tensor
    length_B: Tensor
    nats_B: Tensor
    truncated_B: Tensor


class TextConfig(Frozen):
    """What every family has: the decoder's sizes, dropout and output layer, and how weights begin."""

    embed_dim: int = Field(256, ge=1)
    hidden_dim: int = Field(256, ge=2)
    dropout: float = Field(0.5, ge=0, lt=1, description="on word embeddings and on the output layer's input")
    init: Literal["uniform", "fan_in"] = Field(
        "uniform", description="uniform: U(-0.01, 0.01), embeddings U(-0.1, 0.1)"
    )
    output_shortlist: int = Field(0, ge=0, description="words in the first level of the softmax; 0: one level")


class TextFamily(Trainable):
    """A model of text. A family says what its latents are, where they come from and what they cost."""

    kind: ClassVar[str]
    #: what a model card says about it
    about: ClassVar[str]
    #: whether Rec + KL is the likelihood itself rather than a bound of it
    exact: ClassVar[bool] = False
    #: whether the latents are codes that a prior must learn in stage two
    has_codes: ClassVar[bool] = False

    def __init__(self, config: Any, vocab_size: int, max_tokens: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.max_tokens = max_tokens

    def add_decoder(self, decoder: Decoder, bias: bool) -> None:
        """The decoder with its embedding and output layer; a family's other modules stand before it."""
        self.decoder_embedding = nn.Embedding(self.vocab_size, self.config.embed_dim, padding_idx=PAD_ID)
        self.decoder = decoder
        self.output = OutputLayer(decoder.feature_dim, self.vocab_size, self.config.output_shortlist, bias)

    @property
    @abstractmethod
    def draw_width(self) -> int:
        """How many uniform numbers one row's latents take."""

    @abstractmethod
    def infer(self, batch: Batch) -> Latents:
        """The latents of given rows without chance: their codes, or the posterior's mean."""

    @abstractmethod
    def row_scores(self, batch: Batch, prior: Prior | None) -> RowScores:
        """Rec and KL of given rows; families with codes take their prior."""

    @abstractmethod
    def draw(self, uniform_BN: Tensor, prior: Prior | None, temperature: float, length: int | None) -> LatentDraw:
        """Latents from the prior, one row of uniform numbers a row. `length` fixes how many; raises DataError where
        the family's number of latents does not decide the length."""

    def init_weights(self, seed: int) -> None:
        """Draw all weights from the seed alone: U(-0.01, 0.01) or by fan-in, embeddings U(-0.1, 0.1)."""
        random = torch.Generator().manual_seed(int(generator(seed, Stream.INIT).integers(2**62)))
        for name, weight in self.named_parameters():
            if name.endswith("table_TD"):
                nn.init.normal_(weight, std=POSITION_STD, generator=random)
            elif "embedding" in name:
                nn.init.uniform_(weight, -0.1, 0.1, generator=random)
                weight.data[PAD_ID] = 0
            else:
                bound = 0.01 if self.config.init == "uniform" else weight.shape[-1] ** -0.5
                nn.init.uniform_(weight, -bound, bound, generator=random)

    def reconstruction(self, batch: Batch, latents: Latents, noise: RowNoise | None) -> tuple[Tensor, Tensor]:
        """-ln p(x|z) in nats: the weighted sum over rows with its gradient, and rec_B without."""
        target_BS = batch.tokens_BS
        x_BSE = self.decoder_embedding(after_begin(target_BS)[:, :-1])
        if noise is not None:
            x_BSE = noise.dropout(x_BSE, self.config.dropout, Stream.DECODER_IN)
        feature_BSC = self.decoder.features(x_BSE, self._memory(latents))
        if noise is not None:
            feature_BSC = noise.dropout(feature_BSC, self.config.dropout, Stream.DECODER_OUT)
        mask_BS = ops.length_mask(batch.length_B, target_BS.shape[1])
        real = mask_BS.flatten().nonzero().squeeze(1)
        feature_NC = feature_BSC.flatten(0, 1).index_select(0, real)
        row_N = torch.arange(len(target_BS), device=real.device)[:, None].expand_as(target_BS).flatten()[real]
        total, nll_N = self.output.nll(feature_NC, target_BS.flatten()[real], batch.weight_B[row_N])
        return total, torch.zeros_like(batch.weight_B).index_add(0, row_N, nll_N)

    @torch.no_grad()
    def generate(self, latents: Latents, uniform_BS2: Tensor | None, temperature: float = 1.0) -> Decoded:
        """Words for the latents: sampled by the uniform numbers, or the likeliest word of each step without them."""
        memory = self._memory(latents)
        rows, widest, device = len(latents.length_B), self.max_tokens + 1, latents.length_B.device
        word_B = torch.full((rows,), BOS_ID, device=device)
        tokens_BS = torch.zeros(rows, widest, dtype=torch.long, device=device)
        count_B, nats_B = torch.zeros_like(word_B), torch.zeros(rows, device=device)
        alive_B = torch.ones(rows, dtype=torch.bool, device=device)
        state = self.decoder.start(memory)
        for step in range(widest):
            feature_BC, state = self.decoder.step(self.decoder_embedding(word_B), step, memory, state)
            # The output layer is most of the work, so it is computed for the unfinished rows alone.
            alive = alive_B.nonzero().squeeze(1)
            chosen = padded_rows(alive)
            if uniform_BS2 is None:
                word_A, step_nats_A = self.output.greedy(feature_BC[chosen])
            else:
                word_A, step_nats_A = self.output.sample(feature_BC[chosen], uniform_BS2[chosen, step], temperature)
            word_B = word_B.index_copy(0, alive, word_A[: len(alive)])
            nats_B.index_add_(0, alive, step_nats_A[: len(alive)])
            tokens_BS[:, step] = word_B * alive_B
            count_B += alive_B
            alive_B = alive_B & (word_B != EOS_ID)
            if not alive_B.any():
                break
        return Decoded(tokens_BS[:, : step + 1], count_B, nats_B, alive_B)

    def _memory(self, latents: Latents) -> Memory:
        mask_BT = ops.length_mask(latents.length_B, latents.latent_BTD.shape[1])
        return self.decoder.memory(latents.latent_BTD, mask_BT)

    def refuse_length(self, length: int | None) -> None:
        """Raises DataError for a wish that only a family with one latent a word can fulfil."""
        if length is not None:
            raise DataError(f"length={length}: a {self.kind} ends a sentence where its decoder does; leave length out")


def single(latent_BD: Tensor) -> Latents:
    """One vector a row as latents."""
    return Latents(latent_BD[:, None], torch.ones(len(latent_BD), dtype=torch.long, device=latent_BD.device))


def after_begin(tokens_BS: Tensor) -> Tensor:
    """<s> and then the tokens."""
    return torch.cat([torch.full_like(tokens_BS[:, :1], BOS_ID), tokens_BS], dim=1)


def rounded_up(width: int, widest: int) -> int:
    """The width at the next multiple, but no more than the widest."""
    return min(widest, math.ceil(max(1, width) / WIDTH_MULTIPLE) * WIDTH_MULTIPLE)
