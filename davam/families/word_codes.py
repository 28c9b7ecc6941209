"""What the families share whose codes are a function of the word, z_t = c(x_t): the table c, an output layer restricted
to the words of a code, and so an exact likelihood.

Legend: B rows, T words, N positions, A rows of the block that is still computed, V entries of the vocabulary,
W those of them that are words, C features, K codes.
"""

from typing import ClassVar

import torch
from torch import Tensor

from davam.data.batches import Batch
from davam.data.tokenizer import EOS_ID, UNK_ID
from davam.errors import DataError
from davam.families.codes import CodeFamily
from davam.families.text import Latents, WordChoice
from davam.nn import ops
from davam.nn.restricted import Clusters, CodeWords, restricted_draw, restricted_nll
from davam.sampling import Sampling

NO_CODE = -1


class WordCodes(CodeFamily):
    """A model whose words are dealt out to codes at some time of its training; then every code has its words."""

    exact: ClassVar[bool] = True

    code_V: Tensor

    def add_word_codes(self) -> None:
        """The table of codes, empty."""
        self.register_buffer("code_V", torch.full((self.vocab_size,), NO_CODE))

    @property
    def stands_still(self) -> bool:
        """Whether every word has its code for good."""
        return bool((self.code_V != NO_CODE).any())

    @property
    def clusters(self) -> Clusters:
        """The words of each code."""
        return Clusters.of(self.code_V, self.config.codebook_size)

    def code_words(self) -> CodeWords:
        """The words of each code with what the output layer has of them."""
        return CodeWords.of(self.clusters, *self.output.word_weights())

    def deal_out(self, point_WD: Tensor, code_KD: Tensor) -> None:
        """Gives every word the code that is nearest to its point, for good. <unk> is a word like any other; what pads,
        begins and ends a text is none, and stands before it. Raises DataError for fewer words than codes."""
        self.code_V[UNK_ID:] = dealt_out(point_WD, code_KD)

    def codes_in(self, batch: Batch) -> Tensor:
        """The codes of the batch's words, codes_N."""
        words_BT, word_B = batch.tokens_BS[:, :-1], batch.length_B - 1
        real_BT = ops.length_mask(word_B, words_BT.shape[1]) & (batch.weight_B > 0)[:, None]
        return self.code_V[words_BT[real_BT]]

    def barred_codes(self, sampling: Sampling) -> tuple[int, ...]:
        """The code of <unk>, where that may not come and is the code's only word."""
        code = int(self.code_V[UNK_ID])
        return () if sampling.unknown or int(self.clusters.count_K[code]) > 1 else (code,)

    def word_nll(self, feature_NC: Tensor, target_N: Tensor, weight_N: Tensor) -> tuple[Tensor, Tensor]:
        """Words given their codes; the end follows from the codes, and costs nothing."""
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


def require_words(words: int, codes: int) -> None:
    """Raises DataError for fewer words than codes."""
    if words < codes:
        raise DataError(
            f"{words} words for {codes} codes: every code needs a word; set model.codebook_size={max(2, words // 4)}, "
            "or add text"
        )


def dealt_out(h_WD: Tensor, code_KD: Tensor) -> Tensor:
    """The code of each word, code_W: the nearest; but a code that is no word's nearest takes the word that is farthest
    from its own, of those that share one. So no code is without words, and no probability is lost on it.

    Raises DataError for fewer words than codes.
    """
    require_words(len(h_WD), len(code_KD))
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
