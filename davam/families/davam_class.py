"""Codes and words in turns: a code given the words before it, then a word of that code,

    ln p(x) = sum_t ln p(z_t | x_<t) + ln p(x_t | z_t, x_<t),    z_t = c(x_t).

The prior has words as well as codes in its context, and one LSTM (or Transformer) over the words serves both. It is a
language model with learned classes (Goodman, 2001, has them given): it begins as one without, whose output vectors,
found by k-means, become the codes; words that are likely in the same contexts share one. A word then costs K + V/K
products instead of V.

Legend: B rows, N positions, A rows of the block that is still computed, H hidden, D the same as a vector of codes,
V entries of the vocabulary, K codes.
"""

from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from davam.data.batches import Batch
from davam.data.tokenizer import EOS_ID, UNK_ID
from davam.errors import DataError
from davam.families.base import Clock, StepTerms, Workers
from davam.families.codes import CodesConfig
from davam.families.gaussian import elbo_sums
from davam.families.text import LatentDraw, Latents, RowScores, TextConfig, WordChoice, nothing_drawn
from davam.families.transformer import TransformerPart
from davam.families.word_codes import WordCodes
from davam.nn import ops
from davam.nn.choice import draw
from davam.nn.decoder import latent_decoder
from davam.nn.noise import RowNoise, Stream, generator
from davam.nn.output import Softmax
from davam.nn.priors import Prior
from davam.nn.restricted import restricted_draw
from davam.sampling import Sampling


class DavamClassConfig(TextConfig, CodesConfig, TransformerPart):
    """A language model's settings, how many codes, and when they come."""

    kind: Literal["davam_class"] = "davam_class"
    codebook_size: int = Field(128, ge=2)
    continuous_epochs: int = Field(
        1, ge=0, description="warm-up as a language model, before its words are dealt out to codes"
    )

    @property
    def unfinished_epochs(self) -> int:
        """Until there are codes."""
        return self.continuous_epochs


