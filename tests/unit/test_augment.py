"""The parts of the experiment on augmentation: rows and budgets, rivals, intervals, verdicts, pages, and options."""

import argparse
import dataclasses
import json
import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from davam.augment import causal, eda, measure
from davam.augment.causal import causal_lm
from davam.augment.experiment import Ground, measured
from davam.augment.intervals import Interval, interval
from davam.augment.measure import classifier_accuracy, lengthened
from davam.augment.page import Results, findings, page, plain, sentence
from davam.augment.rows import (
    Source,
    Texts,
    drawn,
    encoder,
    listed,
    nothing,
    read_texts,
    repeated,
    subset,
    valid_rows,
    write_texts,
)
from davam.augment.study import (
    EDA,
    HELPS,
    HURTS,
    LSTM_LM,
    NO_DIFFERENCE,
    PRETRAINED,
    REAL,
    REPEAT,
    SAME_DATA,
    Cell,
    summaries,
    table,
    unbeaten,
    verdict,
)
from davam.data.artifacts import Manifest, Store
from davam.data.batches import Rows
from davam.data.labels import Labels
from davam.data.pieces import Piece
from davam.data.schemas import check
from davam.data.tokenizer import EOS_ID, TextTokenizer, count_words
from davam.errors import ArtifactError, ConfigError, DataError
from davam.evaluate.page import html, markdown
from davam.evaluate.verdict import Finding
from davam.nn.lstm import Lstm
from davam.nn.output import Softmax
from davam.recipe import load_recipe
from davam.sampling import Sampling
from pipelines import augment, conditions
from pipelines.augment import (
    Condition,
    Generator,
    check_sizes,
    for_few_rows,
    language_model_recipe,
    parsed,
    results_identity,
    study_of,
    texts_piece,
)
from pipelines.conditions import Setting
from tests.small import adamw

REAL_TEXTS = Texts(["a b c", "d e", "a a b c d", "e"], ["x", "y", "x", "y"])
TOKENIZER = TextTokenizer.fit_words(count_words(REAL_TEXTS.texts), None, 1)
ENCODE = encoder(TOKENIZER, 10, unknown=True)
WORDS = st.lists(st.sampled_from("abcdefg"), max_size=30)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(WORDS, st.integers(1, 5), st.integers(0, 99))
def test_swapping_keeps_every_word(words: list[str], count: int, seed: int) -> None:
    assert Counter(eda.swapped(words, count, random(seed))) == Counter(words)


def test_one_swap_moves_two_words() -> None:
    moved = eda.swapped(list("abcdef"), 1, random())
    assert sum(one != other for one, other in zip(moved, "abcdef", strict=True)) == 2


@given(WORDS, st.integers(1, 40), st.integers(0, 99))
def test_deleting_keeps_the_order_and_one_word(words: list[str], count: int, seed: int) -> None:
    kept = eda.deleted(words, count, random(seed))
    assert len(kept) == max(min(1, len(words)), len(words) - count)
    rest = iter(words)
    assert all(word in rest for word in kept)


@given(WORDS, st.integers(1, 5), st.integers(0, 99))
def test_inserting_adds_words_of_the_sentence(words: list[str], count: int, seed: int) -> None:
    longer = eda.inserted(words, count, random(seed))
    assert len(longer) == len(words) + (count if words else 0)
    assert set(longer) == set(words)
    rest = iter(longer)
    assert all(word in rest for word in words)


def test_a_tenth_of_the_words_is_changed_but_at_least_one() -> None:
    assert [eda.changes(words) for words in (1, 10, 26, 40)] == [1, 1, 3, 4]


def test_every_operation_occurs() -> None:
    lengths = {len(eda.altered(list("abcd"), random(seed))) for seed in range(40)}
    assert lengths == {3, 4, 5}


