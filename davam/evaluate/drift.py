"""How far new text is from the text that a model was trained on: lengths, words, codes, and unknown words.

A distribution of a finite sample differs from that of another sample of the same text, so every divergence stands
beside the one between two samples of the old text, of the same size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import jensenshannon

Counts = npt.NDArray[np.int64]

OVER_CHANCE, BEYOND = 2.0, 0.005  # times the divergence of two old samples, and so many nats more
OVER_OLD_UNKNOWN, BEYOND_UNKNOWN = 1.5, 0.01  # times the old rate of unknown words, and a share more


@dataclass(frozen=True)
class Profile:
    """The lengths, words and codes of a sample of texts as a model reads them; without codes, none of them."""

    lengths: Counts
    words: Counts
    codes: Counts
    unknown_rate: float


@dataclass(frozen=True)
class Drift:
    """Jensen-Shannon divergences in nats, at most ln 2, as (of the new text, of old text by chance); the rates of
    unknown words, new and old; and what of it is more than chance."""

    divergences: dict[str, tuple[float, float]]
    unknown_rate: tuple[float, float]
    flags: tuple[str, ...]


def profile(tokens: Sequence[Sequence[int]], codes: Sequence[Sequence[int]], unknown_id: int) -> Profile:
    """The profile of tokenized texts without their ends, and of their codes."""
    words_N = np.array([word for row in tokens for word in row], np.int64)
    codes_N = np.array([code for row in codes for code in row], np.int64)
    unknown_rate = float(np.mean(words_N == unknown_id)) if len(words_N) else 0.0
    lengths_B = np.array([len(row) for row in tokens], np.int64)
    return Profile(np.bincount(lengths_B), np.bincount(words_N), np.bincount(codes_N), unknown_rate)


def drift(new: Profile, old: Profile, other_old: Profile) -> Drift:
    """The drift of the new text, with two disjoint samples of the old one, all three of the same number of texts."""
    divergences = {
        name: (
            divergence(getattr(new, name), getattr(old, name)),
            divergence(getattr(other_old, name), getattr(old, name)),
        )
        for name in ("lengths", "words", "codes")
        if getattr(old, name).any()
    }
    flags = [
        f"{name}: {found:.3f} nats from the old text, where chance makes {by_chance:.3f}"
        for name, (found, by_chance) in divergences.items()
        if found > OVER_CHANCE * by_chance + BEYOND
    ]
    if new.unknown_rate > OVER_OLD_UNKNOWN * old.unknown_rate + BEYOND_UNKNOWN:
        flags.append(f"unknown words: {new.unknown_rate:.1%}, and {old.unknown_rate:.1%} of the old text")
    return Drift(divergences, (new.unknown_rate, old.unknown_rate), tuple(flags))


def divergence(one: Counts, other: Counts) -> float:
    """The Jensen-Shannon divergence of two histograms in nats; 0 where one of them is empty."""
    width = max(len(one), len(other))
    one_K, other_K = (np.pad(counts, (0, width - len(counts))) for counts in (one, other))
    if not one_K.any() or not other_K.any():
        return 0.0
    return float(jensenshannon(one_K, other_K) ** 2)
