"""The page and its JSON twin: safe, self-contained, complete, the same every time, and readable."""

import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import matplotlib
import pytest

from davam.evaluate.charts import Curve, Intervals
from davam.evaluate.code_browser import CodeEntry, Context
from davam.evaluate.faithfulness import Interpolation
from davam.evaluate.page import Page, html
from davam.evaluate.report import Figure, Reconstruction, Report, Sample, Section, StageRow, render, to_json
from davam.evaluate.verdict import Verdict

HOSTILE = '<script>alert("1")</script> & <b>$x_$'
Attributes = dict[str, str | None]
VOID = {"meta", "link", "br", "hr", "img", "input"}


@pytest.fixture(scope="module")
def report() -> Report:
    return Report(
        title="DAVAM on captions",
        subtitle="preset captions",
        created_utc="2026-03-02T14:05:11Z",
        verdict=Verdict("keep", ("No fault was found.",)),
        summary="The samples read like captions.",
        warnings=["60 of 512 codes never used"],
        figures=[
            Figure("ppl_bound", 48.9, "", "upper bound"),
            Figure("ppl_paper", 2.4012, "", "the paper's formula", "3.52"),
            Figure("rec_nats", 8.46, "nats per sentence", "reconstruction", "10.85"),
            Figure("train_tokens", 929589, "tokens", "size"),
            Figure("sample_dist_2", 0.31, "share", "different pairs", None, 0.42),
            Figure("ppl_iw", math.inf, "", "importance-weighted"),
        ],
        curves=[
            Curve("Rec", "epoch", "nats", {"train": [(1, 9.0), (2, 8.0)], "valid": [(1, 9.5), (2, math.nan)]}),
            Curve("KL", "step", "nats", {"train": [(step, 1 / (step + 1)) for step in range(50)]}),
        ],
        reconstructions=[
            Reconstruction(3, "a dog runs fast", "a cat runs"),
            Reconstruction(5, "hi you", "hi you"),
        ],
        interpolations=[Interpolation("a dog runs", "two dogs .", ("a dog runs", "two dog runs", "two dogs ."))],
        samples=[Sample(0, "a man sits .", "grammatical", "a man sits down .", 3), Sample(11, "two dogs .")],
        code_usage=[5, 0, 90, 1200],
        codes=[CodeEntry(3, 1200, (("dog", 900), ("cat", 300)), (Context("a big", "dog", "runs"),))],
        sections=[
            Section(
                "Usefulness",
                "It helps.",
                ["ratio", "ppl", "text"],
                [["0", "88.1", "a man sits ."], ["1", "80.2", "a dog runs ."]],
                [Curve("Perplexity", "ratio", "ppl", {"davam": [(0, 88.1), (1, 80.2)]})],
                [Intervals("Spread", "ratio", "ppl", {"davam": [(0, 88.1, 87.0, 89.0), (1, 80.2, 79.0, math.inf)]})],
                ["Seed 0; judged by gpt2."],
            )
        ],
        lengths={"real": [3, 4, 4, 9], "sampled": [2, 4]},
        stages=[
            StageRow("tokens", "built", "1f0c9a77b2d4", 49199, 4.21, "no artifact"),
            StageRow("codes", "reused", "c0ffee12ab90", None, None, "nothing changed"),
        ],
        worker_hours=0.25,
        lineage={"code version": "4f2a91c8"},
        recipe_yaml="model:\n  kind: davam\n",
        submit_command="python pipelines/full.py --preset captions",
    )


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render(report)


