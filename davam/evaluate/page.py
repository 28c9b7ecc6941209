"""A page of figures, as Markdown and as one self-contained HTML page: findings first, then what a reader must know,
charts and tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2

from davam.evaluate.charts import Chart
from davam.evaluate.visible import visible


@dataclass(frozen=True)
class PageTable:
    """One table as text: cells by row and column. Columns named `text` hold sentences."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """What a page shows."""

    title: str
    caption: Sequence[str]
    tables: Sequence[PageTable]
    findings: Sequence[str] = ()
    charts: Sequence[Chart] = ()


def markdown(page: Page) -> str:
    """The page without its charts."""
    lines = [
        f"## {page.title}",
        "",
        *(f"* **{line}**" for line in page.findings),
        *(f"* {line}" for line in page.caption),
    ]
    for table in page.tables:
        lines += ["", f"### {table.title}"] * bool(table.title)
        lines += ["", *(f"* {line}" for line in table.notes)] * bool(table.notes)
        lines += ["", _line(table.columns), f"|{'---|' * len(table.columns)}", *map(_line, table.rows)]
    return "\n".join(lines) + "\n"


def html(page: Page) -> str:
    """The whole page, without links to the outside; every text is escaped."""
    source = resources.files("davam.evaluate").joinpath("page.html.j2").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, finalize=visible)
    return environment.from_string(source).render(page=page)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(visible(cell).replace('|', chr(92) + '|') for cell in cells)} |"
