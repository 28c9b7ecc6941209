"""Points, matched diversity, cells and pages of Tables III, IV and V; and the settings that their program takes."""

import argparse
import json
import math
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest

from davam.data.artifacts import write_table
from davam.data.schemas import SCHEMAS
from davam.data.tokenizer import UNK_ID, TextTokenizer
from davam.errors import ArtifactError, ConfigError
from davam.evaluate.judge import Costs
from davam.evaluate.page import html, markdown
from davam.evaluate.paper import paper_figures, paper_generated, paper_generated_rec, paper_shown
from davam.evaluate.text_tables import (
    DIVERSITY,
    FLUENCY,
    REAL,
    Point,
    Setting,
    TextRow,
    TextTables,
    curves,
    matched,
    measured,
    page,
    sections,
    to_json,
)
from davam.families import family_of
from davam.recipe import load_recipe
from pipelines.draws import _id_blocks, real_stage, sampling_of, strung
from pipelines.judge import JUDGE, tokenizer_and_texts
from pipelines.stage import require
from pipelines.table_two import ROWS, open_row
from pipelines.text_tables import (
    judge_source,
    open_judge,
    parsed,
    real_texts_beside,
    require_settings,
    settings_of,
)
from pipelines.tokens import TOKENS

HOSTILE = "<script>a</script> | b"


def options(*given: str) -> argparse.Namespace:
    """The parsed options."""
    return parsed(["--store", "/nowhere", *given])


def point(temperature: float, dist_2: float, nats: float) -> Point:
    """A point of the sweep."""
    measures = {"dist_2": dist_2, FLUENCY[0]: nats}
    absent = {name: "not of this test" for name in (*FLUENCY, *DIVERSITY) if name not in measures}
    return Point(Setting("temperature", temperature, 9), 9, measures, absent, [])


def row(name: str, text: str = "a b") -> TextRow:
    """A row with a point of length 2 and one of temperature 1."""
    texts, costs = [text, "b c"], Costs(np.array([4.0, 6.0]), np.array([2, 3]), np.zeros(2))
    settings = (Setting("length", 2, 2), Setting("temperature", 1.0, 2))
    return TextRow(name, [measured(setting, texts, costs, ["a b"]) for setting in settings], 10.5)


class TestPoints:
    def test_by_hand(self) -> None:
        found = measured(
            Setting("length", 2, 2),
            ["a b", "b c"],
            Costs(np.array([4.0, 9.0]), np.array([2, 3]), np.array([0, 1])),
            ["a d"],
        )
        assert {name: found.measures[name] for name in FLUENCY} == {
            "judge_nats_per_token": 2.5,
            "judge_nats_per_token_std": 0.5,
            "judge_ppl": pytest.approx(math.exp(13 / 5)),
            "judge_nats_per_word": 13 / 4,
            "judge_unknown_rate": 1 / 5,
        }
        assert (found.measures["dist_1"], found.measures["vocabulary_types"]) == (3 / 4, 1 / 2)
        assert [shown.nats_per_token for shown in found.shown] == [2.0, 3.0]
        assert not found.absent

    def test_diversity_of_fewer_texts_than_asked_for_is_absent(self) -> None:
        found = measured(Setting("length", 2, 3), ["a b"], Costs(np.array([4.0]), np.array([2]), np.zeros(1)), ["a"])
        assert found.absent == dict.fromkeys(DIVERSITY, "1 of 3 texts") | {
            "judge_nats_per_token_std": "1 text has no deviation"
        }
        assert found.measures["judge_nats_per_token"] == 2.0

    def test_texts_of_free_length_compare_by_so_many_words(self) -> None:
        texts, costs = ["a b c d e f g", "a a a"], Costs(np.ones(2), np.ones(2), np.zeros(2))
        found = measured(Setting("temperature", 1.0, 2), texts, costs, [])
        assert found.measures["dist_1"] == 7 / 10
        found = measured(Setting("temperature", 1.0, 2), ["a b", "c"], costs, [])
        assert found.absent["dist_1"] == "3 of 10 words"

    def test_where_nothing_is_judged_it_is_said(self) -> None:
        none = measured(Setting("length", 5, 2), [], Costs(*[np.zeros(0)] * 3), ["a"])
        assert set(none.absent) == {*FLUENCY, *DIVERSITY}
        assert none.absent["judge_ppl"] == "0 texts, none of which has a word that is judged"


