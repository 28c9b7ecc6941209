"""Whether a newly trained model takes the place of the one in use."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from davam.config import Frozen
from davam.evaluate.verdict import faults, uncounted

DIVERSITY, REAL_DIVERSITY = "sample_dist_2_equal_words", "test_dist_2_equal_words"


class Thresholds(Frozen):
    """What a challenger must reach, beside having no fault of its own."""

    min_gain: float = Field(
        0.0, ge=-1, lt=1, description="share by which its perplexity of the frozen sentences is lower"
    )
    min_code_usage: float = Field(0.9, ge=0, description="its code perplexity, in shares of the champion's")
    min_diversity: float = Field(
        0.9, ge=0, description="Dist-2 of its samples over that of as much text, in shares of the champion's, or of 1"
    )
    max_copy_rise: float = Field(0.01, ge=0, description="its copy rate over the champion's, beyond that of real text")


@dataclass(frozen=True)
class Decision:
    """Whether the challenger is promoted, and every comparison that was made, in words."""

    promote: bool
    reasons: tuple[str, ...]


def decide(champion: Mapping[str, float] | None, challenger: Mapping[str, float], thresholds: Thresholds) -> Decision:
    """The decision on a challenger; `frozen_ppl` is the valid perplexity of the same sentences for both, the other
    measures are those of each one's own run. The first model of a channel has no champion to beat."""
    # Nobody looks at a model before a channel points to it, so what could not be checked is not promoted.
    against = [*faults(challenger), *uncounted(challenger)]
    if champion is None:
        return Decision(not against, tuple(against) or ("The channel has no model yet.",))
    reasons, passed = list(against), not against
    for said, holds in _comparisons(champion, challenger, thresholds):
        reasons.append(f"{'met' if holds else 'NOT MET'}: {said}")
        passed = passed and holds
    return Decision(passed, tuple(reasons))


def _comparisons(
    champion: Mapping[str, float], challenger: Mapping[str, float], thresholds: Thresholds
) -> list[tuple[str, bool]]:
    old, new = champion["frozen_ppl"], challenger["frozen_ppl"]
    most = old * (1 - thresholds.min_gain)
    found = [
        (f"perplexity of the frozen sentences {new:.3f}, under {most:.3f} (the champion has {old:.3f})", new < most)
    ]
    if "code_perplexity" in champion and "code_perplexity" in challenger:
        usage = champion["code_perplexity"]
        least = thresholds.min_code_usage * usage
        found.append(_at_least("code_perplexity", challenger, least, f"the champion has {usage:.3f}"))
    if uncounted(challenger):
        return found
    if DIVERSITY in challenger:
        found.append(_diverse(champion, challenger, thresholds))
    old_copies, new_copies = (each["sample_copy_rate"] - each["test_copy_rate"] for each in (champion, challenger))
    highest = max(0.0, old_copies) + thresholds.max_copy_rise
    said = f"copies beyond the rate of real text {new_copies:.3f}, at most {highest:.3f}"
    return [*found, (said, new_copies <= highest)]


def _diverse(
    champion: Mapping[str, float], challenger: Mapping[str, float], thresholds: Thresholds
) -> tuple[str, bool]:
    """Dist-2 depends on how many words it is of, and the two runs need not have measured as many: each is seen beside
    real text of its own number of words."""
    real = challenger[REAL_DIVERSITY]
    if DIVERSITY not in champion:
        beside, share = "the champion was not measured on as many words as text", 1.0
    else:
        old, old_real = champion[DIVERSITY], champion[REAL_DIVERSITY]
        # A poor champion's samples are more diverse than text is, and a better model's are less so than they.
        beside, share = f"the champion has {old:.3f} beside {old_real:.3f}", min(1.0, old / old_real)
    least = thresholds.min_diversity * share * real
    return _at_least(DIVERSITY, challenger, least, f"text has {real:.3f}; {beside}")


def _at_least(name: str, challenger: Mapping[str, float], least: float, beside: str) -> tuple[str, bool]:
    return f"{name} {challenger[name]:.3f}, at least {least:.3f} ({beside})", challenger[name] >= least