def test_eda_is_a_function_of_seed_and_row() -> None:
    source = eda.eda(REAL_TEXTS, 3)
    together = source(range(12))
    assert [source([row]).texts[0] for row in range(12)] == together.texts
    assert together.labels == ["x", "y"] * 6
    assert eda.eda(REAL_TEXTS, 4)(range(12)).texts != together.texts
    assert [source([row]).texts for row in (2, 6, 10)] != [source([2]).texts] * 3


def test_a_larger_subset_holds_every_smaller_one() -> None:
    assert subset(100, 10, 1) == subset(100, 60, 1)[:10]
    assert sorted(subset(100, 100, 1)) == list(range(100))
    assert subset(100, 10, 1) != subset(100, 10, 2)
    assert [valid_rows(rows) for rows in (1, 100, 4000)] == [1, 10, 400]


def one_word(rows: Sequence[int]) -> Texts:
    return Texts(["c"] * len(rows))


@pytest.mark.parametrize("source", [repeated(REAL_TEXTS), eda.eda(REAL_TEXTS, 0), one_word])
@pytest.mark.parametrize("budget_tokens", [1, 2, 14, 15, 1000])
def test_every_source_fills_the_same_budget(source: Source, budget_tokens: int) -> None:
    added = drawn(source, ENCODE, budget_tokens)
    assert sum(len(row) for row in added.tokens) == budget_tokens
    assert len(added.texts.texts) == len(added.tokens)
    assert all(row[-1] == EOS_ID and EOS_ID not in row[:-1] for row in added.tokens[:-1])
    assert ENCODE(added.texts.texts[-1:])[0][: len(added.tokens[-1])] == added.tokens[-1]


def test_a_larger_budget_begins_with_the_smaller_one() -> None:
    small, large = (drawn(repeated(REAL_TEXTS), ENCODE, budget) for budget in (9, 200))
    assert large.tokens[: len(small.tokens) - 1] == small.tokens[:-1]
    again = drawn(listed(large.texts), ENCODE, 9)
    assert again.tokens == small.tokens
    assert large.texts.take(range(4)) == REAL_TEXTS


def test_long_rows_have_no_end_and_blank_ones_are_left_out() -> None:
    assert [len(row) for row in encoder(TOKENIZER, 3, unknown=True)(["a b c", "a b c d", " "])] == [4, 3, 0]
    assert EOS_ID not in encoder(TOKENIZER, 3, unknown=True)(["a b c d"])[0]
    every_other = drawn(lambda rows: Texts(["" if row % 2 else "a" for row in rows]), ENCODE, 6)
    assert every_other.texts.texts == ["a"] * 3
    assert drawn(nothing, ENCODE, 0).tokens == []


def test_a_source_without_words_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        drawn(lambda rows: Texts([" "] * len(rows)), ENCODE, 5)
    assert str(caught.value) == (
        "rows 0 to 256 of a source are all blank or hold words that the real text does not have; leave the source out"
    )


def ground(real: Texts, test: Texts) -> Ground:
    """Small sentences to learn from and to judge by."""
    small = ["model.hidden_dim=4", "model.embed_dim=4", "stage_one.epochs=1", "data.max_tokens=10"]
    lm = load_recipe(["lstm_lm", "quick", "tiny"], small)
    return Ground(lm, TOKENIZER, Labels({"x": 2, "y": 2}), real, REAL_TEXTS, test)


def test_what_no_training_can_know_is_neither_added_nor_judged() -> None:
    held_out = Texts(["a b", "a zebra", "<unk> c", "e d"], ["x", "y", "x", "y"])
    plain = ground(REAL_TEXTS, held_out)
    assert plain.held_out("test") == Texts(["a b", "e d"], ["x", "y"])
    every_third = drawn(lambda rows: Texts(["a" if row % 3 else "a <unk>" for row in rows]), plain.encode, 6)
    assert every_third.texts.texts == ["a"] * 3
    found = measured(plain, SAME_DATA, REAL, nothing, 0.0)
    assert (found.rows_judged, found.accuracy is None) == (2, False)
    # Where the real text has such words itself, they are like any other.
    unknown = ground(Texts(["a b zebra", "c"], ["x", "y"]), held_out)
    assert unknown.held_out("test") == held_out
    assert measured(unknown, SAME_DATA, REAL, nothing, 0.0).rows_judged == 4