class TestMatched:
    def test_between_points(self) -> None:
        points = [point(0.5, 0.2, 3.0), point(1.0, 0.6, 5.0), point(0.8, 0.4, 3.5)]
        assert matched(points, "dist_2", 0.6) == 5.0
        assert matched(points, "dist_2", 0.3) == pytest.approx(3.25)

    def test_outside_of_the_points_there_is_none(self) -> None:
        points = [point(0.5, 0.2, 3.0), point(1.0, 0.6, 5.0)]
        assert matched(points, "dist_2", 0.61) is None
        assert matched(points, "dist_2", 0.19) is None
        assert matched(points, "entropy_nats", 1.0) is None

    def test_the_whole_curve_stands_beside_the_language_models(self) -> None:
        real = TextRow(REAL, [point(1.0, 0.5, 3.0)])
        model = TextRow("lstm_lm", [point(0.5, 0.2, 3.0), point(1.0, 0.6, 5.0)])
        other = TextRow("davam_512", [point(0.5, 0.4, 4.0), point(1.0, 0.6, 4.5)])
        table = sections(TextTables("T", [], [real, model, other, TextRow("gavam")]))[4]
        heads = ("row", "at that of real test text", "at that of lstm_lm at 0.5", "at that of lstm_lm at 1")
        assert table.columns == heads
        assert table.rows[:3] == [
            ["Dist-2", "0.500", "0.200", "0.600"],
            ["lstm_lm", "4.50", "3.00", "5.00"],
            ["davam_512", "4.25", "–", "4.50"],
        ]


class TestPages:
    def test_the_papers_figures_stand_beside_ours(self) -> None:
        fluency = sections(TextTables("T", [], [TextRow("gavam", [row("gavam").points[0]])]))[1]
        assert fluency.rows[0][4] == "–"  # it has none of length 2
        lengths = TextRow("gavam", [measured(Setting("length", 10, 9), [], Costs(*[np.zeros(0)] * 3), [])])
        cells = sections(TextTables("T", [], [lengths]))
        assert "7.32 ± 1.64" in cells[1].rows[0]
        assert cells[1].rows[0][-1] == "350.14"
        assert {"4.78", "0.288", "0.724"} <= set(cells[2].rows[0])

    def test_rows_of_one_length_stand_together(self) -> None:
        def lengths(name: str) -> TextRow:
            costs = Costs(np.array([4.0]), np.array([2]), np.zeros(1))
            return TextRow(name, [measured(Setting("length", of, 1), ["a b"], costs, ["a"]) for of in (20, 10)])

        for table in sections(TextTables("T", [], [lengths(REAL), lengths("lstm_lm"), lengths("davam_512")]))[1:3]:
            assert [row[:2] for row in table.rows] == [
                [name, length] for length in ("10", "20") for name in (REAL, "lstm_lm", "davam_512")
            ]

    def test_a_row_that_did_not_run_is_said_to_be_missing(self) -> None:
        assert "| gavam | not run |" in markdown(page(TextTables("T", ["c"], [TextRow("gavam"), row(REAL)])))

    def test_the_page_escapes_everything_and_loads_nothing(self) -> None:
        shown = html(page(TextTables(HOSTILE, [HOSTILE], [row(HOSTILE, HOSTILE)])))
        assert "<script" not in shown
        assert "&lt;script&gt;a&lt;/script&gt; | b" in shown
        assert "http" not in shown.replace("http-equiv", "")

    def test_a_bar_in_a_text_does_not_end_a_cell(self) -> None:
        assert "| 2 | <script>a</script> \\| b | 2.00 |" in markdown(page(TextTables("T", [], [row("vae", HOSTILE)])))

    def test_the_twin_has_the_figures_and_the_papers(self) -> None:
        measured_row = row("gavam")
        ten = measured(Setting("length", 10, 2), [], Costs(*[np.zeros(0)] * 3), [])
        twin = json.loads(to_json(TextTables("T", ["c"], [TextRow("gavam", [*measured_row.points, ten], 1.0)])))
        assert twin["rows"][0]["points"][0]["measures"] == dict(measured_row.points[0].measures)
        assert twin["rows"][0]["paper"] == {"10": paper_generated("gavam", 10)}

    def test_a_curve_has_a_line_a_model(self) -> None:
        swept = TextRow("davam_512", [point(0.5, 0.2, 3.0), point(1.0, 0.6, 5.0)])
        drawn = curves(TextTables("T", [], [swept, TextRow("gavam")]))
        assert drawn[0].series == {"davam_512": [(0.2, 3.0), (0.6, 5.0)]}
        assert drawn[1].series == {}


