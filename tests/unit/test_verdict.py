"""The verdict follows from the figures, and says why."""

import pytest

from davam.evaluate.verdict import Finding, Usefulness, decide

GOOD = {
    "kl_nats_sum": 16.4,
    "sample_copy_rate": 0.07,
    "test_copy_rate": 0.08,
    "sample_dist_2": 0.30,
    "test_dist_2": 0.31,
    "sample_truncated_rate": 0.0,
    "ppl_bound_over_floor": 1.04,
}


def found(*says: Usefulness) -> list[Finding]:
    """What was found at one size after the other."""
    return [Finding(1000 * place, 3, 4, each, f"reason {place}") for place, each in enumerate(says)]


def test_a_run_without_faults_is_kept_until_its_text_is_shown_to_help() -> None:
    assert decide(GOOD, []).decision == "keep"
    assert "augment.py" in decide(GOOD, []).reasons[0]
    assert decide(GOOD, found("no difference seen")).decision == "keep"
    assert decide(GOOD, found("helps")).decision == "promote"
    assert decide(GOOD, found("hurts")).decision == "do not use"


@pytest.mark.parametrize(
    ("says", "decision", "first"),
    [
        (("helps", "no difference seen"), "promote", "trained with such text added did better on real text."),
        (("hurts", "no difference seen"), "do not use", "trained with such text added did worse on real text."),
        (("helps", "hurts"), "keep", "No fault was found, but its text helps at one size and hurts at another."),
        (("no difference seen",) * 2, "keep", "adding its text made no difference that could be seen."),
    ],
)
def test_every_size_counts_and_is_among_the_reasons(says: tuple[Usefulness, ...], decision: str, first: str) -> None:
    verdict = decide(GOOD, found(*says))
    assert verdict.decision == decision
    assert verdict.reasons[0].endswith(first)
    assert verdict.reasons[1:] == ("reason 0", "reason 1")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"ppl_bound_over_floor": 0.99}, "under the entropy floor: a counting error"),
        ({"kl_nats_sum": 0.05}, "The posterior has collapsed"),
        ({"kl_nats_sum": 3.05, "length_nats": 3.0}, "The posterior has collapsed"),
        ({"sample_copy_rate": 0.171}, r"17.1% of the samples are copies of training sentences; of unseen real"),
        ({"sample_dist_2": 0.15}, "The samples are narrow: Dist-2 is 0.150, and 0.310 of real text."),
        ({"sample_truncated_rate": 0.06}, "6.0% of the samples were cut at the longest length."),
    ],
)
def test_each_fault_alone_is_enough_whatever_else_was_found(changed: dict[str, float], reason: str) -> None:
    for findings in ([], found("helps")):
        verdict = decide(GOOD | changed, findings)
        assert verdict.decision == "do not use"
        assert len(verdict.reasons) == 1
        assert reason in verdict.reasons[0]


def test_figures_at_the_limits_are_no_faults() -> None:
    limits = {"sample_copy_rate": 0.17, "sample_dist_2": 0.155, "sample_truncated_rate": 0.05, "kl_nats_sum": 0.1}
    assert decide(GOOD | limits | {"ppl_bound_over_floor": 1.0}, []).decision == "keep"


def test_a_family_without_latents_cannot_collapse() -> None:
    assert decide({name: value for name, value in GOOD.items() if name != "kl_nats_sum"}, []).decision == "keep"