def test_held_out_text_of_other_words_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        ground(REAL_TEXTS, Texts(["zebra"] * 1200)).held_out("test")
    assert str(caught.value) == (
        "data.test: of 1,200 sentences that were taken each holds a word that the training text lacks; give held-out "
        "text of the same kind, or larger --sizes"
    )


def test_a_model_trained_in_bf16_is_judged_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[torch.nn.Module] = []

    def read(model: torch.nn.Module, rows: Rows) -> float:
        judged.append(model)
        return 1.0

    monkeypatch.setattr(measure, "exact_ppl", read)
    rows = Rows.from_lists(range(4), ENCODE(REAL_TEXTS.texts))
    small = ["model.hidden_dim=4", "model.embed_dim=4", "stage_one.epochs=1", "stage_one.precision=bf16"]
    measure.language_model(load_recipe(["lstm_lm", "quick", "tiny"], small), TOKENIZER.vocab_size, [rows] * 3)
    assert {part.dtype for part in judged[0].modules() if isinstance(part, Lstm | Softmax)} == {torch.float32}


def test_texts_come_back_from_a_file(tmp_path: Path) -> None:
    for texts in (REAL_TEXTS, Texts(["one\u2028line", 'quote " and \\ \t é']), Texts([])):
        write_texts(str(tmp_path / "texts.jsonl"), texts)
        assert read_texts(str(tmp_path / "texts.jsonl")) == texts


# From printed tables of Student's distribution.
@pytest.mark.parametrize(("freedom", "t"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042)])
def test_quantiles_are_those_of_the_tables(freedom: int, t: float) -> None:
    values = list(range(freedom + 1))
    found = interval(values)
    of_the_mean = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    assert (found.high - found.mean) / of_the_mean == pytest.approx(t, abs=5e-4)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_an_interval_by_hand() -> None:
    # mean 2, s = 1, t = 4.303: 2 ± 4.303 / sqrt(3)
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.high - 2 == pytest.approx(2.4843, abs=5e-4)
    assert 2 - found.low == pytest.approx(2.4843, abs=5e-4)
    assert interval([5.0]) == Interval(5.0, -math.inf, math.inf)
    assert interval([1.0, 1.0]) == Interval(1.0, 1.0, 1.0)
    assert (Interval(-1, -2, -0.1).below_zero, Interval(-1, -2, 0).below_zero) == (True, False)
    assert (Interval(1, 0.1, 2).above_zero, Interval(1, 0, 2).above_zero) == (True, False)


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    draws = random(0).standard_normal((4000, 3))
    held = [found.low < 0 < found.high for found in map(interval, draws.tolist())]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def cell(protocol: str, source: str, ratio: float, seed: int, ppl: float, accuracy: float | None = None) -> Cell:
    return Cell(protocol, source, 100, ratio, seed, ppl, accuracy, 900, round(900 * ratio), 100, 300, 50, 5, 1.0)


BEATEN = {"davam": 40, LSTM_LM: 45, EDA: 46.5, REPEAT: 48}


def cells_of(**ppl: float) -> list[Cell]:
    """Three seeds at ratio 1 of each source, with the same small scatter as without anything added."""
    found = []
    for seed, noise in enumerate((0.0, 2.0, 5.0)):
        found.append(cell(SAME_DATA, REAL, 0.0, seed, 50 + noise))
        for place, (source, value) in enumerate(ppl.items()):
            found.append(cell(SAME_DATA, source, 1.0, seed, value + noise + 0.1 * (seed == place % 3)))
    return found


def test_differences_are_paired() -> None:
    found = {each.source: each for each in summaries(cells_of(davam=40.0))}
    assert found["davam"].difference.mean == pytest.approx(-10 + 0.1 / 3)
    assert found["davam"].difference.high < -9
    assert found["davam"].ppl.high > 45  # what the seeds have in common is part of this one
    assert found[REAL].difference == Interval(0, 0, 0)


