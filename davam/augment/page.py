"""The experiment's results in Markdown, as one self-contained page, and as plain data for JSON."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from davam.augment.intervals import Interval
from davam.augment.study import REAL, REPEAT, Cell, Summary, Verdict, summaries
from davam.evaluate.charts import Intervals, interval_chart
from davam.evaluate.page import Page, PageTable
from davam.evaluate.report import Section
from davam.evaluate.verdict import Finding

TITLE = "Is a generated corpus worth adding?"
COLUMNS = ("size", "protocol", "source", "ratio", "seeds", "ppl_exact", "95%", "difference", "95%")
LABEL_COLUMNS = ("accuracy", "95%", "difference", "95%")
NONE = "–"


@dataclass(frozen=True)
class Results:
    """Everything that is shown: how it came about, every cell, and the answers."""

    caption: Sequence[str]
    cells: Sequence[Cell]
    verdicts: Sequence[Verdict]

    @property
    def labelled(self) -> bool:
        """Whether classifiers were measured."""
        return any(cell.accuracy is not None for cell in self.cells)


def page(results: Results) -> Page:
    """The answers, charts and the table."""
    findings = [sentence(each) for each in results.verdicts]
    charts = [interval_chart(shown, f"chart{index}") for index, shown in enumerate(_charts(results))]
    return Page(TITLE, results.caption, [PageTable(_columns(results), _rows(results))], findings, charts)


def section(results: Results) -> Section:
    """The same as a section of the report on the corpus."""
    finding = " ".join(sentence(each) for each in results.verdicts)
    return Section(TITLE, finding, _columns(results), _rows(results), [], _charts(results), results.caption)


def findings(results: Results) -> tuple[Finding, ...]:
    """The answers for the verdict on a run with such a generator."""
    return tuple(Finding(each.size, each.seeds, each.ratios, each.says, sentence(each)) for each in results.verdicts)


def plain(results: Results) -> dict[str, Any]:
    """The same as plain data; what is not finite or not there is None."""
    return {
        "verdicts": _finite([dataclasses.asdict(each) for each in results.verdicts]),
        "caption": list(results.caption),
        "summaries": _finite([dataclasses.asdict(each) for each in summaries(results.cells)]),
        "cells": _finite([dataclasses.asdict(each) for each in results.cells]),
    }


def sentence(verdict: Verdict) -> str:
    """The verdict in words."""
    best = f"best ratio {verdict.best_ratio:g}" if verdict.best_ratio else "best ratio 0: add nothing"
    mean, bounds = _shown(verdict.difference, ".2f", "+")
    spread = "" if bounds == NONE else f" (95% {bounds})"
    return (
        f"{verdict.source} on its own {verdict.size:,} sentences (same_data): {verdict.says}; {verdict.why}; "
        f"perplexity at ratio {verdict.ratio:g} against without {mean}{spread}; {best}."
    )


def _columns(results: Results) -> tuple[str, ...]:
    return COLUMNS + (LABEL_COLUMNS if results.labelled else ())


def _rows(results: Results) -> list[list[str]]:
    rows = []
    for found in summaries(results.cells):
        row = [f"{found.size:,}", found.protocol, found.source, f"{found.ratio:g}", str(found.seeds)]
        row += [*_shown(found.ppl, ".2f", ""), *_difference(found, found.difference, ".2f")]
        if results.labelled:
            row += [*_shown(found.accuracy, ".3f", ""), *_difference(found, found.accuracy_difference, ".3f")]
        rows.append(row)
    return rows


def _difference(found: Summary, difference: Interval | None, digits: str) -> list[str]:
    return [NONE, NONE] if found.source == REAL else _shown(difference, digits, "+")


def _shown(value: Interval | None, digits: str, sign: str) -> list[str]:
    if value is None:
        return [NONE, NONE]
    bounded = math.isfinite(value.low)
    bounds = f"{value.low:{sign}{digits}} to {value.high:{sign}{digits}}" if bounded else NONE
    return [f"{value.mean:{sign}{digits}}", bounds]


def _charts(results: Results) -> list[Intervals]:
    """Two for each size and protocol: the perplexity, and its paired difference. The real text repeated is on all of
    them: it has had the same steps."""
    found, charts = summaries(results.cells), []
    for size, protocol in dict.fromkeys((each.size, each.protocol) for each in found):
        lines: dict[str, list[Summary]] = {}
        for each in found:
            shown = each.source == REPEAT or each.protocol == protocol
            if shown and each.size == size and each.source != REAL:
                alone = [one for one in found if (one.size, one.source) == (size, REAL)]
                lines.setdefault(each.source, alone).append(each)
        for measure, name in (("ppl", "perplexity (ppl_exact)"), ("difference", "paired difference from ratio 0")):
            points = {
                source: [(each.ratio, *dataclasses.astuple(getattr(each, measure))) for each in entries]
                for source, entries in lines.items()
            }
            title = f"{size:,} real sentences, {protocol}: {name}"
            charts.append(Intervals(title, "tokens added for each real one", measure, points))
    return charts


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list) else value