def test_the_papers_figures() -> None:
    assert paper_generated("davam_512", 50) == {
        "judge_nats_per_token": 5.55,
        "judge_nats_per_token_std": 0.97,
        "entropy_nats": 5.33,
        "dist_1": 0.173,
        "dist_2": 0.611,
    }
    assert set(paper_generated("vae_pretraining_fbp", 10)) == {"entropy_nats", "dist_1", "dist_2"}
    assert paper_generated("davam_128", 10) == paper_generated("gavam", 11) == {}
    assert paper_shown("vae_attn") == (8.83, 7.16, 5.01)
    # Where Tables II and IV have the same row of Yahoo, they agree.
    for name in ("gavam", "davam_512"):
        assert paper_generated_rec(name) == paper_figures("yahoo", name)["rec_nats"]


class TestSettings:
    def test_lengths_beyond_the_corpus_are_left_out(self) -> None:
        assert require_settings(options(), open_row("vae", options())) == (10, 20, 30)
        with pytest.raises(ConfigError, match=r"^--lengths: none is at most data.max_tokens=32; give shorter ones$"):
            require_settings(options("--lengths", "40,50"), open_row("vae", options()))

    def test_what_cannot_be_is_refused(self) -> None:
        row = open_row("vae", options())
        for given, message in (
            (("--sentences", "0"), "--sentences 0: give at least 1"),
            (("--curve-sentences", "-1"), "--curve-sentences -1: give at least 1"),
        ):
            with pytest.raises(ConfigError) as caught:
                require_settings(options(*given), row)
            assert str(caught.value) == message

    def test_real_text_covers_texts_that_it_was_not_drawn_from(self, tmp_path: Path) -> None:
        run = open_row("vae", parsed(["--store", str(tmp_path)])).run
        attempt = run.store.new_attempt("tokens", TOKENS.fingerprint(run.recipe))
        tokenizer = TextTokenizer.fit_words({f"word{place}": 9 - place for place in range(6)}, None, 1)
        tokenizer.save(f"{attempt.uri}/tokenizer")
        texts = [f"word{place}" for place in range(6)]
        tokens = [[4 + place, UNK_ID, 2] for place in range(6)]
        columns = {"id": range(6), "tokens": tokens, "length": [2, 3, 2, 3, 2, 3], "text": texts}
        write_table(f"{attempt.uri}/split=test/a.parquet", pa.table(columns).cast(SCHEMAS["tokens/1"]))
        run.store.commit(attempt, version=1, recipe={}, inputs={}, counts={}, metrics={}, provenance={})
        settings = [Setting("length", 2, 2), Setting("temperature", 1.0, 3), Setting("temperature", 0.5, 3)]
        beside = real_texts_beside(run, settings)
        assert beside[0] == ["word0", "word2", "word4", "word5"]
        assert beside[1] == beside[2] == ["word1", "word3", "word5"]
        real = run.store.new_attempt("real", "f" * 64)
        real_stage(settings).build(run, {"tokens": require(TOKENS, run, JUDGE)}, real)
        drawn = real.read_table("draws/1").to_pylist()
        for number, others in enumerate(beside):
            taken = [row["text"] for row in drawn if row["setting"] == number]
            assert sorted([*taken, *others]) == texts

    def test_strung_text_is_whole_sentences_and_a_cut_one(self) -> None:
        assert strung([[1, 2], [3], [4, 5, 6], [7]], 3, 9) == [[1, 2, 3], [4, 5, 6]]
        assert strung([[1, 2], [3, 4], [5], [6, 7]], 3, 1) == [[1, 2, 3]]
        assert strung([[1, 2]], 3, 1) == []

    def test_no_two_settings_share_a_row(self) -> None:
        blocks = _id_blocks([Setting("length", 10, 5), Setting("length", 20, 3)], 2)
        assert [block["id"].to_pylist() for block in blocks] == [[0, 1], [2, 3], [4], [5, 6], [7]]
        assert [block["setting"].to_pylist() for block in blocks] == [[0, 0], [0, 0], [0], [1, 1], [1]]

    def test_temperature_one_is_always_there_and_alone_without_a_sweep(self) -> None:
        given = options("--temperatures", "0.5", "--curve-sentences", "7", "--sentences", "3")
        swept = settings_of(open_row("davam_512", given), (10,), given)
        assert swept == [Setting("length", 10, 3), Setting("temperature", 0.5, 7), Setting("temperature", 1.0, 7)]
        for row in (None, open_row("gavam", given)):
            assert settings_of(row, (10,), given) == [Setting("length", 10, 3), Setting("temperature", 1.0, 7)]

    def test_every_row_with_codes_is_swept(self) -> None:
        given = options("--temperatures", "0.5")
        for name in ("davam_q", "davam_joint", "davam_class", "davam_exact_512", "dvae", "daps", "transformer_lm"):
            row = open_row(name, given)
            settings = settings_of(row, (), given)
            assert [setting.value for setting in settings] == [0.5, 1.0]
            family = family_of(row.run.recipe.model)
            family.check_sampling(Mock(kind=family.kind), sampling_of(settings[0], row.run.recipe))

    def test_the_rows_by_default_are_those_of_the_papers_tables(self) -> None:
        tables = {name for name in ROWS if paper_shown(name) or paper_generated(name, 10)}
        assert tables <= set(options().rows.split(","))

    def test_a_temperature_is_the_priors_too_where_there_is_one(self) -> None:
        warm = Setting("temperature", 0.7, 1)
        sampling = sampling_of(warm, load_recipe(["recommended"]))
        assert (sampling.prior.temperature, sampling.decoder.temperature) == (0.7, 0.7)
        sampling = sampling_of(warm, load_recipe(["lstm_lm"]))
        assert (sampling.prior.temperature, sampling.decoder.temperature) == (1.0, 0.7)
        exact = sampling_of(Setting("length", 20, 1), load_recipe(["lstm_lm"]))
        assert (exact.min_length, exact.max_length) == (20, 20)