@pytest.mark.parametrize(
    ("ppl", "says", "why", "best"),
    [
        (BEATEN, HELPS, "lower than without, and than repeat, eda, lstm_lm", 1),
        (BEATEN | {"davam": 46}, NO_DIFFERENCE, "not shown to be lower than lstm_lm", 1),
        (BEATEN | {"davam": 47}, NO_DIFFERENCE, "not shown to be lower than eda, lstm_lm", 1),
        (BEATEN | {"davam": 49}, NO_DIFFERENCE, "not shown to be lower than repeat, eda, lstm_lm", 1),
        ({"davam": 40, REPEAT: 48, EDA: 46.5}, NO_DIFFERENCE, "not shown to be lower than lstm_lm", 1),
        ({"davam": 60, LSTM_LM: 65, REPEAT: 70}, HURTS, "higher than without at every ratio", 0),
        ({"davam": 50, LSTM_LM: 65, REPEAT: 70}, NO_DIFFERENCE, "at no ratio does the interval", 0),
    ],
)
def test_the_verdict_follows_from_the_intervals(ppl: dict[str, float], says: str, why: str, best: float) -> None:
    found = verdict(cells_of(**ppl), "davam", 100)
    assert (found.says, found.best_ratio) == (says, best)
    assert why in found.why


def test_the_verdict_is_on_the_same_data_alone() -> None:
    cells = cells_of(davam=60, lstm_lm=65, repeat=70)
    better = [cell(PRETRAINED, "davam", 1.0, seed, 20.0) for seed in range(3)]
    assert verdict([*cells, *better], "davam", 100).says == HURTS


def test_one_ratio_that_helps_is_enough_and_one_that_does_not_hurt_saves() -> None:
    good, bad = cells_of(**BEATEN), cells_of(davam=60, lstm_lm=65, repeat=70)
    twice = [dataclasses.replace(each, ratio=2.0) for each in bad if each.source != REAL]
    assert verdict([*good, *twice], "davam", 100).says == HELPS
    assert verdict([*good, *twice], "davam", 100).best_ratio == 1
    twice = [dataclasses.replace(each, ratio=2.0, ppl_exact=50.0) for each in bad if each.source != REAL]
    assert verdict([*bad, *twice], "davam", 100).says == NO_DIFFERENCE
    assert unbeaten(good, "davam", 100, 2.0) == [REPEAT, EDA, LSTM_LM]


def test_one_seed_says_so() -> None:
    one = [each for each in cells_of(davam=40, lstm_lm=45, repeat=48) if each.seed == 0]
    found = verdict(one, "davam", 100)
    assert (found.says, found.why) == (NO_DIFFERENCE, "one seed gives no interval; give --seeds 3 or more")
    results = Results([], one, [found])
    assert "| – |" in markdown(page(results))
    assert sentence(found).endswith("perplexity at ratio 1 against without -9.90; best ratio 1.")
    assert json.loads(json.dumps(plain(results), allow_nan=False))["verdicts"][0]["difference"]["low"] is None
    assert findings(results) == (Finding(100, 1, 1, NO_DIFFERENCE, sentence(found)),)


