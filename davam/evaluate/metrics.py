"""Every measure of a trained model as a pure function of counts, nats and texts.

Legend: B sentences, N positions of all sentences in one flat row, K codes. Nats are natural-log units.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from davam.errors import DataError
from davam.nn import ops
from davam.nn.noise import Stream, generator

Array = npt.NDArray[Any]
ACTIVE_VARIANCE = 0.01


def ppl_bound(rec_nats_total: float, kl_nats_total: float, num_tokens_total: int) -> float:
    """A valid upper bound on the perplexity: exp((sum of Rec + sum of KL) / tokens), Eq. (7).

    KL is summed over every code of every sentence; tokens are the words plus one end symbol per sentence.
    Infinite where the exponential overflows. Raises DataError without tokens.
    """
    if num_tokens_total < 1:
        raise DataError("ppl_bound: no tokens to average over; score at least one sentence")
    with np.errstate(over="ignore"):
        return float(np.exp((rec_nats_total + kl_nats_total) / num_tokens_total))


def spelling_nats(words: Iterable[str]) -> float:
    """Nats to write words byte by byte, each byte and the end of the word one of 256 equal choices.

    With it, models that know different words are compared by what the text as such costs.
    """
    return sum(len(word.encode()) + 1 for word in words) * math.log(256)


def ppl_paper(rec_nats_B: Array, kl_nats_B: Array, num_codes_B: Array, num_tokens_B: Array) -> float:
    """The figure that Table II prints for discrete latents; it is no bound on the perplexity.

    KL is averaged over a sentence's codes before it is added to Rec, so all codes but one are left unpaid.
    Raises DataError for arrays of unequal length, without sentences, or for a sentence without codes.
    """
    _check_aligned("ppl_paper", rec_nats_B, kl_nats_B, num_codes_B, num_tokens_B)
    if np.min(num_codes_B) < 1:
        raise DataError("ppl_paper: a sentence has no codes; the formula needs a model with discrete latents")
    kl_per_code_B = np.asarray(kl_nats_B, dtype=np.float64) / num_codes_B
    return ppl_bound(float(np.sum(rec_nats_B)), float(kl_per_code_B.sum()), int(np.sum(num_tokens_B)))


@dataclass(frozen=True)
class LatentMeasures:
    """What a single Gaussian latent says about the text: the information that its aggregate posterior carries, and how
    many of its dimensions move with the text."""

    latent_information_nats: float
    active_units: int


def latent_measures(mean_BD: Array, logvar_BD: Array) -> LatentMeasures:
    """The measures over all given sentences: I(x; z) with one draw a sentence, against the mixture of all posteriors
    (Hoffman and Johnson, 2016), and the dimensions whose mean has a variance of at least 0.01 (Burda et al., 2016).

    The draws are a function of the number of sentences alone. Raises DataError for fewer than two sentences.
    """
    if len(mean_BD) < 2:
        raise DataError("latent measures: one sentence has no variance; score at least two")
    mean, logvar = (torch.from_numpy(np.asarray(part, dtype=np.float32)) for part in (mean_BD, logvar_BD))
    draws = generator(0, Stream.POSTERIOR, len(mean_BD)).standard_normal(mean.shape, dtype=np.float32)
    information = ops.gaussian_information(mean, logvar, torch.from_numpy(draws))
    active = np.asarray(mean_BD, dtype=np.float64).var(0, ddof=1) >= ACTIVE_VARIANCE
    return LatentMeasures(float(information), int(active.sum()))


@dataclass(frozen=True)
class CodeUse:
    """How many codes occur, and `code_perplexity`, exp(entropy of the codes)."""

    codes_used: int
    code_perplexity: float


def code_use(codes_N: Array) -> CodeUse:
    """The use of codes, estimated from counts. Raises DataError without codes."""
    _check_aligned("code use", codes_N)
    count_K = np.unique(codes_N, return_counts=True)[1]
    return CodeUse(len(count_K), float(np.exp(_entropy_nats(count_K))))


@dataclass(frozen=True)
class CodeMeasures:
    """What the codes say about the words. The words per code count distinct ones.

    `purity` is the share of positions whose word is the majority word of its code. The means run over used codes.
    """

    mutual_information_nats: float
    purity: float
    words_per_code_mean: float
    words_per_code_max: int


def code_measures(codes_N: Array, words_N: Array, codebook_size: int) -> CodeMeasures:
    """The measures of codes aligned with the words they stand for, all plug-in estimates from counts.

    Raises DataError for arrays of unequal length, without positions, or for a code outside the codebook.
    """
    _check_aligned("code measures", codes_N, words_N)
    if np.min(codes_N) < 0 or np.max(codes_N) >= codebook_size:
        raise DataError(
            f"code measures: codes run from {np.min(codes_N)} to {np.max(codes_N)}, outside a codebook of "
            f"{codebook_size}; codes and model do not belong together"
        )
    _, code_of_N, code_count_K = np.unique(codes_N, return_inverse=True, return_counts=True)
    _, word_of_N, word_count = np.unique(words_N, return_inverse=True, return_counts=True)
    pair, pair_count = np.unique(code_of_N.astype(np.int64) * len(word_count) + word_of_N, return_counts=True)
    pair_code = pair // len(word_count)
    majority_K = np.zeros(len(code_count_K), dtype=np.int64)
    np.maximum.at(majority_K, pair_code, pair_count)
    words_per_code_K = np.bincount(pair_code)
    information_nats = _entropy_nats(code_count_K) + _entropy_nats(word_count) - _entropy_nats(pair_count)
    return CodeMeasures(
        mutual_information_nats=max(0.0, information_nats),
        purity=float(majority_K.sum() / len(code_of_N)),
        words_per_code_mean=float(words_per_code_K.mean()),
        words_per_code_max=int(words_per_code_K.max()),
    )


@dataclass(frozen=True)
class SampleMeasures:
    """Diversity, length and novelty of sampled texts.

    `dist_1`, `dist_2` and `entropy_nats` treat all samples as one list of tokens, so bigrams cross the ends
    of sentences, as in the paper's Table V; they depend on how many samples there are. Lengths count words.
    """

    count: int
    dist_1: float
    dist_2: float
    entropy_nats: float
    unk_rate: float
    length_mean_tokens: float
    length_std_tokens: float
    length_min_tokens: int
    length_max_tokens: int
    copies_of_train_rate: float
    unique_rate: float


def sample_measures(texts: Sequence[str], train_texts: Collection[str], unk: str) -> SampleMeasures:
    """The measures of sampled texts, whose words are split at whitespace; `unk` spells the unknown word.

    Texts are compared with the training texts and with each other after runs of whitespace became one space.
    Shares of nothing are 0, so samples without any word measure 0. Raises DataError without samples.
    """
    if not len(texts):
        raise DataError("sample measures: no samples; draw at least one")
    words = [text.split() for text in texts]
    tokens = [word for sentence in words for word in sentence]
    bigrams = list(pairwise(tokens))
    unigram_count = Counter(tokens)
    sample = Counter(" ".join(sentence) for sentence in words)
    copied = set(sample).intersection(" ".join(text.split()) for text in train_texts)
    lengths_B = np.array([len(sentence) for sentence in words])
    return SampleMeasures(
        count=len(texts),
        dist_1=_share(len(unigram_count), len(tokens)),
        dist_2=_share(len(set(bigrams)), len(bigrams)),
        entropy_nats=_entropy_nats(unigram_count.values()),
        unk_rate=_share(unigram_count[unk], len(tokens)),
        length_mean_tokens=float(lengths_B.mean()),
        length_std_tokens=float(lengths_B.std()),
        length_min_tokens=int(lengths_B.min()),
        length_max_tokens=int(lengths_B.max()),
        copies_of_train_rate=_share(sum(sample[text] for text in copied), len(texts)),
        unique_rate=_share(len(sample), len(texts)),
    )


@dataclass(frozen=True)
class ReconstructionMeasures:
    """How much of the texts came back: `word_accuracy` over words, `exact_rate` over sentences."""

    word_accuracy: float
    exact_rate: float


def reconstruction_measures(texts: Sequence[str], reconstructions: Sequence[str]) -> ReconstructionMeasures:
    """The shares of words that stand at the same place in the reconstruction and of sentences that are equal.

    Words are split at whitespace. Raises DataError for lists of unequal length or without sentences.
    """
    _check_aligned("reconstruction measures", texts, reconstructions)
    pairs = [(text.split(), back.split()) for text, back in zip(texts, reconstructions, strict=True)]
    kept = sum(word == other for words, back in pairs for word, other in zip(words, back, strict=False))
    return ReconstructionMeasures(
        word_accuracy=_share(kept, sum(len(words) for words, _ in pairs)),
        exact_rate=_share(sum(words == back for words, back in pairs), len(pairs)),
    )


def _check_aligned(what: str, *columns: Array | Sequence[str]) -> None:
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise DataError(f"{what}: columns of unequal length {lengths}; pass one entry per row in each")
    if not lengths[0]:
        raise DataError(f"{what}: nothing to measure; pass at least one row")


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _entropy_nats(counts: Iterable[int]) -> float:
    """Plug-in entropy of positive counts; 0 without any."""
    # Sorted, so that rounding does not depend on the order in which the events were met.
    count = np.sort(np.fromiter(counts, dtype=np.float64))
    total = count.sum()
    return max(0.0, float(np.log(total) - (count * np.log(count)).sum() / total)) if total else 0.0