class Outline(HTMLParser):
    """Checks that tags are balanced; collects the elements with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, Attributes]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, name: str) -> list[Attributes]:
        return [attributes for tag, attributes in self.elements if tag == name]


def with_every_text(report: Report, text: str) -> Report:
    """The report with the given text in every place that holds a text."""

    def replaced(value: Any) -> Any:
        if isinstance(value, str):
            return text
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: replaced(getattr(value, field.name)) for field in dataclasses.fields(value)}
            return dataclasses.replace(value, **fields)
        if isinstance(value, dict):
            return dict([(text, replaced(entry)) for entry in value.values()][:1])
        return [replaced(entry) for entry in value] if isinstance(value, list) else value

    changed: Report = replaced(report)
    return changed


def test_tags_are_balanced_and_ids_unique(page: str) -> None:
    outline = Outline(page)
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = re.findall(r'(?:href="|url\()#([^")]+)', page)
    assert referred
    assert set(referred) <= set(ids)


def test_every_text_is_escaped(report: Report) -> None:
    clean, hostile = Outline(render(report)), Outline(render(with_every_text(report, HOSTILE)))
    assert not hostile.all("script")
    assert not hostile.all("b")
    assert hostile.text.count(HOSTILE) >= 25
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in clean.elements}


def test_control_characters_and_changes_of_direction_are_shown_and_do_not_act(report: Report) -> None:
    page = render(with_every_text(report, "a\x00\x1b\x0b\u202e"))
    outline = Outline(page)
    assert outline.all("svg")
    assert "a\ufffd\ufffd\ufffd\ufffd" in outline.text
    assert not set("\x00\x1b\x0b\u202e") & set(page)


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    assert not re.search(r"""(?:src|href|action|srcset)\s*=\s*["']?(?!\#)[^"'#\s]""", page)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    assert "<script" not in page
    assert not re.search(r"https?://", page)
    assert "default-src 'none'" in page


def test_the_same_report_gives_the_same_bytes_whatever_the_users_plot_settings(report: Report, page: str) -> None:
    with matplotlib.rc_context({"font.size": 30, "axes.linewidth": 9, "xtick.direction": "in"}):
        assert render(report) == page
    assert to_json(report) == to_json(report)


def test_all_figures_are_shown_with_their_meaning_and_the_papers_value(report: Report, page: str) -> None:
    text = Outline(page).text
    for figure in report.figures:
        assert all(part in text for part in (figure.name, figure.meaning, figure.paper or ""))
    for shown in ("0.42", "48.9", "2.401", "8.46", "929,589", "infinite"):
        assert shown in text


def cards_of(page: str) -> str:
    return page.split('<ul class="cards">')[1].split("</ul>")[0]


def test_the_bound_and_the_papers_formula_stand_side_by_side(page: str) -> None:
    cards = [" ".join(Outline(card).text.split()) for card in re.findall(r"<li.*?</li>", cards_of(page), re.S)]
    assert cards[:2] == ["ppl_bound 48.9 valid upper bound", "ppl_paper 2.401 not a bound paper: 3.52"]
    row = re.search(r'<th role="rowheader" scope="row">ppl_paper.*?</th>', page, re.S)
    assert "not a bound" in row.group()


def test_the_order_of_the_page(page: str) -> None:
    parts = ["Verdict: keep", "No fault was found.", "The samples read like captions.", "Key figures", "Curves"]
    parts += ["Reconstructions", "Interpolations", "Samples", "Codes", "Usefulness"]
    parts += ["Lengths", "Stages", "Lineage", "Recipe", "To repeat this run"]
    body = Outline(page[: page.index("<nav")] + page[page.index("</nav>") + len("</nav>") :]).text
    places = [body.index(f"{part}\n") for part in parts]
    assert places == sorted(places)


def test_texts_say_how_they_were_drawn(page: str) -> None:
    assert Outline(page).text.count("Drawn by fixed ids, not chosen.") == 2


def test_samples_stand_beside_their_nearest_training_sentence(page: str) -> None:
    assert "training, 3 tokens shared: a man sits down ." in " ".join(Outline(page).text.split())


def test_codes_are_named_by_their_words_and_contexts(page: str) -> None:
    text = " ".join(Outline(page).text.split())
    assert "code 3, 1,200 times dog 75%, cat 25% a big dog runs" in text


def test_an_experiment_says_how_it_came_about_above_its_table(report: Report, page: str) -> None:
    text = Outline(page).text
    assert text.index("It helps.") < text.index("Seed 0; judged by gpt2.") < text.index("88.1")
    assert json.loads(to_json(report))["sections"][0]["notes"] == ["Seed 0; judged by gpt2."]


def test_sentences_of_a_table_are_wrapped_and_figures_are_not(page: str) -> None:
    assert '<td class="num">88.1</td><td class="sentence" dir="auto">a man sits .</td>' in page
    assert '<th scope="col" class="num">ppl</th><th scope="col" class="sentence">text</th>' in page


def test_what_is_scrolled_or_closed_on_a_screen_is_printed(page: str) -> None:
    for printed in (page, html(Page("T", [], []))):
        rules = printed.split("@media print {")[1].split("</style>")[0]
        assert "overflow: visible" in rules
        assert "white-space: normal" in rules
    assert "details::details-content { content-visibility: visible; }" in page.split("@media print {")[1]


def test_words_that_were_lost_or_changed_are_marked(page: str) -> None:
    assert re.findall(r"<mark>(.*?)</mark>", page) == ["dog", "fast", "cat"]
    text = Outline(page).text
    assert "2 of 4 words kept" in text
    assert "identical" in text


def test_stages_show_rows_and_time(page: str) -> None:
    text = Outline(page).text
    assert all(part in text for part in ("49,199", "4.2 s", "nothing changed"))


@pytest.mark.parametrize(
    ("wall_s", "shown"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (12.4, "12 s"),
        (59.7, "1 min 00 s"),
        (4012, "1 h 06 min"),
        (None, "–"),
    ],
)
def test_durations(report: Report, wall_s: float | None, shown: str) -> None:
    row = StageRow("only", "built", "f", None, wall_s, "why")
    page = render(dataclasses.replace(report, stages=[row]))
    assert f'<td role="cell" class="num quiet">{shown}</td>' in page


def test_charts_are_described_in_words(page: str) -> None:
    outline = Outline(page)
    labels = [attributes["aria-label"] for attributes in outline.all("svg")]
    assert labels == [
        "Rec. train ends at 8; valid ends at 9.5.",
        "KL. train ends at 0.02.",
        "Positions per code, most used first. 3 of 4 codes used, 1 never used.",
        "Perplexity. davam ends at 80.2.",
        "Spread. davam ends at 80.2.",
        "Sentence lengths. real: mean 5.0 words; sampled: mean 3.0 words.",
    ]
    assert all(attributes["role"] == "img" for attributes in outline.all("svg"))


def test_charts_take_their_colors_from_the_page(page: str) -> None:
    charts = "".join(re.findall(r"<svg.*?</svg>", page, re.S))
    assert "var(--series-1)" in charts
    assert "currentColor" in charts
    assert set(re.findall(r"#[0-9a-f]{6}\b", charts)) == set()


def test_semantics(page: str) -> None:
    outline = Outline(page)
    assert outline.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(outline.all("caption")) == len(outline.all("table")) == 3
    assert {attributes["scope"] for attributes in outline.all("th")} == {"row", "col"}
    assert [len(outline.all(tag)) for tag in ("main", "header", "nav", "title")] == [1, 1, 1, 1]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in outline.all("meta")


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast_meets_wcag_aa(page: str, theme: int) -> None:
    palette = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", re.findall(r":root \{(.*?)\}", page, re.S)[theme]))
    for text in ("ink", "quiet", "accent", "warn"):
        for ground in ("paper", "panel", "warn-panel"):
            assert contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
    assert contrast(palette["ink"], palette["mark"]) >= 4.5
    for series in ("series-1", "series-2", "series-3", "series-4"):
        assert contrast(palette[series], palette["paper"]) >= 3, series


def test_an_empty_report_is_still_a_page() -> None:
    empty = Report(
        "t", "s", "2026", Verdict("keep", ()), "v", [], [], [], [], [], [], [], [], [], {}, [], 0.0, {}, "", ""
    )
    page = render(empty)
    assert not Outline(page).all("svg")
    assert "Warnings" not in page
    for remark in ("No curves were recorded.", "No codes were counted.", "No lengths were recorded."):
        assert remark in page
    assert json.loads(to_json(empty))["figures"] == []


@pytest.mark.parametrize("series", [{}, {"train": []}, {"train": [(1, math.nan), (math.inf, 2)]}])
def test_empty_curves_are_named_as_such(report: Report, series: dict[str, list[tuple[float, float]]]) -> None:
    page = render(dataclasses.replace(report, curves=[Curve("Rec of run", "epoch", "nats", series)]))
    assert "Rec of run" in page
    assert "No points were recorded." in page


@pytest.mark.parametrize("points", [[(1, 2.0)], [(x, 5.0) for x in range(30)], [(0.1, 1e9), (0.2, 1e-9)]])
def test_odd_curves_are_drawn(report: Report, points: list[tuple[float, float]]) -> None:
    many = {f"run {index}": points for index in range(9)}
    page = render(dataclasses.replace(report, curves=[Curve("Rec", "epoch", "nats", many)], sections=[]))
    assert "run 8 ends at" in page
    assert len(Outline(page).all("svg")) == 3


def test_lengths_of_long_documents_are_binned(report: Report) -> None:
    page = render(dataclasses.replace(report, lengths={"real": [1, 100_000], "sampled": [7]}))
    assert "real: mean 50000.5 words" in page
    assert len(page) < 200_000


def test_the_json_twin_holds_everything(report: Report) -> None:
    twin = json.loads(to_json(report))
    assert [Figure(**figure) for figure in twin["figures"]][:5] == report.figures[:5]
    assert twin["figures"][5]["value"] == "inf"
    assert twin["curves"][0]["series"]["valid"] == [[1, 9.5], [2, "nan"]]
    assert set(twin) == {field.name for field in dataclasses.fields(Report)}
    assert Sample(**twin["samples"][0]) == report.samples[0]
    assert StageRow(**twin["stages"][1]) == report.stages[1]