class Tags(HTMLParser):
    """The tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)


def test_pages_hold_every_condition_and_the_verdict() -> None:
    cells = cells_of(**BEATEN)
    results = Results(["<caption> & more"], cells, [verdict(cells, "davam", 100)])
    text, shown, values = markdown(page(results)), html(page(results)), plain(results)
    assert sentence(results.verdicts[0]) == (
        "davam on its own 100 sentences (same_data): helps; at ratio 1 lower than without, and than repeat, eda, "
        "lstm_lm; perplexity at ratio 1 against without -9.97 (95% -10.11 to -9.82); best ratio 1."
    )
    assert sentence(results.verdicts[0]) in text
    assert "| 100 | same_data | davam | 1 | 3 | 42.37 | 36.23 to 48.50 | -9.97 | -10.11 to -9.82 |" in text
    assert "accuracy" not in text
    assert "&lt;caption&gt; &amp; more" in shown
    tags = Tags()
    tags.feed(shown)
    assert (tags.seen.count("tr"), tags.seen.count("svg")) == (6, 2)
    assert not {"script", "link", "img"} & set(tags.seen)
    assert len(values["cells"]) == 15
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_every_chart_has_the_real_text_repeated() -> None:
    pretrained = [cell(PRETRAINED, "davam", 1.0, seed, 30.0 + seed) for seed in range(3)]
    charts = page(Results([], [*cells_of(**BEATEN), *pretrained], [])).charts
    assert [chart.caption for chart in charts[2:]] == [
        "repeat ends at 50.37; davam ends at 31.",
        "repeat ends at -1.967; davam ends at -21.33.",
    ]
    assert all("repeat ends at" in chart.caption for chart in charts)


def test_accuracies_are_shown_where_there_are_labels() -> None:
    cells = [cell(SAME_DATA, REAL, 0.0, seed, 50, 0.5 + seed / 10) for seed in range(3)]
    cells += [cell(SAME_DATA, "davam", 1.0, seed, 50, 0.6 + seed / 10) for seed in range(3)]
    cells += [cell(PRETRAINED, "causal_lm", 1.0, seed, 50) for seed in range(3)]
    lines = markdown(page(Results([], cells, []))).splitlines()
    assert next(line for line in lines if "size" in line).endswith("| accuracy | 95% | difference | 95% |")
    assert next(line for line in lines if "davam" in line).endswith("| +0.100 | +0.100 to +0.100 |")
    assert next(line for line in lines if "causal_lm" in line).endswith("| – | – | – | – |")
    rows = table(cells)
    check(rows.schema, "augment_cells/2", "the cells")
    assert np.isnan(rows["accuracy"].to_numpy()).sum() == 3


def test_a_classifier_finds_labels_that_words_give_away() -> None:
    numbers = random(1).integers(2, size=300).tolist()
    tokens = [[10 + label, *random(place).integers(20, 25, 4).tolist(), EOS_ID] for place, label in enumerate(numbers)]
    parts = [(0, 100), (100, 150), (150, 300)]
    rows = [Rows.from_lists(range(stop - first), tokens[first:stop], numbers[first:stop]) for first, stop in parts]
    assert classifier_accuracy(30, 2, 0, rows) > 0.95
    wrong = Rows.from_lists(range(100), tokens[:100], [1 - number for number in numbers[:100]])
    assert classifier_accuracy(30, 2, 0, [wrong, *rows[1:]]) < 0.5


def test_few_rows_get_more_epochs() -> None:
    assert lengthened(adamw(3, 32), 320, 1000).epochs == 100
    assert lengthened(adamw(3, 32), 330, 1000).epochs == 91
    assert lengthened(adamw(3, 32), 320, 0).epochs == 3


def test_what_is_counted_in_epochs_grows_with_them() -> None:
    recipe = load_recipe(["recommended", "tiny"], ["model.beta_ramp_epochs=2"])
    # 16 steps an epoch of 1,000 rows: 63 epochs instead of 7 make 1,000 steps.
    longer = for_few_rows(recipe, 1000, 1000)
    assert (longer.stage_one.epochs, longer.stage_two.epochs) == (63, 63)
    assert (longer.model.continuous_epochs, longer.model.beta_ramp_epochs) == (9, 18)
    warm = for_few_rows(load_recipe(["vae", "anneal", "tiny"]), 100, 10_000)
    before = load_recipe(["vae", "anneal", "tiny"])
    assert warm.model.kl.warmup_epochs / before.model.kl.warmup_epochs == pytest.approx(
        warm.stage_one.epochs / before.stage_one.epochs, rel=0.01
    )
    assert for_few_rows(recipe, 1_000_000, 1000) == recipe


def write_causal_lm(folder: Path, kind: str = "gpt2", **sizes: int) -> str:
    """A causal model with random weights, as transformers saves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["<end>", "\n", *"abcde"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=len(words), **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def causal_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_causal_lm(tmp_path_factory.mktemp("causal"), n_positions=128, n_embd=8, n_layer=1, n_head=2)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("bloom", {"hidden_size": 8, "n_layer": 1, "n_head": 2}),
        ("mpt", {"d_model": 8, "n_layers": 1, "n_heads": 2, "max_seq_len": 80}),
        ("mamba", {"hidden_size": 8, "num_hidden_layers": 1, "state_size": 4}),
    ],
)
def test_models_without_a_table_of_positions_write_lines(tmp_path: Path, kind: str, sizes: dict[str, int]) -> None:
    lines = causal_lm(write_causal_lm(tmp_path, kind, **sizes), REAL_TEXTS, 1)(range(20)).texts
    assert {word for line in lines for word in line.split()} == set("abcde")
    assert lines == causal_lm(str(tmp_path), REAL_TEXTS, 1)(range(20)).texts


