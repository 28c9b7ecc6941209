"""The verdict follows from the figures, and says why."""

import pytest

from davam.data import grammar
from davam.evaluate.metrics import sample_measures
from davam.evaluate.verdict import Finding, Usefulness, counted, decide, faults
from pipelines.faithfulness import equal_diversity

GOOD = {
    "kl_nats_sum": 16.4,
    "code_perplexity": 80.0,
    "sample_unk_rate": 0.04,
    "test_unk_rate": 0.03,
    "sample_rows": 1000,
    "test_rows": 1000,
    "sample_copy_rate": 0.07,
    "test_copy_rate": 0.08,
    "sample_dist_2_equal_words": 0.30,
    "test_dist_2_equal_words": 0.31,
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
    assert verdict.reasons[1:3] == ("reason 0", "reason 1")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"ppl_bound_over_floor": 0.99}, "under the entropy floor: a counting error"),
        ({"kl_nats_sum": 0.05}, "The posterior has collapsed"),
        ({"kl_nats_sum": 3.05, "length_nats": 3.0}, "The posterior has collapsed"),
        ({"code_perplexity": 1.02}, "The codebook has collapsed: the perplexity of code use is 1.02."),
        ({"sample_unk_rate": 0.9}, "90.0% of the samples' words are <unk>; of real text's, 3.0% are."),
        (
            {"sample_grammatical_rate": 0.01},
            "The samples are hardly the language: 1.0% of them are grammatical.",
        ),
        ({"sample_copy_rate": 0.171}, r"17.1% of the samples are copies of training sentences; of unseen real"),
        (
            {"sample_dist_2_equal_words": 0.15},
            "The samples are narrow: Dist-2 is 0.150, and 0.310 of as many words of real text.",
        ),
        ({"sample_truncated_rate": 0.06}, "6.0% of the samples were cut at the longest length."),
    ],
)
def test_each_fault_alone_is_enough_whatever_else_was_found(changed: dict[str, float], reason: str) -> None:
    for findings in ([], found("helps")):
        verdict = decide(GOOD | changed, findings)
        assert verdict.decision == "do not use"
        assert len(verdict.reasons) == 1
        assert reason in verdict.reasons[0]


@pytest.mark.parametrize("findings", [[], found("no difference seen"), found("helps")], ids=["none", "same", "helps"])
def test_a_verdict_says_what_was_not_checked(findings: list[Finding]) -> None:
    assert decide(GOOD, findings).reasons[1 + len(findings) :] == (
        "Not checked: whether the samples are good sentences (text_tables.py measures their fluency).",
    )
    assert len(decide(GOOD | {"sample_grammatical_rate": 0.9}, findings).reasons) == 1 + len(findings)


def test_figures_at_the_limits_are_no_faults() -> None:
    limits = {"sample_copy_rate": 0.17, "sample_dist_2_equal_words": 0.155, "sample_truncated_rate": 0.05}
    limits |= {"kl_nats_sum": 0.1, "code_perplexity": 1.5, "sample_unk_rate": 0.11, "sample_grammatical_rate": 0.1}
    assert decide(GOOD | limits | {"ppl_bound_over_floor": 1.0}, []).decision == "keep"


def test_a_family_without_latents_cannot_collapse() -> None:
    assert decide({name: value for name, value in GOOD.items() if name != "kl_nats_sum"}, []).decision == "keep"


def test_of_too_few_samples_nothing_is_said_but_that() -> None:
    few = GOOD | {"sample_rows": 99, "sample_dist_2_equal_words": 0.01, "sample_truncated_rate": 1.0}
    assert faults(few) == []
    assert decide(few, []).reasons[1] == (
        "Not checked: the samples, of which there are too few: 99 of 100 (samples.rows)."
    )
    assert decide(few | {"sample_rows": 100}, []).decision == "do not use"


def test_with_too_little_real_text_samples_are_judged_by_themselves() -> None:
    few = GOOD | {"test_rows": 40, "sample_dist_2_equal_words": 0.01}
    assert decide(few, []).reasons[1] == (
        "Not checked: copies, diversity and unknown words, for want of real text to compare with: too few: 40 of 100."
    )
    assert len(faults(few | {"sample_truncated_rate": 1.0})) == 1


def test_figures_that_texts_are_too_few_for_say_so() -> None:
    measures = {"rec_nats": 8.5, "sample_rows": 5.0, "sample_copy_rate": 0.2, "test_rows": 99.0, "test_copy_rate": 0.1}
    few_samples, few_tests = "too few: 5 of 100", "too few: 99 of 100"
    assert counted(measures) == measures | {"sample_copy_rate": few_samples, "test_copy_rate": few_tests}
    enough = measures | {"sample_rows": 100.0, "test_rows": 100.0}
    assert counted(enough) == enough


def test_samples_without_words_are_a_fault() -> None:
    none = {name: value for name, value in GOOD.items() if name != "sample_dist_2_equal_words"}
    assert decide(none, []).reasons == ("The samples have no words.",)


def test_perfect_text_is_not_narrow_because_there_is_more_of_it() -> None:
    samples, test_texts = grammar.sample_sentences(10_000, seed=1), grammar.sample_sentences(1_000, seed=2)
    measures = equal_diversity(samples, test_texts)
    assert measures["equal_words"] == sum(len(text.split()) for text in test_texts)
    assert faults(GOOD | measures) == []
    unequal = {f"sample_{name}": getattr(sample_measures(samples, (), "<unk>"), name) for name in ("dist_1", "dist_2")}
    assert unequal["sample_dist_2"] < 0.5 * measures["test_dist_2_equal_words"]
    assert measures["sample_dist_2_equal_words"] == pytest.approx(measures["test_dist_2_equal_words"], rel=0.05)
