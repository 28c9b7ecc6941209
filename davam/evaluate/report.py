"""One run as a page to read and as JSON with the same content.

The page is one HTML file without scripts or links to the outside: it opens from a disk, a mail or an object
store, on a phone and on paper. Every text is untrusted and escaped; the same report gives the same bytes.
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2

from davam.evaluate.charts import (
    Chart,
    Curve,
    Intervals,
    codes_chart,
    curve_chart,
    interval_chart,
    lengths_chart,
    number,
)
from davam.evaluate.code_browser import CodeEntry
from davam.evaluate.faithfulness import Interpolation
from davam.evaluate.verdict import Verdict
from davam.evaluate.visible import visible


@dataclass(frozen=True)
class Figure:
    """One number with what it means; `paper` is the value the paper prints for it, and `real` that of unseen real text,
    if any. A text in the place of a number says why there is none."""

    name: str
    value: float | int | str
    unit: str
    meaning: str
    paper: str | None = None
    real: float | str | None = None


@dataclass(frozen=True)
class Reconstruction:
    """A text and what the model made of it."""

    id: int
    text: str
    reconstruction: str


@dataclass(frozen=True)
class Sample:
    """A sampled text with a short remark, which may be empty, and the training sentence with which it shares its
    longest run of tokens; no sentence where it shares none."""

    id: int
    text: str
    note: str = ""
    nearest: str = ""
    copied_tokens: int = 0


@dataclass(frozen=True)
class Section:
    """An experiment beside the run: what it found in words, a table, and its charts; `notes` say how it came about. As
    on pages, columns named `text` hold sentences."""

    title: str
    finding: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    curves: Sequence[Curve]
    intervals: Sequence[Intervals] = ()
    notes: Sequence[str] = ()  # sections that were kept by earlier versions have none


@dataclass(frozen=True)
class StageRow:
    """One stage of the run: what was done, why, and how long it took (None where nothing ran)."""

    name: str
    action: str
    fingerprint: str
    rows: int | None
    wall_s: float | None
    why: str


@dataclass(frozen=True)
class Report:
    """Everything the page shows, as plain data.

    `summary` says the headline figures in words. `code_usage` counts the positions of each code of the codebook, and
    `codes` says what those that occur stand for; `lengths` holds the lengths in words of the sentences of each source.
    `created_utc` is ISO 8601; `worker_hours` are of all stages together.
    """

    title: str
    subtitle: str
    created_utc: str
    verdict: Verdict
    summary: str
    warnings: Sequence[str]
    figures: Sequence[Figure]
    curves: Sequence[Curve]
    reconstructions: Sequence[Reconstruction]
    interpolations: Sequence[Interpolation]
    samples: Sequence[Sample]
    code_usage: Sequence[int]
    codes: Sequence[CodeEntry]
    sections: Sequence[Section]
    lengths: Mapping[str, Sequence[int]]
    stages: Sequence[StageRow]
    worker_hours: float
    lineage: Mapping[str, str]
    recipe_yaml: str
    submit_command: str


# The standing of each perplexity, shown wherever the figure is.
_STANDING = {
    "ppl_exact": "exact",
    "ppl_bound": "valid upper bound",
    "ppl_iw": "valid upper bound, by importance sampling",
    "ppl_paper": "not a bound",
}


def render(report: Report) -> str:
    """The report as one self-contained HTML page."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, finalize=visible, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, duration=_duration)
    source = resources.files("davam.evaluate").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        report=report,
        standing=_STANDING,
        perplexities=[figure for figure in report.figures if figure.name in _STANDING],
        curves=[curve_chart(curve, f"curve{index}") for index, curve in enumerate(report.curves)],
        reconstructions=[(pair, _compare(pair)) for pair in report.reconstructions],
        codes=codes_chart(report.code_usage),
        lengths=lengths_chart(report.lengths),
        sections=[_drawn(section, f"section{index}") for index, section in enumerate(report.sections)],
    )


def _drawn(section: Section, name: str) -> tuple[str, Section, list[Chart]]:
    """The section with its id on the page and its charts."""
    charts = [curve_chart(curve, f"{name}-{index}") for index, curve in enumerate(section.curves)]
    charts += [interval_chart(chart, f"{name}-interval{index}") for index, chart in enumerate(section.intervals)]
    return name, section, charts


def to_json(report: Report) -> str:
    """The report as JSON; numbers that are not finite become the strings "inf", "-inf" and "nan"."""
    plain = _finite(dataclasses.asdict(report))
    return json.dumps(plain, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def _duration(wall_s: float | None) -> str:
    if wall_s is None:
        return "–"
    if wall_s < 10:
        return f"{wall_s:.1f} s"
    minutes, seconds = divmod(round(wall_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


@dataclass(frozen=True)
class _Comparison:
    text: list[tuple[str, bool]]
    reconstruction: list[tuple[str, bool]]
    remark: str


def _compare(pair: Reconstruction) -> _Comparison:
    """The words of both texts, each with whether it is kept in an alignment of the two."""
    words, back = pair.text.split(), pair.reconstruction.split()
    kept, kept_back = [False] * len(words), [False] * len(back)
    for i, j, size in difflib.SequenceMatcher(None, words, back, autojunk=False).get_matching_blocks():
        kept[i : i + size] = kept_back[j : j + size] = [True] * size
    remark = "identical" if words == back else f"{sum(kept)} of {len(words)} words kept"
    return _Comparison(list(zip(words, kept, strict=True)), list(zip(back, kept_back, strict=True)), remark)
