"""Whether a challenger takes the champion's place, and how far new text has drifted."""

import math

import numpy as np
import pytest

from davam.evaluate.drift import divergence, drift, profile
from davam.evaluate.gate import Decision, Thresholds, decide
from davam.evaluate.metrics import spelling_nats

GOOD = {
    "frozen_ppl": 100.0,
    "code_perplexity": 80.0,
    "kl_nats_sum": 5.0,
    "sample_dist_2_equal_words": 0.3,
    "test_dist_2_equal_words": 0.3,
    "sample_copy_rate": 0.05,
    "test_copy_rate": 0.05,
    "sample_rows": 1000,
    "test_rows": 1000,
    "sample_unk_rate": 0.0,
    "test_unk_rate": 0.0,
    "sample_truncated_rate": 0.0,
}
RULES = Thresholds()


def test_the_first_model_of_a_channel_needs_no_more_than_to_be_sound() -> None:
    assert decide(None, GOOD, RULES) == Decision(True, ("The channel has no model yet.",))
    collapsed = decide(None, GOOD | {"kl_nats_sum": 0.01}, RULES)
    assert not collapsed.promote
    assert "collapsed" in collapsed.reasons[0]


def test_a_better_model_is_promoted_and_every_comparison_said() -> None:
    decision = decide(GOOD, GOOD | {"frozen_ppl": 95.0}, RULES)
    assert decision.promote
    assert len(decision.reasons) == 4
    assert decision.reasons[0] == (
        "met: perplexity of the frozen sentences 95.000, under 100.000 (the champion has 100.000)"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frozen_ppl": 100.0}, "NOT MET: perplexity of the frozen sentences 100.000, under 100.000"),
        ({"code_perplexity": 71.9}, "NOT MET: code_perplexity 71.900, at least 72.000"),
        ({"sample_dist_2_equal_words": 0.26}, "NOT MET: sample_dist_2_equal_words 0.260, at least 0.270"),
        ({"sample_copy_rate": 0.07}, "NOT MET: copies beyond the rate of real text 0.020, at most 0.010"),
        ({"sample_truncated_rate": 0.5}, "50.0% of the samples were cut at the longest length."),
    ],
)
def test_each_threshold_can_keep_the_champion(change: dict[str, float], said: str) -> None:
    decision = decide(GOOD, GOOD | {"frozen_ppl": 95.0} | change, RULES)
    assert not decision.promote
    assert any(reason.startswith(said) for reason in decision.reasons)


@pytest.mark.parametrize("champion", [None, GOOD])
def test_what_could_not_be_checked_is_not_promoted(champion: dict[str, float] | None) -> None:
    decision = decide(champion, GOOD | {"frozen_ppl": 95.0, "sample_rows": 5}, RULES)
    assert not decision.promote
    assert decision.reasons[0] == "Not checked: the samples, of which there are too few: 5 of 100 (samples.rows)."
    assert not any("copies" in reason or "dist_2" in reason for reason in decision.reasons)


def test_nobody_has_to_be_more_diverse_than_text() -> None:
    poor = GOOD | {"sample_dist_2_equal_words": 0.8}
    decision = decide(poor, GOOD | {"frozen_ppl": 95.0}, RULES)
    assert decision.promote
    assert (
        "met: sample_dist_2_equal_words 0.300, at least 0.270 (text has 0.300; the champion has 0.800 beside 0.300)"
    ) in decision.reasons
    assert not decide(poor, GOOD | {"frozen_ppl": 95.0, "sample_dist_2_equal_words": 0.26}, RULES).promote


def test_models_measured_on_different_numbers_of_words_are_compared_beside_text_of_as_many() -> None:
    on_fewer_words = GOOD | {"sample_dist_2_equal_words": 0.6, "test_dist_2_equal_words": 0.75}
    better = GOOD | {"frozen_ppl": 95.0}
    assert decide(on_fewer_words, better | {"sample_dist_2_equal_words": 0.22}, RULES).promote
    assert not decide(on_fewer_words, better | {"sample_dist_2_equal_words": 0.21}, RULES).promote


def test_a_champion_that_was_measured_otherwise_leaves_text_to_compare_with() -> None:
    old = {name: value for name, value in GOOD.items() if not name.endswith("_equal_words")}
    decision = decide(old | {"sample_dist_2": 0.1, "test_dist_2": 0.3}, GOOD | {"frozen_ppl": 95.0}, RULES)
    assert decision.promote
    assert (
        "met: sample_dist_2_equal_words 0.300, at least 0.270 (text has 0.300; the champion was not measured on as "
        "many words as text)"
    ) in decision.reasons


def test_a_gain_may_be_asked_for() -> None:
    assert not decide(GOOD, GOOD | {"frozen_ppl": 99.0}, Thresholds(min_gain=0.02)).promote
    assert decide(GOOD, GOOD | {"frozen_ppl": 97.9}, Thresholds(min_gain=0.02)).promote


def test_families_without_codes_are_not_asked_for_them() -> None:
    plain = {name: value for name, value in GOOD.items() if name != "code_perplexity"}
    assert decide(GOOD, plain | {"frozen_ppl": 95.0}, RULES).promote


def test_divergence_is_that_of_the_closed_form() -> None:
    assert divergence(np.array([1, 0]), np.array([0, 0, 5])) == pytest.approx(math.log(2))
    assert divergence(np.array([3, 1]), np.array([6, 2])) == pytest.approx(0, abs=1e-12)
    p, q = np.array([0.75, 0.25]), np.array([0.25, 0.75])
    by_hand = 0.5 * sum(a * math.log(a / 0.5) for a in p) + 0.5 * sum(b * math.log(b / 0.5) for b in q)
    assert divergence(np.array([3, 1]), np.array([1, 3])) == pytest.approx(by_hand)
    assert divergence(np.array([0]), np.array([4])) == 0.0


def sample(seed: int, words: int, length: int) -> list[list[int]]:
    return np.random.default_rng(seed).integers(4, 4 + words, (400, length)).tolist()


def test_another_sample_of_the_same_text_has_not_drifted() -> None:
    one, two, three = (profile(sample(seed, 50, 8), sample(seed + 9, 20, 8), 3) for seed in range(3))
    found = drift(one, two, three)
    assert found.flags == ()
    assert list(found.divergences) == ["lengths", "words", "codes"]


def test_other_lengths_words_codes_and_unknown_words_are_flagged() -> None:
    old, other = (profile(sample(seed, 50, 8), sample(seed + 9, 20, 8), 3) for seed in range(2))
    unknown = [[3, *row] for row in sample(5, 30, 9)]
    found = drift(profile(unknown, sample(7, 5, 10), 3), old, other)
    assert [flag.split(":")[0] for flag in found.flags] == ["lengths", "words", "codes", "unknown words"]
    assert found.unknown_rate == pytest.approx((0.1, 0.0))


def test_models_without_codes_are_compared_without() -> None:
    old, other, new = (profile(sample(seed, 50, 8), [], 3) for seed in range(3))
    assert list(drift(new, old, other).divergences) == ["lengths", "words"]


def test_a_word_is_spelled_byte_by_byte_with_its_end() -> None:
    assert spelling_nats(["ab", "é"]) == pytest.approx(6 * math.log(256))
    assert spelling_nats([]) == 0
