"""How diverse texts are, as a pure function of them: words are split at whitespace, entropies are in nats.

A share of different words or word pairs depends on how many words there are, so two sets of texts compare at equal
numbers of sentences and lengths alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from sacrebleu.metrics import BLEU
from sacrebleu.metrics.helpers import extract_all_word_ngrams

from davam.errors import DataError
from davam.evaluate import metrics

SELF_BLEU_SENTENCES = 1_000
ORDERS = 4  # of the n-grams of BLEU


@dataclass(frozen=True)
class Diversity:
    """The measures that the texts are enough for, and why each of the others is absent.

    `entropy_nats`, `dist_1`, `dist_2`: of all texts as one list of words, as in the paper's Table V.
    `sentence_dist_1`, `sentence_dist_2`: different words, or word pairs, of a sentence over all of its own; the mean
    over sentences that have any.
    `self_bleu`: 0 to 1, see `self_bleu`; of at most 1,000 sentences, evenly spaced.
    `vocabulary_types`, `vocabulary_mass`: the share of the different words, and of all words, of real text that occur
    in these texts.
    """

    measures: Mapping[str, float]
    absent: Mapping[str, str]


def diversity(texts: Sequence[str], real_texts: Sequence[str] = ()) -> Diversity:
    """The diversity of the texts, and how much of the real texts' vocabulary they cover.

    Raises DataError without texts.
    """
    if not len(texts):
        raise DataError("diversity: no texts; pass at least one")
    sentences = [text.split() for text in texts]
    words = sum(map(len, sentences))
    measures: dict[str, float] = {}
    absent: dict[str, str] = {}
    if words:
        whole = metrics.sample_measures(texts, (), "<unk>")
        measures |= {"entropy_nats": whole.entropy_nats, "dist_1": whole.dist_1}
        measures["sentence_dist_1"] = fmean(len(set(row)) / len(row) for row in sentences if row)
    else:
        absent |= dict.fromkeys(("entropy_nats", "dist_1", "sentence_dist_1"), "the texts have no words")
    if words >= 2:
        measures["dist_2"] = whole.dist_2
    else:
        absent["dist_2"] = f"{words} words make no pair"
    if any(len(row) >= 2 for row in sentences):
        measures["sentence_dist_2"] = fmean(len(set(pairwise(row))) / (len(row) - 1) for row in sentences if row[1:])
    else:
        absent["sentence_dist_2"] = "no text has two words"
    if len(texts) >= 2:
        measures["self_bleu"] = self_bleu([texts[place] for place in evenly(len(texts), SELF_BLEU_SENTENCES)])
    else:
        absent["self_bleu"] = "1 text has no other to be compared with"
    covered = _coverage({word for row in sentences for word in row}, real_texts)
    if covered:
        measures |= covered
    else:
        absent |= dict.fromkeys(("vocabulary_types", "vocabulary_mass"), "no words of real text to be covered")
    return Diversity(measures, absent)


def self_bleu(texts: Sequence[str]) -> float:
    """The mean over sentences of BLEU-4 against all others as references, 0 to 1; the higher, the more alike they are
    (Zhu et al., 2018).

    As sacrebleu's sentence BLEU has it: exponential smoothing, orders that the sentence has, closest reference length;
    words are those of the text. Raises DataError for fewer than two sentences.
    """
    if len(texts) < 2:
        raise DataError(f"self-BLEU: {len(texts)} sentences; pass at least two")
    rows = [extract_all_word_ngrams(text, 1, ORDERS) for text in texts]
    # Of each n-gram the two largest counts in a sentence: a sentence's own is the one that is not compared with.
    largest: dict[tuple[str, ...], tuple[int, int]] = {}
    for counts, _ in rows:
        for ngram, count in counts.items():
            first, second = largest.get(ngram, (0, 0))
            largest[ngram] = (count, first) if count > first else (first, max(second, count))
    lengths = Counter(length for _, length in rows)
    return fmean(_sentence_bleu(counts, length, largest, lengths) for counts, length in rows) / 100


def _sentence_bleu(
    counts: Mapping[tuple[str, ...], int],
    length: int,
    largest: Mapping[tuple[str, ...], tuple[int, int]],
    lengths: Counter[int],
) -> float:
    matched, total = [0] * ORDERS, [0] * ORDERS
    for ngram, count in counts.items():
        first, second = largest[ngram]
        total[len(ngram) - 1] += count
        matched[len(ngram) - 1] += min(count, second if count == first else first)
    others = [other for other, sentences in lengths.items() if sentences > (other == length)]
    closest = min(others, key=lambda other: (abs(other - length), other))
    return BLEU.compute_bleu(matched, total, length, closest, smooth_method="exp", effective_order=True).score


def evenly(count: int, most: int) -> list[int]:
    """At most so many places of a list of `count`, evenly spaced, from the first on."""
    taken = min(count, most)
    return [place * count // taken for place in range(taken)]


def _coverage(known: set[str], real_texts: Sequence[str]) -> dict[str, float]:
    real = Counter(word for text in real_texts for word in text.split())
    if not real:
        return {}
    covered = [word for word in real if word in known]
    return {
        "vocabulary_types": len(covered) / len(real),
        "vocabulary_mass": sum(real[word] for word in covered) / real.total(),
    }
