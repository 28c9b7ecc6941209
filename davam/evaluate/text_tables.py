"""The paper's Tables III, IV and V and the trade of fluency for diversity, as Markdown, as a page and as JSON.

A point is what texts of one length, or drawn at one temperature, came to; a row has a point for each setting.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from davam.evaluate.charts import Curve, curve_chart
from davam.evaluate.diversity import diversity
from davam.evaluate.judge import Costs, fluency
from davam.evaluate.page import Page, PageTable
from davam.evaluate.paper import paper_generated, paper_generated_rec, paper_shown
from davam.evaluate.report import Section
from davam.evaluate.table import NOT_RUN

REAL, STRUNG, REFERENCE = "real test text", "real, strung and cut", "lstm_lm"
PAPER = "paper: GPT-2, Yahoo"
NONE = "–"
TRADE = "Fluency against diversity"
FLUENCY = ("judge_nats_per_token", "judge_nats_per_token_std", "judge_ppl", "judge_nats_per_word", "judge_unknown_rate")
DIVERSITY = (
    "entropy_nats",
    "dist_1",
    "dist_2",
    "sentence_dist_1",
    "sentence_dist_2",
    "self_bleu",
    "vocabulary_types",
    "vocabulary_mass",
)
SHOWN = 3  # samples that a point keeps
PRICES = (("judge_ppl", 2), ("judge_nats_per_word", 2), ("judge_unknown_rate", 3))  # and their digits in a cell
COMPARED_WORDS = 5  # a text: of so many words in all, texts of any length are compared


@dataclass(frozen=True)
class Setting:
    """Texts of one length in tokens, or drawn at one temperature whatever their length, and how many."""

    kind: Literal["length", "temperature"]
    value: float
    sentences: int


@dataclass(frozen=True)
class Shown:
    """A text and its nats a token; None where nothing of it is judged."""

    text: str
    nats_per_token: float | None


@dataclass(frozen=True)
class Point:
    """The measures of a setting's texts under the names of `Fluency` and `Diversity`, and why others are absent."""

    setting: Setting
    sentences: int
    measures: Mapping[str, float]
    absent: Mapping[str, str]
    shown: Sequence[Shown]


@dataclass(frozen=True)
class TextRow:
    """A model of the tables, or real text. Without points it did not run."""

    name: str
    points: Sequence[Point] = ()
    rec_nats: float | None = None

    def of_kind(self, kind: str) -> list[Point]:
        """The points of that kind, in their order."""
        return [point for point in self.points if point.setting.kind == kind]


@dataclass(frozen=True)
class TextTables:
    """The rows, and what a reader must know of how they came about."""

    title: str
    caption: Sequence[str]
    rows: Sequence[TextRow]


def measured(setting: Setting, texts: Sequence[str], costs: Costs, real_texts: Sequence[str]) -> Point:
    """The point of a setting's texts with these costs.

    Diversity is that of as many texts as were asked for or, where their length is free, of as many words for every
    model; else it is absent: of fewer, it would be another quantity.
    """
    measures: dict[str, float] = {}
    absent: dict[str, str] = {}
    if (costs.tokens_N > 0).any():
        found = dataclasses.asdict(fluency(costs, texts))
        measures |= {name: found[name] for name in FLUENCY}
        if found["texts"] < 2:
            del measures["judge_nats_per_token_std"]
            absent["judge_nats_per_token_std"] = "1 text has no deviation"
    else:
        absent |= dict.fromkeys(FLUENCY, f"{len(texts)} texts, none of which has a word that is judged")
    if len(texts) == setting.sentences:
        words = COMPARED_WORDS * setting.sentences if setting.kind == "temperature" else None
        varied = diversity(texts, real_texts, words)
        measures |= varied.measures
        absent |= varied.absent
    else:
        absent |= dict.fromkeys(DIVERSITY, f"{len(texts)} of {setting.sentences} texts")
    pairs = zip(texts[:SHOWN], costs.nats_N, costs.tokens_N, strict=False)
    shown = [Shown(text, float(nats / tokens) if tokens else None) for text, nats, tokens in pairs]
    return Point(setting, len(texts), measures, absent, shown)


def matched(points: Sequence[Point], measure: str, target: float) -> float | None:
    """The judge's nats a token where the points' measure has the target, by lines from point to point; nothing when the
    target is outside of what the points span."""
    known = [point.measures for point in points if measure in point.measures and FLUENCY[0] in point.measures]
    pairs = sorted((found[measure], found[FLUENCY[0]]) for found in known)
    if not pairs or not pairs[0][0] <= target <= pairs[-1][0]:
        return None
    x, y = zip(*pairs, strict=True)
    return float(np.interp(target, x, y))


