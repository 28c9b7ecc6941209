"""What all families of text models share: a decoder that rebuilds a text from latents, and the contract of a trained
model (score, rebuild, sample).

Legend: B rows, A rows of the block that is still computed, S target positions (words and </s>), T latents,
D latent dim, E embedding, C features, N uniforms.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from davam.config import Frozen
from davam.data.batches import Batch
from davam.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from davam.errors import DataError
from davam.families.base import Trainable
from davam.nn import ops
from davam.nn.attention import POSITION_STD
from davam.nn.block import Block
from davam.nn.choice import ANCESTRAL, Choice
from davam.nn.decoder import Decoder, Memory
from davam.nn.noise import RowNoise, Stream, generator
from davam.nn.output import OutputLayer
from davam.nn.priors import Prior
from davam.nn.replay import replayed
from davam.sampling import Sampling

#: the modules of every family that belong to its decoder; all others infer the latents, or are their prior
DECODER_MODULES = ("decoder_embedding", "label_embedding", "decoder", "output")
WIDTH_MULTIPLE = 16  # latents are padded to this multiple, so that a row is rounded the same way in any company

#: feature_AC, row_A, step and uniform_A2 to word_A and nats_A: the next words of the rows that are still computed
WordChoice = Callable[[Tensor, Tensor, int, Tensor], tuple[Tensor, Tensor]]


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


@dataclass(frozen=True)
class RealFeatures:
    """The decoder's features at the real positions of a batch, one row after the other, feature_NC; the words to come,
    target_N, and whose they are, row_N."""

    feature_NC: Tensor
    target_N: Tensor
    row_N: Tensor


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
    #: whether the latents are codes at all, whenever their prior is learned
    discrete: ClassVar[bool] = False
    #: whether draws from a posterior can be weighed, for a bound tighter than Rec + KL
    weighs_draws: ClassVar[bool] = False

    def __init__(self, config: Any, vocab_size: int, max_tokens: int, labels: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.max_tokens = max_tokens
        self.labels = labels

    def add_decoder(self, decoder: Decoder, bias: bool) -> None:
        """The decoder with its embedding and output layer; a family's other modules stand before it."""
        self.decoder_embedding = nn.Embedding(self.vocab_size, self.config.embed_dim, padding_idx=PAD_ID)
        self.label_embedding = nn.Embedding(self.labels, self.config.embed_dim) if self.labels else None
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

    def importance_nats(self, batch: Batch, draws: int) -> Tensor:
        """-ln p(x) by the weights of so many draws of the latents, iw_B (Burda et al., 2016): in expectation an upper
        bound, the tighter the more draws. NaN without a posterior to draw from."""
        return torch.full_like(batch.weight_B, math.nan)

    @abstractmethod
    def draw(
        self, uniform_BN: Tensor, prior: Prior | None, sampling: Sampling, label_B: Tensor | None = None
    ) -> LatentDraw:
        """Latents from the prior, one row of uniform numbers a row; with a latent a word, as many as the length asked
        for has words."""

    def between(self, latents: Latents, steps: int) -> Latents:
        """Latents in so many steps from the first of two rows to the second, both included. A step has as many as lie
        between, each on the straight line from the first row's at the same share of its length to the second's."""
        first_TD, second_TD = (latents.latent_BTD[row, : int(latents.length_B[row])] for row in (0, 1))
        rows = [_blended(first_TD, second_TD, share) for share in torch.linspace(0, 1, steps).tolist()]
        length_B = torch.tensor([len(row) for row in rows], device=latents.length_B.device)
        return Latents(nn.utils.rnn.pad_sequence(rows, batch_first=True), length_B)

    def init_weights(self, seed: int) -> None:
        """Draw all weights from the seed alone: U(-0.01, 0.01) or by fan-in, embeddings U(-0.1, 0.1)."""
        random = torch.Generator().manual_seed(int(generator(seed, Stream.INIT).integers(2**62)))
        for name, weight in self.named_parameters():
            if name.endswith("table_TD"):
                nn.init.normal_(weight, std=POSITION_STD, generator=random)
            elif "embedding" in name:
                nn.init.uniform_(weight, -0.1, 0.1, generator=random)
                if "label_embedding" not in name:
                    weight.data[PAD_ID] = 0
            else:
                bound = 0.01 if self.config.init == "uniform" else weight.shape[-1] ** -0.5
                nn.init.uniform_(weight, -bound, bound, generator=random)

    def reconstruction(self, batch: Batch, latents: Latents, noise: RowNoise | None) -> tuple[Tensor, Tensor]:
        """-ln p(x|z) in nats: the weighted sum over rows with its gradient, and rec_B without."""
        real = self.real_features(batch, latents, noise)
        total, nll_N = self.word_nll(real.feature_NC, real.target_N, batch.weight_B[real.row_N])
        return total, torch.zeros_like(batch.weight_B).index_add(0, real.row_N, nll_N)

    def real_features(self, batch: Batch, latents: Latents, noise: RowNoise | None) -> "RealFeatures":
        """What the output layer reads at every position that is not padding."""
        target_BS = batch.tokens_BS
        x_BSE = self.embedded(after_begin(target_BS)[:, :-1], batch.label_B)
        if noise is not None:
            x_BSE = noise.dropout(x_BSE, self.config.dropout, Stream.DECODER_IN)
        feature_BSC = self.decoder.features(x_BSE, self._memory(latents))
        if noise is not None:
            feature_BSC = noise.dropout(feature_BSC, self.config.dropout, Stream.DECODER_OUT)
        mask_BS = ops.length_mask(batch.length_B, target_BS.shape[1])
        real = mask_BS.flatten().nonzero().squeeze(1)
        feature_NC = feature_BSC.flatten(0, 1).index_select(0, real)
        row_N = torch.arange(len(target_BS), device=real.device)[:, None].expand_as(target_BS).flatten()[real]
        return RealFeatures(feature_NC, target_BS.flatten()[real], row_N)

    def word_nll(self, feature_NC: Tensor, target_N: Tensor, weight_N: Tensor) -> tuple[Tensor, Tensor]:
        """(sum of weight_N * nll_N with gradient, nll_N without), nats, of words and ends."""
        return self.output.nll(feature_NC, target_N, weight_N)

    def word_choice(self, latents: Latents, sampling: Sampling) -> WordChoice:
        """How the words of these latents are drawn, step by step."""

        def choose(feature_AC: Tensor, row_A: Tensor, step: int, uniform_A2: Tensor) -> tuple[Tensor, Tensor]:
            if step == sampling.max_length:
                end_A = torch.full_like(row_A, EOS_ID)
                return end_A, self.output.nll(feature_AC, end_A, torch.ones_like(feature_AC[:, 0]))[1]
            return self.output.draw(feature_AC, uniform_A2, sampling.decoder, barred_words(sampling, step))

        return choose

    @torch.no_grad()
    def generate(
        self, latents: Latents, sampling: Sampling, uniform_BS2: Tensor, label_B: Tensor | None = None
    ) -> Decoded:
        """Words for the latents and, where there are any, labels, drawn by the uniform numbers as the sampling says."""
        rows, widest, device = len(latents.length_B), self.max_tokens + 1, latents.length_B.device
        tokens_BS = torch.zeros(rows, widest, dtype=torch.long, device=device)
        count_B, nats_B = tokens_BS.new_zeros(rows), torch.zeros(rows, device=device)
        memory, block = self._memory(latents), Block.whole(rows, device)
        choose = self.word_choice(latents, sampling)
        word_A, state = torch.full((rows,), BOS_ID, device=device), self.decoder.start(memory)
        for step in range(widest):
            label_A = None if label_B is None else label_B[block.row_A]
            x_AE = self.embedded(word_A[:, None], label_A)[:, 0]
            feature_AC, state = self._decoder_step(x_AE, memory.tensors, state, step=step)
            word_A, nats_A = choose(feature_AC, block.row_A, step, uniform_BS2[block.row_A, step])
            nats_B.index_add_(0, block.row_A, nats_A * block.alive_A)
            tokens_BS[:, step].index_add_(0, block.row_A, word_A * block.alive_A)
            count_B.index_add_(0, block.row_A, block.alive_A.long())
            block.end(word_A == EOS_ID)
            if block.empty:
                break
            kept = block.compact()
            if kept is not None:
                word_A, state, memory = word_A[kept], ops.take_rows(state, kept), memory.take(kept)
        return Decoded(tokens_BS[:, : step + 1], count_B, nats_B, block.unfinished())

    def embedded(self, words_BS: Tensor, label_B: Tensor | None) -> Tensor:
        """The decoder's vectors of words, x_BSE, each with its row's label added, where there are labels."""
        x_BSE = self.decoder_embedding(words_BS)
        return x_BSE if self.label_embedding is None else x_BSE + self.label_embedding(label_B)[:, None]

    @replayed
    def _decoder_step(self, x_AE: Tensor, memory: tuple[Tensor, ...], state: Any, *, step: int) -> tuple[Tensor, Any]:
        return self.decoder.step(x_AE, step, Memory(*memory), state)

    def _memory(self, latents: Latents) -> Memory:
        mask_BT = ops.length_mask(latents.length_B, latents.latent_BTD.shape[1])
        return self.decoder.memory(latents.latent_BTD, mask_BT)

    def check_sampling(self, sampling: Sampling) -> None:
        """Raises DataError for what this family cannot do; by default, a prior that is not drawn from as it is."""
        if sampling.prior != ANCESTRAL:
            raise DataError(f"prior: a {self.kind} has no prior to draw from; set the decoder's choice alone")


