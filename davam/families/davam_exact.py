"""DAVAM with an exact likelihood: every code is a function of its word, z_t = c(x_t), and the decoder chooses among the
words of z_t alone, and ends exactly with the codes. So each text has one code sequence, and

    ln p(x) = ln p(c(x)) + sum_t ln p(x_t | x_<t, c(x))

is the likelihood itself: nothing is bounded. The codes are learned as DAVAM's are, and then stand still.

Legend: B rows, T words, N positions, W words of the vocabulary, D code dim.
"""

from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from davam.data.batches import Batch
from davam.data.tokenizer import UNK_ID
from davam.families.base import Clock, StepTerms, Workers
from davam.families.davam import Davam, DavamConfig
from davam.families.word_codes import WordCodes
from davam.nn.noise import RowNoise


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


class DavamExact(WordCodes, Davam):
    """DAVAM until its codes stand still; then a decoder restricted to their words."""

    kind: ClassVar[str] = "davam_exact"
    about: ClassVar[str] = (
        "A Discrete Auto-regressive Variational Attention Model with an exact likelihood. Every word has one code, a "
        "prior models the code sequences, and the decoder chooses among the words of each code."
    )

    config: DavamExactConfig

    def __init__(self, config: DavamExactConfig, vocab_size: int, max_tokens: int, labels: int = 0) -> None:
        super().__init__(config, vocab_size, max_tokens, labels)
        self.add_word_codes()

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
            word_1W = torch.arange(UNK_ID, self.vocab_size, device=self.code_V.device)[None]
            h_WD = self.states(word_1W, torch.tensor([word_1W.shape[1]]))[0]
            self.deal_out(h_WD, self.codebook.code_KD)

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
        # The encoder has nothing more to learn, but DDP waits for the gradient of every parameter.
        unmoved = 0 * self.states(batch.tokens_BS[:, :-1], batch.length_B - 1).sum()
        return StepTerms(rec_sum + unmoved, sums, (rec_B, self.codes_in(batch)))

    def tally(self, terms: StepTerms) -> Tensor:
        """How often each code was chosen."""
        codes_N = terms.aux[1]
        if not isinstance(codes_N, Tensor):
            return super().tally(terms)
        return torch.bincount(codes_N, minlength=self.config.codebook_size)