def test_a_cache_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_causal_lm(tmp_path, "mamba", hidden_size=8, num_hidden_layers=1, state_size=4)
    lines = causal_lm(folder, REAL_TEXTS, 1)(range(20)).texts
    monkeypatch.setattr(causal, "CACHES", ())
    assert causal_lm(folder, REAL_TEXTS, 1)(range(20)).texts == lines


def test_a_prompt_is_cut_to_what_the_model_reads(tmp_path: Path) -> None:
    folder = write_causal_lm(tmp_path, n_positions=65, n_embd=8, n_layer=1, n_head=2)
    assert len(causal_lm(folder, REAL_TEXTS, 1)(range(5)).texts) == 5
    small = write_causal_lm(tmp_path, n_positions=64, n_embd=8, n_layer=1, n_head=2)
    with pytest.raises(ConfigError) as caught:
        causal_lm(small, REAL_TEXTS, 1)
    assert str(caught.value) == (
        f"--causal-lm {small}: the model reads 64 tokens, and a line may have 64 after a prompt; give a model that "
        "reads more than 64"
    )


def test_a_causal_model_writes_lines_by_seed_and_row(causal_folder: str) -> None:
    source = causal_lm(causal_folder, REAL_TEXTS, 1)
    lines = source(range(20)).texts
    assert lines == causal_lm(causal_folder, REAL_TEXTS, 1)(range(20)).texts
    assert lines != causal_lm(causal_folder, REAL_TEXTS, 2)(range(20)).texts
    assert {word for line in lines for word in line.split()} == set("abcde")
    # Two of the seven tokens end a line, so it has 2.5 words on average.
    assert 1 < np.mean([len(line.split()) for line in lines]) < 5


def test_a_folder_that_transformers_cannot_open_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        ArtifactError, match=rf"^--causal-lm {tmp_path} is not a causal language model .*another folder$"
    ):
        causal_lm(str(tmp_path), REAL_TEXTS, 0)


def write_file(uri: str, text: str) -> dict[str, float]:
    Path(uri).mkdir(parents=True)
    (Path(uri) / "file").write_text(text)
    return {"length": float(len(text))}