def sections(tables: TextTables) -> list[PageTable]:
    """The four tables, and models at matched diversity."""
    return [_samples(tables), _fluency(tables), _diversity(tables), _trade(tables), _matched(tables)]


def curves(tables: TextTables) -> list[Curve]:
    """The judge's nats against each measure of diversity, a line a model from the lowest temperature to the highest."""
    drawn = []
    for measure, title in (("dist_2", "Dist-2"), ("entropy_nats", "entropy"), ("self_bleu", "self-BLEU")):
        lines = {
            row.name: [
                (point.measures[measure], point.measures[FLUENCY[0]])
                for point in row.of_kind("temperature")
                if measure in point.measures and FLUENCY[0] in point.measures
            ]
            for row in tables.rows
        }
        lines = {name: points for name, points in lines.items() if points}
        drawn.append(Curve(f"Fluency against {title}", measure, "judge nats per token", lines))
    return drawn


def report_sections(tables: TextTables) -> list[Section]:
    """The tables as sections of the report on the corpus, the charts with that of the temperatures."""
    found = []
    for table in sections(tables):
        drawn = curves(tables) if table.title == TRADE else []
        found.append(Section(table.title, " ".join(table.notes), table.columns, table.rows, drawn, (), tables.caption))
    return found


def page(tables: TextTables) -> Page:
    """All tables and the charts."""
    charts = [curve_chart(curve, f"trade{index}") for index, curve in enumerate(curves(tables))]
    return Page(tables.title, tables.caption, sections(tables), charts=charts)


