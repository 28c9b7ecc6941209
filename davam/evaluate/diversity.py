"""How diverse texts are, as a pure function of them: words are split at whitespace, entropies are in nats.

A share of different words or word pairs depends on how many words there are, so two sets of texts compare at equal
numbers of sentences and lengths alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from statistics import fmean

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.helpers import extract_all_word_ngrams

from davam.data.tokenizer import count_words
from davam.errors import DataError
from davam.evaluate import metrics

SELF_BLEU_SENTENCES = 1_000
ORDERS = 4  # of the n-grams of BLEU
COUNTED = ("entropy_nats", "dist_1", "dist_2", "vocabulary_types", "vocabulary_mass")  # depend on how many words


@dataclass(frozen=True)
class Diversity:
    """The measures that the texts are enough for, and why each of the others is absent.

    `entropy_nats`, `dist_1`, `dist_2`: of all texts as one list of words, as in the paper's Table V, or of the first of
    those words.
    `sentence_dist_1`, `sentence_dist_2`: different words, or word pairs, of a sentence over all of its own; the mean
    over sentences that have any.
    `self_bleu`: 0 to 1, see `self_bleu`; of at most 1,000 sentences, evenly spaced.
    `vocabulary_types`, `vocabulary_mass`: the share of the different words, and of all words, of real text that occur
    among the same words.
    """

    measures: Mapping[str, float]
    absent: Mapping[str, str]


def diversity(texts: Sequence[str], real_texts: Sequence[str] = (), words: int | None = None) -> Diversity:
    """The diversity of the texts, and how much of the real texts' vocabulary they cover; what depends on the number of
    words, of the first `words` alone, so that texts of different lengths compare.

    Raises DataError without texts.
    """
    if not len(texts):
        raise DataError("diversity: no texts; pass at least one")
    sentences = [text.split() for text in texts]
    total = sum(map(len, sentences))
    if words is not None and total < words:
        counted = [_absent(COUNTED, f"{total:,} of {words:,} words")]
    else:
        first = list(islice(chain.from_iterable(sentences), words))
        counted = [_of_words(first), _coverage(first, real_texts)]
    parts = [*counted, *(_of_sentences(sentences, order) for order in (1, 2)), _alike(texts)]
    measures = {name: value for part in parts for name, value in part.measures.items()}
    return Diversity(measures, {name: reason for part in parts for name, reason in part.absent.items()})


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


def _of_words(words: Sequence[str]) -> Diversity:
    if not words:
        return _absent(COUNTED[:3], "the texts have no words")
    whole = metrics.sample_measures([" ".join(words)], (), "<unk>")
    measures = {"entropy_nats": whole.entropy_nats, "dist_1": whole.dist_1}
    if len(words) < 2:
        return Diversity(measures, {"dist_2": "one word makes no pair"})
    return Diversity(measures | {"dist_2": whole.dist_2}, {})


def _coverage(words: Sequence[str], real_texts: Sequence[str]) -> Diversity:
    real = count_words(real_texts)
    if not real:
        return _absent(COUNTED[3:], "no words of real text to be covered")
    covered = real.keys() & set(words)
    measures = {
        "vocabulary_types": len(covered) / len(real),
        "vocabulary_mass": sum(real[word] for word in covered) / real.total(),
    }
    return Diversity(measures, {})


def _of_sentences(sentences: Sequence[Sequence[str]], order: int) -> Diversity:
    name = f"sentence_dist_{order}"
    ngrams = [list(zip(*(row[i:] for i in range(order)), strict=False)) for row in sentences if len(row) >= order]
    if not ngrams:
        return _absent([name], f"no text has {order} word{'s' * (order > 1)}")
    return Diversity({name: fmean(len(set(row)) / len(row) for row in ngrams)}, {})


def _alike(texts: Sequence[str]) -> Diversity:
    if len(texts) < 2:
        return _absent(["self_bleu"], "1 text has no other to be compared with")
    return Diversity({"self_bleu": self_bleu([texts[place] for place in evenly(len(texts), SELF_BLEU_SENTENCES)])}, {})


def _absent(names: Sequence[str], reason: str) -> Diversity:
    return Diversity({}, dict.fromkeys(names, reason))
