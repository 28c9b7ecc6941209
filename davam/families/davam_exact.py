"""DAVAM with an exact likelihood: every code is a function of its word, z_t = c(x_t), and the decoder chooses among the
words of z_t alone, and ends exactly with the codes. So each text has one code sequence, and

    ln p(x) = ln p(c(x)) + sum_t ln p(x_t | x_<t, c(x))

is the likelihood itself: nothing is bounded. The codes are learned as DAVAM's are, and then stand still.

Legend: B rows, T words, N positions, A rows of the block that is still computed, V entries of the vocabulary,
W those of them that are words, C features, D code dim, K codes.
"""

from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from davam.data.batches import Batch
from davam.data.tokenizer import EOS_ID, UNK_ID
from davam.errors import DataError
from davam.families.base import Clock, StepTerms, Workers
from davam.families.davam import Davam, DavamConfig
from davam.families.text import Latents, WordChoice
from davam.nn import ops
from davam.nn.noise import RowNoise
from davam.nn.restricted import Clusters, CodeWords, restricted_draw, restricted_nll
from davam.sampling import Sampling

NO_CODE = -1


class DavamExactConfig(DavamConfig):
    """DAVAM's settings, with an encoder that sees one word at a time, and how long its codes move."""

    kind: Literal["davam_exact"] = "davam_exact"  # type: ignore[assignment]
    encoder: Literal["local"] = "local"
    stride: Literal[1] = 1
    quantized_epochs: int = Field(1, ge=0, description="in which codes move, before the words are dealt out to them")

    @property
    def unfinished_epochs(self) -> int:
        """Until the codes stand still."""
        return self.continuous_epochs + self.quantized_epochs