def barred_words(sampling: Sampling, step: int) -> tuple[int, ...]:
    """What may not come at this step: the end of a text that is too short yet, <unk> where it is not wanted, and ever
    what pads and begins a text, which would vanish from it."""
    wanted = () if sampling.unknown else (UNK_ID,)
    return (PAD_ID, BOS_ID, *((EOS_ID,) if step < sampling.min_length else ()), *wanted)


def check_gaussian_choice(kind: str, choice: Choice) -> None:
    """Raises DataError for a choice that a Gaussian prior does not have."""
    if choice != Choice(temperature=choice.temperature):
        raise DataError(f"prior.top_k and prior.top_p: a {kind} has Gaussian latents; set prior.temperature alone")


def single(latent_BD: Tensor) -> Latents:
    """One vector a row as latents."""
    return Latents(latent_BD[:, None], torch.ones(len(latent_BD), dtype=torch.long, device=latent_BD.device))


def nothing_drawn(uniform_BN: Tensor) -> LatentDraw:
    """No latents at no cost, for as many rows."""
    zero_B = uniform_BN.new_zeros(len(uniform_BN))
    return LatentDraw(single(uniform_BN), zero_B, zero_B.bool())


def after_begin(tokens_BS: Tensor) -> Tensor:
    """<s> and then the tokens."""
    return torch.cat([torch.full_like(tokens_BS[:, :1], BOS_ID), tokens_BS], dim=1)


def rounded_up(width: int, widest: int) -> int:
    """The width at the next multiple, but no more than the widest."""
    return min(widest, math.ceil(max(1, width) / WIDTH_MULTIPLE) * WIDTH_MULTIPLE)


def _blended(first_TD: Tensor, second_TD: Tensor, share: float) -> Tensor:
    """A sequence this share of the way from the first to the second."""
    count = round((1 - share) * len(first_TD) + share * len(second_TD))
    # The middle of each place, so that both ends of both sequences meet.
    middle_T = (torch.arange(count, device=first_TD.device) + 0.5) / count
    at_first_TD, at_second_TD = (rows_TD[(middle_T * len(rows_TD)).long()] for rows_TD in (first_TD, second_TD))
    return torch.lerp(at_first_TD, at_second_TD, share)