def to_json(tables: TextTables) -> str:
    """The figures as JSON, the paper's among them."""
    plain: dict[str, Any] = dataclasses.asdict(tables)
    for row in plain["rows"]:
        lengths = [point["setting"]["value"] for point in row["points"] if point["setting"]["kind"] == "length"]
        paper = {str(int(length)): paper_generated(row["name"], int(length)) for length in lengths}
        row["paper"] = {length: figures for length, figures in paper.items() if figures}
    return json.dumps(plain, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _samples(tables: TextTables) -> PageTable:
    rows = []
    for row in tables.rows:
        points = row.of_kind("length")
        places = sorted({0, len(points) // 2, len(points) - 1}) if points else []
        paper = paper_shown(row.name) if len(places) == 3 else ()
        for index, place in enumerate(places):
            if points[place].shown:
                shown = points[place].shown[0]
                printed = f"{paper[index]:.2f}" if paper else NONE
                rows.append(
                    [row.name, f"{points[place].setting.value:g}", shown.text, _number(shown.nats_per_token), printed]
                )
    notes = [
        "The first draw of each length, not a chosen one. The paper's figures are of its own short, medium and long."
    ]
    return PageTable(("row", "length", "text", "judge nats per token", PAPER), rows, "Table III: samples", notes)


def _fluency(tables: TextTables) -> PageTable:
    rows = []
    for row, point in _by_length(tables):
        paper = paper_generated(row.name, int(point.setting.value))
        rows.append(
            [
                row.name,
                f"{point.setting.value:g}",
                str(point.sentences),
                _with_std(point.measures),
                _with_std(paper),
                *(_cell(point, name, digits) for name, digits in PRICES),
                _number(row.rec_nats),
                _number(paper_generated_rec(row.name)),
            ]
        )
    notes = [
        "Mean and standard deviation over texts of the judge's nats a token: what the paper's table calls PPL; the "
        "standard error is the deviation by the root of the number of texts. The judge's perplexity is exp(all nats / "
        "all tokens). `judge unknown` is the share of tokens that stand for words that the judge does not know.",
        "`Rec` is the model's own, in nats a test sentence; of a model without latents, -ln p(x).",
    ]
    columns = [
        "row",
        "length",
        "texts",
        "judge nats per token",
        PAPER,
        "judge PPL",
        "judge nats per word",
        "judge unknown",
        "Rec",
        PAPER,
    ]
    return PageTable(columns, [*rows, *_not_run(tables, len(columns))], "Table IV: fluency by length", notes)


def _diversity(tables: TextTables) -> PageTable:
    rows = []
    for row, point in _by_length(tables):
        paper = paper_generated(row.name, int(point.setting.value))
        cells = [row.name, f"{point.setting.value:g}"]
        for name, digits in (("entropy_nats", 2), ("dist_1", 3), ("dist_2", 3)):
            cells += [_cell(point, name, digits), f"{paper[name]:.{digits}f}" if name in paper else NONE]
        rows.append([*cells, *(_cell(point, name, 3) for name in DIVERSITY[3:])])
    columns = ["row", "length", "Ent", PAPER, "Dist-1", PAPER, "Dist-2", PAPER, *map(_head, DIVERSITY[3:])]
    notes = [
        "Ent, in nats, Dist-1 and Dist-2 are of all texts of a line as one list of words. They grow or fall with the "
        "number of words, so lines compare at one length and one number of texts.",
        "The vocabulary covered is that of the test texts that are not in the line of real text of that length: their "
        "different words, and all their words, of those that the models know.",
    ]
    return PageTable(columns, [*rows, *_not_run(tables, len(columns))], "Table V: diversity by length", notes)


def _trade(tables: TextTables) -> PageTable:
    names = ("entropy_nats", "dist_1", "dist_2", "self_bleu", "vocabulary_types", "vocabulary_mass")
    rows = []
    for row in tables.rows:
        for point in row.of_kind("temperature"):
            temperature = NONE if row.name == REAL else f"{point.setting.value:g}"
            fluent = [_with_error(point), *(_cell(point, name, digits) for name, digits in PRICES)]
            rows.append([row.name, temperature, str(point.sentences), *fluent, *(_cell(point, n, 3) for n in names)])
    columns = [
        "row",
        "temperature",
        "texts",
        "judge nats per token",
        "judge PPL",
        "judge nats per word",
        "judge unknown",
        *map(_head, names),
    ]
    notes = [
        "Texts of any length. The temperature is the decoder's and, where there is one, the prior's. The nats a token "
        "are the mean over texts and its standard error.",
        f"Ent, Dist and the vocabulary covered are of a line's first words, {COMPARED_WORDS} a text: the same number "
        "for every line, whatever the lengths of its texts.",
    ]
    return PageTable(columns, [*rows, *_not_run(tables, len(columns))], TRADE, notes)


def _matched(tables: TextTables) -> PageTable:
    """Every swept row at the diversity of real text, and at that of the language model at each of its temperatures."""
    points = {row.name: row.of_kind("temperature") for row in tables.rows}
    beside = [(REAL, point) for point in points.get(REAL, [])]
    beside += [(f"{REFERENCE} at {point.setting.value:g}", point) for point in points.get(REFERENCE, [])]
    rows = []
    for measure in ("dist_2", "entropy_nats"):
        targets = [point.measures.get(measure) for _, point in beside]
        rows.append([_head(measure), *(_number(target, 3) for target in targets)])
        for name, swept in points.items():
            if name != REAL and len(swept) > 1:
                rows.append([name, *(_number(_at(swept, measure, target)) for target in targets)])
    columns = ("row", *(f"at that of {name}" for name, _ in beside))
    notes = [
        f"The judge's nats a token on each row's curve where its Dist-2, and below where its entropy, is that of the "
        f"column, which the first line has; {NONE}: not in its range of temperatures. One point of a curve says "
        "little: compare along a line, and with the standard errors above."
    ]
    return PageTable(columns, rows, "At matched diversity", notes)


def _at(points: Sequence[Point], measure: str, target: float | None) -> float | None:
    return None if target is None else matched(points, measure, target)


def _by_length(tables: TextTables) -> list[tuple[TextRow, Point]]:
    """The points of all rows, those of one length together in the rows' order."""
    points = [(row, point) for row in tables.rows for point in row.of_kind("length")]
    return sorted(points, key=lambda pair: pair[1].setting.value)


def _not_run(tables: TextTables, columns: int) -> list[list[str]]:
    return [[row.name, NOT_RUN, *[""] * (columns - 2)] for row in tables.rows if not row.points]


def _head(measure: str) -> str:
    return {"entropy_nats": "Ent", "dist_1": "Dist-1", "dist_2": "Dist-2"}.get(measure, measure.replace("_", " "))


def _cell(point: Point, name: str, digits: int) -> str:
    return f"{point.measures[name]:.{digits}f}" if name in point.measures else f"{NONE} ({point.absent[name]})"


def _with_std(measures: Mapping[str, float]) -> str:
    if FLUENCY[0] not in measures:
        return NONE
    std = f" ± {measures[FLUENCY[1]]:.2f}" if FLUENCY[1] in measures else ""
    return f"{measures[FLUENCY[0]]:.2f}{std}"


def _with_error(point: Point) -> str:
    if FLUENCY[1] not in point.measures:
        return _cell(point, FLUENCY[0], 2)
    error = point.measures[FLUENCY[1]] / math.sqrt(point.sentences)
    return f"{point.measures[FLUENCY[0]]:.2f} ± {error:.2f}"


def _number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"