class DavamExact(Davam):
    """DAVAM until its codes stand still; then a decoder restricted to their words."""

    kind: ClassVar[str] = "davam_exact"
    about: ClassVar[str] = (
        "A Discrete Auto-regressive Variational Attention Model with an exact likelihood. Every word has one code, a "
        "prior models the code sequences, and the decoder chooses among the words of each code."
    )
    exact: ClassVar[bool] = True

    config: DavamExactConfig
    code_V: Tensor

    def __init__(self, config: DavamExactConfig, vocab_size: int, max_tokens: int, labels: int = 0) -> None:
        super().__init__(config, vocab_size, max_tokens, labels)
        self.register_buffer("code_V", torch.full((vocab_size,), NO_CODE))

    @property
    def stands_still(self) -> bool:
        """Whether every word has its code for good."""
        return bool((self.code_V != NO_CODE).any())

    def barred_codes(self, sampling: Sampling) -> tuple[int, ...]:
        """The code of <unk>, where that may not come and is the code's only word."""
        code = int(self.code_V[UNK_ID])
        return () if sampling.unknown or int(self.clusters.count_K[code]) > 1 else (code,)

    @property
    def clusters(self) -> Clusters:
        """The words of each code."""
        return Clusters.of(self.code_V, self.config.codebook_size)

    def code_words(self) -> CodeWords:
        """The words of each code with what the output layer has of them."""
        return CodeWords.of(self.clusters, *self.output.word_weights())

    def encode(self, words_BT: Tensor, length_B: Tensor) -> Tensor:
        """The code of every word, codes_BT; 0 in the padding."""
        if not self.stands_still:
            return super().encode(words_BT, length_B)
        return self.code_V[words_BT].clamp_min(0)

    @torch.no_grad()
    def begin_epoch(
        self, epoch: int, batches: Callable[[], Iterable[Batch]], codes_per_step: float, seed: int, workers: Workers
    ) -> None:
        """At first as DAVAM; then the codes of all words, once."""
        super().begin_epoch(epoch, batches, codes_per_step, seed, workers)
        if epoch == self.config.unfinished_epochs and not self.stands_still:
            # <unk> is a word like any other; what pads, begins and ends a text is none, and stands before it.
            word_1W = torch.arange(UNK_ID, self.vocab_size, device=self.code_V.device)[None]
            h_WD = self.states(word_1W, torch.tensor([word_1W.shape[1]]))[0]
            self.code_V[UNK_ID:] = dealt_out(h_WD, self.codebook.code_KD)

    def forward(self, batch: Batch, clock: Clock, noise: RowNoise | None) -> StepTerms:
        """DAVAM's terms while its codes move; then Rec alone, given codes that stand still."""
        if not self.stands_still:
            return super().forward(batch, clock, noise)
        rec_sum, rec_B = self.reconstruction(batch, self.infer(batch), noise)
        sums = {
            "rec_nats": (rec_B * batch.weight_B).sum(),
            "commit": torch.zeros_like(rec_sum.detach()),
            "tokens": (batch.length_B * batch.weight_B).sum(),
            "rows": batch.weight_B.sum(),
        }
        unmoved, codes_N = self.at_rest(batch)
        return StepTerms(rec_sum + unmoved, sums, (rec_B, codes_N))

    def at_rest(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Zero, with a gradient for the encoder, which has nothing more to learn, but DDP waits for that of every
        parameter; and the codes of the batch's words, codes_N."""
        words_BT, word_B = batch.tokens_BS[:, :-1], batch.length_B - 1
        real_BT = ops.length_mask(word_B, words_BT.shape[1]) & (batch.weight_B > 0)[:, None]
        return 0 * self.states(words_BT, word_B).sum(), self.code_V[words_BT[real_BT]]

    def tally(self, terms: StepTerms) -> Tensor:
        """How often each code was chosen."""
        codes_N = terms.aux[1]
        if not isinstance(codes_N, Tensor):
            return super().tally(terms)
        return torch.bincount(codes_N, minlength=self.config.codebook_size)

    def word_nll(self, feature_NC: Tensor, target_N: Tensor, weight_N: Tensor) -> tuple[Tensor, Tensor]:
        """Words given their codes; the end follows from the number of codes, and costs nothing."""
        if not self.stands_still:
            return super().word_nll(feature_NC, target_N, weight_N)
        word = (target_N != EOS_ID).nonzero().squeeze(1)
        target_R = target_N[word]
        total, nll_R = restricted_nll(
            feature_NC.index_select(0, word), self.code_words(), target_R, self.code_V[target_R], weight_N[word]
        )
        return total, torch.zeros_like(weight_N).index_copy(0, word, nll_R)

    def word_choice(self, latents: Latents, sampling: Sampling) -> WordChoice:
        """A word of each code, and the end after the last."""
        assert latents.codes_BT is not None
        codes_BT, length_B = latents.codes_BT, latents.length_B
        words, barred = self.code_words(), () if sampling.unknown else (UNK_ID,)

        def choose(feature_AC: Tensor, row_A: Tensor, step: int, uniform_A2: Tensor) -> tuple[Tensor, Tensor]:
            ended_A = length_B[row_A] <= step
            code_A = codes_BT[row_A, min(step, codes_BT.shape[1] - 1)]
            word_A, nats_A = restricted_draw(feature_AC, words, code_A, uniform_A2[:, 0], sampling.decoder, barred)
            return torch.where(ended_A, EOS_ID, word_A), torch.where(ended_A, 0.0, nats_A)

        return choose


def dealt_out(h_WD: Tensor, code_KD: Tensor) -> Tensor:
    """The code of each word, code_W: the nearest; but a code that is no word's nearest takes the word that is farthest
    from its own, of those that share one. So no code is without words, and no probability is lost on it.

    Raises DataError for fewer words than codes.
    """
    if len(h_WD) < len(code_KD):
        raise DataError(
            f"{len(h_WD)} words for {len(code_KD)} codes: every code needs a word; set "
            f"model.codebook_size={max(2, len(h_WD) // 4)}, or add text"
        )
    code_W = ops.nearest_code(h_WD, code_KD)
    count_K = torch.bincount(code_W, minlength=len(code_KD))
    free = (count_K == 0).nonzero().squeeze(1).tolist()
    farthest_W = (h_WD - code_KD[code_W]).square().sum(1).argsort(descending=True, stable=True).tolist()
    for word in farthest_W if free else []:
        if count_K[code_W[word]] > 1:
            count_K[code_W[word]] -= 1
            code_W[word] = free.pop()
            if not free:
                break
    return code_W
