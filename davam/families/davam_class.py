"""DAVAM whose codes and words take turns: a code given the words before it, then a word of that code,

    ln p(x) = sum_t ln p(z_t | x_<t) + ln p(x_t | z_t, x_<t),    z_t = c(x_t).

The prior has words as well as codes in its context, which is exact as long as the decoder sees no code after its own:
each of its steps reads the code of its own word alone. One LSTM over the words serves both. Codes are learned as
DAVAM's are, and then stand still; from there on this is a language model with learned classes (Goodman, 2001, has them
given), with K + V/K products a word instead of V; sampling gathers them row by row, and is not faster for it yet.

Legend: B rows, T words, N positions, A rows of the block that is still computed, H hidden, C features, K codes.
"""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from davam.data.batches import Batch
from davam.data.tokenizer import EOS_ID, UNK_ID
from davam.errors import DataError
from davam.families.base import Clock, StepTerms
from davam.families.davam_exact import DavamExact, DavamExactConfig
from davam.families.gaussian import elbo_sums
from davam.families.text import LatentDraw, Latents, RowScores, WordChoice
from davam.nn.choice import draw
from davam.nn.noise import RowNoise
from davam.nn.output import Softmax
from davam.nn.priors import Prior
from davam.nn.restricted import restricted_draw
from davam.sampling import Sampling


class DavamClassConfig(DavamExactConfig):
    """DAVAM's settings, with a decoder that reads the code of its own word alone."""

    kind: Literal["davam_class"] = "davam_class"  # type: ignore[assignment]
    attention: Literal["own"] = "own"
    positions: Literal[False] = False


class DavamClass(DavamExact):
    """DAVAM until its codes stand still; then a code and a word in turns."""

    kind: ClassVar[str] = "davam_class"
    about: ClassVar[str] = (
        "A Discrete Auto-regressive Variational Attention Model whose codes and words take turns: every word has one "
        "code, which is predicted from the words before it, and then chooses among the words of that code. Its "
        "likelihood is exact."
    )
    objective = "elbo_nats"
    has_codes: ClassVar[bool] = False

    config: DavamClassConfig

    def __init__(self, config: DavamClassConfig, vocab_size: int, max_tokens: int, labels: int = 0) -> None:
        super().__init__(config, vocab_size, max_tokens, labels)
        self.next_code = Softmax(config.hidden_dim, config.codebook_size + 1, bias=True)  # the last: the end

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
        zero_B = uniform_BN.new_zeros(len(uniform_BN))
        latent_B1D = zero_B[:, None, None].expand(-1, 1, self.config.code_dim)
        return LatentDraw(Latents(latent_B1D, zero_B.long() + 1), zero_B, zero_B.bool())

    def row_scores(self, batch: Batch, prior: Prior | None) -> RowScores:
        """The words' nats given their codes as Rec, and the codes' and the end's as KL; their sum is -ln p(x)."""
        _, rec_B, kl_B = self._nll(batch, None)
        return RowScores(rec_B, kl_B, batch.length_B)

    def forward(self, batch: Batch, clock: Clock, noise: RowNoise | None) -> StepTerms:
        """DAVAM's terms while its codes move; then -ln p(x)."""
        if not self.stands_still:
            terms = super().forward(batch, clock, noise)
            rec_nats = terms.sums["rec_nats"].detach()
            sums = terms.sums | {"kl_nats_sum": torch.zeros_like(rec_nats), "elbo_nats": rec_nats}
            unused = 0 * sum(weight.sum() for weight in self.next_code.parameters())
            return replace(terms, loss_sum=terms.loss_sum + unused, sums=sums)
        nll_sum, rec_B, kl_B = self._nll(batch, noise)
        unmoved, codes_N = self.at_rest(batch)
        return StepTerms(nll_sum + unmoved, elbo_sums(batch, rec_B, kl_B), (rec_B, codes_N))

    def word_choice(self, latents: Latents, sampling: Sampling) -> WordChoice:
        """A word of each given code; or, where none are given, a code and then a word of it."""
        if latents.codes_BT is not None:
            return super().word_choice(latents, sampling)
        words, end = self.code_words(), self.config.codebook_size
        barred_words = () if sampling.unknown else (UNK_ID,)
        barred_codes = self.barred_codes(sampling)

        def choose(feature_AC: Tensor, row_A: Tensor, step: int, uniform_A2: Tensor) -> tuple[Tensor, Tensor]:
            logits_AK = self.next_code.logits(feature_AC[:, : self.config.hidden_dim])
            if step == sampling.max_length:
                return torch.full_like(row_A, EOS_ID), -logits_AK.log_softmax(1)[:, end]
            barred = barred_codes + ((end,) if step < sampling.min_length else ())
            code_A, nats_A = draw(logits_AK, uniform_A2[:, 0], sampling.prior, barred)
            ended_A = code_A == end
            code_A = torch.where(ended_A, 0, code_A)
            own_AC = torch.cat([feature_AC[:, : self.config.hidden_dim], self.codebook.vectors(code_A)], dim=1)
            word_A, word_nats_A = restricted_draw(
                own_AC, words, code_A, uniform_A2[:, 1], sampling.decoder, barred_words
            )
            return torch.where(ended_A, EOS_ID, word_A), nats_A + torch.where(ended_A, 0.0, word_nats_A)

        return choose

    def _nll(self, batch: Batch, noise: RowNoise | None) -> tuple[Tensor, Tensor, Tensor]:
        """(weighted sum over rows of -ln p(x) with its gradient, rec_B and kl_B without)."""
        real = self.real_features(batch, self.infer(batch), noise)
        weight_N = batch.weight_B[real.row_N]
        rec_sum, rec_N = self.word_nll(real.feature_NC, real.target_N, weight_N)
        code_N = torch.where(real.target_N == EOS_ID, self.config.codebook_size, self.code_V[real.target_N])
        h_NH = real.feature_NC[:, : self.config.hidden_dim].contiguous()
        kl_sum, kl_N = self.next_code.nll(h_NH, code_N, weight_N)
        rec_B, kl_B = (torch.zeros_like(batch.weight_B).index_add(0, real.row_N, nll_N) for nll_N in (rec_N, kl_N))
        return rec_sum + kl_sum, rec_B, kl_B
