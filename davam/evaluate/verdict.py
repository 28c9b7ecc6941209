"""What a run's figures come to: whether its text is worth adding to the real one, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Decision = Literal["promote", "keep", "do not use"]
Usefulness = Literal["helps", "no difference seen", "hurts"]
TextsOf = Literal["sample", "test"]
TEXTS: tuple[TextsOf, ...] = ("sample", "test")

COLLAPSED_NATS = 0.1  # of the latents, under which they carry next to nothing
COLLAPSED_CODES = 1.5  # perplexity of code use: that of one code at 86 positions of 100 and a second at the others
LEAST_TEXTS = 100  # samples, and test sentences: of fewer, a share of COPIES_BEYOND is not even one
COPIES_OVER_REAL, COPIES_BEYOND = 2.0, 0.01  # times the rate of unseen real text, and a share more
NARROW_SHARE = 0.5  # of the real text's Dist-2
TRUNCATED_SHARE = 0.05
UNK_OVER_REAL, UNK_BEYOND = 2.0, 0.05  # a model prefers frequent words, of which <unk> is one, but not as much as that
HOPELESS_GRAMMATICAL_SHARE = 0.1  # with nine samples in ten outside of the language, the text is no example of it


@dataclass(frozen=True)
class Finding:
    """What the augmentation experiment found at one size of the real text, for generators that saw no more text than
    the language model; `reason` says it with the size, the ratio and the interval. It rests on `seeds` at each of
    `ratios` ratios."""

    size: int
    seeds: int
    ratios: int
    says: Usefulness
    reason: str


@dataclass(frozen=True)
class Verdict:
    """The decision, and the reasons for it.

    `promote`: adding this text to the real one has been measured to help. `keep`: nothing speaks against the model,
    but nothing shows that its text helps. `do not use`: something does speak against it.
    """

    decision: Decision
    reasons: tuple[str, ...]


def decide(measures: Mapping[str, float], findings: Sequence[Finding]) -> Verdict:
    """The verdict on a run with these measures; `findings` are those of the augmentation experiment on the same corpus
    with such a generator, one a size, and none where it was not made.

    Its text helps where it does at one size and hurts at none, and hurts where it does at one and helps at none.
    """
    against, said = faults(measures), {finding.says for finding in findings}
    reasons = [finding.reason for finding in findings]
    if "hurts" in said and "helps" not in said:
        against += ["A language model trained with such text added did worse on real text.", *reasons]
    if against:
        return Verdict("do not use", tuple(against))
    decision: Decision = "keep"
    if not findings:
        found = "No fault was found, but whether its text helps was not measured (augment.py does)."
    elif {"helps", "hurts"} <= said:
        found = "No fault was found, but its text helps at one size and hurts at another."
    elif "helps" in said:
        decision, found = "promote", "A language model trained with such text added did better on real text."
    else:
        found = "No fault was found, but adding its text made no difference that could be seen."
    return Verdict(decision, (found, *reasons, *unchecked(measures)))


def faults(measures: Mapping[str, float]) -> list[str]:
    """What speaks against the run by itself."""
    found = []
    if any(value < 1 for name, value in measures.items() if name.endswith("_over_floor")):
        found.append("A valid figure is under the entropy floor: a counting error until proven otherwise.")
    if measures.get("kl_nats_sum", COLLAPSED_NATS) - measures.get("length_nats", 0.0) < COLLAPSED_NATS:
        found.append("The posterior has collapsed: the latents carry next to nothing about the text.")
    if measures.get("code_perplexity", COLLAPSED_CODES) < COLLAPSED_CODES:
        found.append(f"The codebook has collapsed: the perplexity of code use is {measures['code_perplexity']:.2f}.")
    return found + _faults_of_samples(measures)


def unchecked(measures: Mapping[str, float]) -> list[str]:
    """What could speak against the run and was not looked at."""
    found = uncounted(measures)
    if "sample_grammatical_rate" not in measures:
        found.append("Not checked: whether the samples are good sentences (text_tables.py measures their fluency).")
    return found


def uncounted(measures: Mapping[str, float]) -> list[str]:
    """What was not looked at because there are too few samples, or too few real sentences beside them."""
    samples, real = too_few(measures, "sample"), too_few(measures, "test")
    if samples is not None:
        return [f"Not checked: the samples, of which there are {samples} (samples.rows)."]
    if real is not None:
        return [f"Not checked: copies, diversity and unknown words, for want of real text to compare with: {real}."]
    return []


def too_few(measures: Mapping[str, float], what: TextsOf) -> str | None:
    """What stands in the place of figures of samples, or of test sentences, where these are too few for them."""
    rows = int(measures[f"{what}_rows"])
    return f"too few: {rows} of {LEAST_TEXTS}" if rows < LEAST_TEXTS else None


def counted(measures: Mapping[str, float]) -> dict[str, float | str]:
    """The measures; those of samples, or of test sentences alone, that these are too few for say so instead."""
    shown: dict[str, float | str] = dict(measures)
    for what in TEXTS:
        few = too_few(measures, what)
        if few is not None:
            shown |= {name: few for name in measures if name.startswith(f"{what}_") and name != f"{what}_rows"}
    return shown


def _faults_of_samples(measures: Mapping[str, float]) -> list[str]:
    if too_few(measures, "sample") is not None:
        return []
    found = [] if too_few(measures, "test") is not None else _faults_beside_real_text(measures)
    grammatical = measures.get("sample_grammatical_rate", 1.0)
    if grammatical < HOPELESS_GRAMMATICAL_SHARE:
        found.append(f"The samples are hardly the language: {grammatical:.1%} of them are grammatical.")
    if measures["sample_truncated_rate"] > TRUNCATED_SHARE:
        found.append(f"{measures['sample_truncated_rate']:.1%} of the samples were cut at the longest length.")
    return found


def _faults_beside_real_text(measures: Mapping[str, float]) -> list[str]:
    found = []
    unknown, real_unknown = measures["sample_unk_rate"], measures["test_unk_rate"]
    if unknown > UNK_OVER_REAL * real_unknown + UNK_BEYOND:
        found.append(f"{unknown:.1%} of the samples' words are <unk>; of real text's, {real_unknown:.1%} are.")
    copies, real = measures["sample_copy_rate"], measures["test_copy_rate"]
    if copies > COPIES_OVER_REAL * real + COPIES_BEYOND:
        found.append(
            f"{copies:.1%} of the samples are copies of training sentences; of unseen real sentences, {real:.1%} are."
        )
    if "sample_dist_2_equal_words" not in measures:
        return [*found, "The samples have no words."]
    dist_2, real_dist_2 = measures["sample_dist_2_equal_words"], measures["test_dist_2_equal_words"]
    if dist_2 < NARROW_SHARE * real_dist_2:
        found.append(
            f"The samples are narrow: Dist-2 is {dist_2:.3f}, and {real_dist_2:.3f} of as many words of real text."
        )
    return found