class TestJudges:
    def test_the_own_judge_knows_the_words_that_it_has_read_twice(self, tmp_path: Path) -> None:
        run = open_row("lstm_lm", parsed(["--store", str(tmp_path)])).run
        attempt = run.store.new_attempt("tokens", "a" * 64)
        texts = [f"word{place // 2} rare{place} word{place // 2}" for place in range(40)]
        columns = {"id": range(40), "tokens": [[4, 2]] * 40, "length": [2] * 40, "text": texts}
        write_table(f"{attempt.uri}/split=valid/a.parquet", pa.table(columns).cast(SCHEMAS["tokens/1"]))
        run.store.commit(attempt, version=1, recipe={}, inputs={}, counts={}, metrics={}, provenance={})
        manifest = run.store.find("tokens", "a" * 64)
        task = Mock(recipe=run.recipe, execution=run.execution, inputs={"tokens": manifest})
        tokenizer, splits = tokenizer_and_texts(task)
        assert sorted([*splits["train"], *splits["valid"]]) == sorted(texts)
        assert splits["valid"]
        known = {word for text in splits["train"] for word in text.split() if word.startswith("word")}
        assert set(tokenizer.words()[4:]) == known

    def test_the_own_judge_follows_the_text_alone(self) -> None:
        plain = options("--epochs", "3", "data.train_rows=500")
        changed = options("--epochs", "9", "data.train_rows=500", "model.dropout=0.1", "stage_one.batch_rows=8")
        identities = [
            JUDGE.fingerprint(open_judge(given, open_row("lstm_lm", given).run).recipe) for given in (plain, changed)
        ]
        assert identities[0] == identities[1]
        other = options("data.train_rows=501")
        assert JUDGE.fingerprint(open_judge(other, open_row("lstm_lm", other).run).recipe) != identities[0]

    def test_one_that_is_not_there_names_its_place_and_the_way_to_fetch_it(self) -> None:
        with pytest.raises(ArtifactError, match=r"^--judge /no/judge: no folder .* without --judge-download: add that"):
            judge_source("/no/judge", False)