def test_a_piece_is_built_once_and_named_by_its_description(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    piece = Piece("part", 1, {"text": "abc"}, {"from": "f"}, partial(write_file, text="abc"))
    assert piece.find(store) is None
    built = piece.build(store)
    assert piece.find(store) == built
    assert built.metrics == {"length": 3.0}
    assert dataclasses.replace(piece, make=partial(write_file, text="other")).find(store) == built
    assert dataclasses.replace(piece, recipe={"text": "abd"}).find(store) is None


def options(*given: str) -> argparse.Namespace:
    return parsed(["--preset", "recommended,tiny,brief", "--store", "/nowhere", *given])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--seeds", "0"], "--seeds 0: give 1 or more; intervals need at least 2"),
        (["--least-steps", "-1"], "--least-steps -1: give 0 or more"),
        (["--sources", "davam,gpt"], "--sources gpt: no such source; there are davam, lstm_lm, repeat, eda, or all"),
        (["warm_start=/m"], "warm_start: a generator that begins with a model's weights has seen more; leave it out"),
        (["--sources", "causal_lm"], "--sources causal_lm: give --causal-lm, the local folder of such a model"),
        (
            ["--causal-lm", "no/such"],
            "--causal-lm no/such: no model here (no config.json); give the local folder of a Hugging Face causal "
            "language model, or leave it out",
        ),
        (["--lm", "vae"], "--lm vae: a vae does not measure text here; give lstm_lm and layers"),
        (["--preset", "lstm_lm,tiny"], "model.kind=lstm_lm: that is the rival of every other model; choose another"),
    ],
)
def test_what_is_refused_says_what_to_do(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study_of(options(*given))
    assert str(caught.value).startswith(message)


def test_options_are_put_in_order_and_nothing_is_always_among_the_ratios() -> None:
    study = study_of(options("--sizes", "20,10,20", "--ratios", "2,0.5", "seed=7"))
    assert (study.sizes, study.ratios, study.seeds) == ((10, 20), (0.0, 0.5, 2.0), (7, 8, 9))
    assert list(study.protocols) == [
        (SAME_DATA, "davam"),
        (PRETRAINED, "davam"),
        (SAME_DATA, "lstm_lm"),
        (PRETRAINED, "lstm_lm"),
        (SAME_DATA, "repeat"),
        (SAME_DATA, "eda"),
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--sizes", "0"), "argument --sizes: 0: give numbers of at least 1 by commas"),
        (("--sizes", "10,many"), "argument --sizes: many: give numbers of at least 1 by commas"),
        (("--ratios", "1,-0.5"), "argument --ratios: -0.5: give numbers of at least 0.0 by commas"),
        (("--ratios", "nan"), "argument --ratios: nan: give numbers of at least 0.0 by commas"),
    ],
)
def test_numbers_out_of_range_are_refused(
    given: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        options(*given)
    assert message in capsys.readouterr().err


def test_the_language_model_has_the_data_and_sizes_of_the_model_in_question() -> None:
    recipe = load_recipe(["recommended", "snli"], ["data.root=there"])
    lm = language_model_recipe("lstm_lm,quick", recipe)
    assert (lm.model.kind, lm.model.embed_dim, lm.model.hidden_dim) == ("lstm_lm", 128, 512)
    assert (lm.data, lm.tokenizer) == (recipe.data, recipe.tokenizer)
    assert lm.model == load_recipe(["lstm_lm", "quick", "snli"]).model


def test_sizes_beyond_the_corpus_are_refused_before_any_training() -> None:
    from davam.data.artifacts import FileEntry

    files = tuple(FileEntry(split, 0, "", rows, split) for split, rows in (("train", 300), ("valid", 9), ("test", 9)))
    tokens = Manifest("tokens", "f", 1, "a", "", {}, {}, files, {"words": 404}, {}, {})
    check_sizes(study_of(options("--sizes", "300")), tokens)
    with pytest.raises(DataError) as caught:
        check_sizes(study_of(options("--sizes", "10,301", "--sources", "eda")), tokens)
    assert str(caught.value) == "--sizes 301: the corpus has 300 training sentences; ask for fewer, or add text"
    with pytest.raises(DataError, match=r"^200 training sentences for 256 codes: every code needs several"):
        check_sizes(study_of(options("--sizes", "200")), tokens)
    classes = options("--sizes", "300", "--preset", "davam_class,tiny", "model.codebook_size=512")
    with pytest.raises(DataError, match=r"^401 words for 512 codes: every code needs a word"):
        check_sizes(study_of(classes), tokens)
    untested = dataclasses.replace(tokens, files=files[:2])
    with pytest.raises(DataError, match=r"^no test sentences: give data.valid and data.test"):
        check_sizes(study_of(options("--sizes", "300")), untested)


def test_rows_of_a_table_keep_their_order() -> None:
    cells = cells_of(davam=40)
    assert isinstance(table(cells), pa.Table)
    assert table(cells)["source"].to_pylist() == [each.source for each in cells]


def sampled(*overrides: str) -> Condition:
    """A cell of sentences that a recipe's generator draws."""
    recipe = load_recipe(["recommended", "tiny"], list(overrides))
    return dataclasses.replace(condition(), generator=Generator("g", recipe))


def test_sentences_are_drawn_as_the_recipe_says() -> None:
    warm, asis = sampled("samples.sampling.decoder.temperature=0.7"), sampled()
    study, uris = study_of(options()), {"g": "/model"}
    texts = [texts_piece(study, each, uris) for each in (warm, asis)]
    makes = [each.make for each in texts if isinstance(each.make, partial)]
    assert [make.keywords["sampling"].decoder.temperature for make in makes] == [0.7, 1.0]
    assert texts[0].fingerprint != texts[1].fingerprint
    assert warm.piece().fingerprint != asis.piece().fingerprint == condition().piece().fingerprint


def test_samples_of_a_model_follow_the_sampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        """Says how it was asked."""

        def sample_ids(self, ids: Sequence[int], *, seed: int, sampling: Sampling) -> Texts:
            return Texts([f"a{' a' * (sampling.min_length - 1)}"] * len(ids))

    class Room:
        """A budget of ten tokens."""

        encode = staticmethod(ENCODE)

        def budget_tokens(self, ratio: float) -> int:
            return 10

    monkeypatch.setattr("davam.api.load", lambda uri: Model())
    monkeypatch.setattr(Setting, "ground", lambda self: Room())
    tmp_path.mkdir(exist_ok=True)
    conditions.sample(str(tmp_path), condition().setting, "/model", Sampling(min_length=4), 1.0)
    assert read_texts(str(tmp_path / "texts.jsonl")).texts == ["a a a a"] * 2


def test_the_caption_says_what_the_intervals_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "read_tokenizer", lambda store, tokens: TOKENIZER)
    monkeypatch.setattr(augment, "split_rows", lambda tokens, split: 9)
    tokens = Manifest("tokens", "f", 1, "a", "", {}, {}, (), {}, {}, {})
    study = study_of(options("--preset", "recommended,tiny", "stage_one.epochs=3", "stage_two.epochs=2"))
    cells = [dataclasses.replace(each, rows_judged=7 + each.seed % 2) for each in cells_of(**BEATEN)]
    _, protocols, judged, *_ = augment.caption(study, tokens, cells)
    assert "There one generator serves all seeds" in protocols
    assert protocols.endswith(" of each of their trainings: `davam` 3 + 2; `lstm_lm` 20.")
    assert judged.startswith("Judged on 7 or 8 of 9 real test sentences by `ppl_exact`")


def condition(tokens: str = "t", subset: str = "s", generator: str = "g", *overrides: str) -> Condition:
    """A cell of a generator's sentences on made-up artifacts."""
    text, part = (
        Manifest(name, mark, 1, "a", "", {}, {}, (), {}, {}, {}) for name, mark in (("a", tokens), ("b", subset))
    )
    lm = load_recipe(["lstm_lm", "quick", "tiny"], list(overrides))
    return Condition(Setting("/nowhere", text, part, lm), SAME_DATA, "davam", 1.0, Generator(generator, None))


def test_results_of_other_corpora_models_and_seeds_have_another_place() -> None:
    same = [results_identity([condition()]) for _ in range(2)]
    others = [
        condition(tokens="u"),
        condition(subset="u"),
        condition(generator="h"),
        condition("t", "s", "g", "model.hidden_dim=32"),
        condition("t", "s", "g", "stage_one.epochs=99"),
        condition("t", "s", "g", "seed=1"),
    ]
    assert same[0] == same[1]
    assert len({same[0], *(results_identity([each]) for each in others)}) == 1 + len(others)