class DavamClass(WordCodes):
    """A language model until its words have codes; then a code and a word in turns."""

    kind: ClassVar[str] = "davam_class"
    about: ClassVar[str] = (
        "A model of text whose codes and words take turns: every word has one code, which is predicted from the words "
        "before it, and then chooses among the words of that code. Its likelihood is exact."
    )
    objective = "elbo_nats"

    config: DavamClassConfig

    def __init__(self, config: DavamClassConfig, vocab_size: int, max_tokens: int, labels: int = 0) -> None:
        super().__init__(config, vocab_size, max_tokens, labels)
        decoder = latent_decoder(config.embed_dim, config.hidden_dim, 0, config.transformer, max_tokens)
        self.add_decoder(decoder, bias=True)
        self.next_code = Softmax(config.hidden_dim, config.codebook_size + 1, bias=True)  # the last: the end
        self.add_word_codes()

    @property
    def draw_width(self) -> int:
        """Nothing is drawn before the words."""
        return 0

    def require_prior(self, prior: Prior | None) -> Prior:
        """Raises DataError: the codes have no prior without the words."""
        raise DataError(f"a {self.kind} draws codes and words in turns, so its codes alone cannot be drawn anew")

    def draw(
        self, uniform_BN: Tensor, prior: Prior | None, sampling: Sampling, label_B: Tensor | None = None
    ) -> LatentDraw:
        """Nothing, at no cost: codes are drawn with the words."""
        return nothing_drawn(uniform_BN)

    @property
    def code_KD(self) -> Tensor:
        """The vectors of the codes: what predicts them."""
        return self.next_code.linear.weight[:-1]

    def code_latents(self, codes_BT: Tensor, code_B: Tensor) -> Latents:
        """The vectors of given codes, which no word reads: it chooses among a code's words."""
        return Latents(self.code_KD[codes_BT], code_B, codes_BT)

    def infer(self, batch: Batch) -> Latents:
        """The codes of the rows; 0 in the padding."""
        return self.code_latents(self.code_V[batch.tokens_BS[:, :-1]].clamp_min(0), batch.length_B - 1)

    def between(self, latents: Latents, steps: int) -> Latents:
        """The codes nearest to the points between the two rows' code vectors."""
        found = super().between(latents, steps)
        return self.code_latents(ops.nearest_code(found.latent_BTD, self.code_KD), found.length_B)

    @torch.no_grad()
    def begin_epoch(
        self, epoch: int, batches: Callable[[], Iterable[Batch]], codes_per_step: float, seed: int, workers: Workers
    ) -> None:
        """After the warm-up: k-means of the words' output vectors at unit length, as often as their words, the same on
        all workers. A code is predicted at first as its words were together."""
        if epoch != self.config.unfinished_epochs or self.stands_still:
            return
        weight_VD, bias_V = self.output.word_weights()
        # Directions alone: a vector's length grows with its word's frequency, and all rare words would be near 0.
        unit_WD = F.normalize(weight_VD[UNK_ID:], dim=1)
        # A word that did not come counts for little, but has its place.
        count_V = 1 + workers.all_reduce(count_words(batches(), self.vocab_size).to(bias_V.device))
        centre_KD = torch.zeros_like(self.code_KD)
        if workers.rank == 0:
            random = generator(seed, Stream.KMEANS)
            centre_KD.copy_(ops.kmeans(unit_WD, len(centre_KD), random, count_V[UNK_ID:])[0])
        self.deal_out(unit_WD, workers.broadcast(centre_KD))
        words = self.code_words()
        for code, (start, stop) in enumerate(words.clusters.first_K1.unfold(0, 2, 1).tolist()):
            self.next_code.linear.weight[code] = words.weight_VC[start:stop].mean(0)
            self.next_code.linear.bias[code] = words.bias_V[start:stop].logsumexp(0)
        self.next_code.linear.weight[-1], self.next_code.linear.bias[-1] = weight_VD[EOS_ID], bias_V[EOS_ID]

    def row_scores(self, batch: Batch, prior: Prior | None) -> RowScores:
        """The words' nats given their codes as Rec, and the codes' and the end's as KL; their sum is -ln p(x)."""
        _, rec_B, kl_B = self._nll(batch, None)
        return RowScores(rec_B, kl_B, batch.length_B)

    def forward(self, batch: Batch, clock: Clock, noise: RowNoise | None) -> StepTerms:
        """-ln p(x) summed over rows, in nats; at first that of a language model."""
        if self.stands_still:
            nll_sum, rec_B, kl_B = self._nll(batch, noise)
            return StepTerms(nll_sum, elbo_sums(batch, rec_B, kl_B), self.codes_in(batch))
        nll_sum, rec_B = self.reconstruction(batch, self.infer(batch), noise)
        unused = 0 * sum(weight.sum() for weight in self.next_code.parameters())
        return StepTerms(nll_sum + unused, elbo_sums(batch, rec_B, torch.zeros_like(rec_B)), None)

    def tally(self, terms: StepTerms) -> Tensor:
        """How often each code occurs; nothing while there are no codes."""
        if terms.aux is None:
            return terms.loss_sum.new_zeros(0)
        return torch.bincount(terms.aux, minlength=self.config.codebook_size)

    def word_choice(self, latents: Latents, sampling: Sampling) -> WordChoice:
        """A word of each given code; or, where none are given, a code and then a word of it."""
        if latents.codes_BT is not None:
            return super().word_choice(latents, sampling)
        words, end = self.code_words(), self.config.codebook_size
        barred_words = () if sampling.unknown else (UNK_ID,)
        barred_codes = self.barred_codes(sampling)

        def choose(feature_AH: Tensor, row_A: Tensor, step: int, uniform_A2: Tensor) -> tuple[Tensor, Tensor]:
            logits_AK = self.next_code.logits(feature_AH)
            if step == sampling.max_length:
                return torch.full_like(row_A, EOS_ID), -logits_AK.log_softmax(1)[:, end]
            barred = barred_codes + ((end,) if step < sampling.min_length else ())
            code_A, nats_A = draw(logits_AK, uniform_A2[:, 0], sampling.prior, barred)
            ended_A = code_A == end
            word_A, word_nats_A = restricted_draw(
                feature_AH, words, torch.where(ended_A, 0, code_A), uniform_A2[:, 1], sampling.decoder, barred_words
            )
            return torch.where(ended_A, EOS_ID, word_A), nats_A + torch.where(ended_A, 0.0, word_nats_A)

        return choose

    def _nll(self, batch: Batch, noise: RowNoise | None) -> tuple[Tensor, Tensor, Tensor]:
        """(weighted sum over rows of -ln p(x) with its gradient, rec_B and kl_B without)."""
        real = self.real_features(batch, self.infer(batch), noise)
        weight_N = batch.weight_B[real.row_N]
        rec_sum, rec_N = self.word_nll(real.feature_NC, real.target_N, weight_N)
        code_N = torch.where(real.target_N == EOS_ID, self.config.codebook_size, self.code_V[real.target_N])
        kl_sum, kl_N = self.next_code.nll(real.feature_NC, code_N, weight_N)
        rec_B, kl_B = (torch.zeros_like(batch.weight_B).index_add(0, real.row_N, nll_N) for nll_N in (rec_N, kl_N))
        return rec_sum + kl_sum, rec_B, kl_B


def count_words(batches: Iterable[Batch], vocab_size: int) -> Tensor:
    """How often each entry of the vocabulary is in the rows, padding apart, count_V."""
    count_V = torch.zeros(vocab_size, dtype=torch.double)
    for batch in batches:
        real_BS = ops.length_mask(batch.length_B, batch.tokens_BS.shape[1]) & (batch.weight_B > 0)[:, None]
        count_V = count_V + torch.bincount(batch.tokens_BS[real_BS], minlength=vocab_size).to(count_V)
    return count_V
