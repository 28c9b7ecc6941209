"""Table II: the paper's figures, ours, and the valid figures of every row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from davam.evaluate.page import Page, PageTable

VALID = ("ppl_exact", "ppl_bound", "ppl_iw")
COLUMNS = (
    "row",
    "Rec",
    "paper",
    "KL sum",
    "KL",
    "paper",
    "ppl_paper",
    "paper",
    *VALID,
    "known words",
    "parameters",
    "minutes",
    "epochs",
)
NOT_RUN = "not run"


@dataclass(frozen=True)
class TableRow:
    """One model of the table; without measures it did not run."""

    name: str
    paper: Mapping[str, float] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    parameters: int = 0
    train_s: float = 0.0
    epochs: int = 0


@dataclass(frozen=True)
class Table:
    """The rows, and what a reader must know of how they came about."""

    title: str
    caption: Sequence[str]
    rows: Sequence[TableRow]


def cells(row: TableRow) -> list[str]:
    """The row's cells in the order of the columns."""
    if not row.measures:
        paper = [_paper(row, "rec_nats"), _paper(row, *KL), _paper(row, "ppl_paper")]
        return [row.name, NOT_RUN, paper[0], "", "", paper[1], "", paper[2], *[""] * 7]
    return [
        row.name,
        _ours(row, "rec_nats"),
        _paper(row, "rec_nats"),
        _ours(row, "kl_nats_sum"),
        _ours(row, *KL),
        _paper(row, *KL),
        _ours(row, "ppl_paper"),
        _paper(row, "ppl_paper"),
        *(_ours(row, name) for name in VALID),
        _ours(row, *(f"{name}_known" for name in reversed(VALID))),
        f"{row.parameters:,}",
        f"{row.train_s / 60:.1f}",
        str(row.epochs),
    ]


# As the paper's table has it: per latent where there is one for every word.
KL = ("kl_nats_per_code", "kl_nats_per_latent", "kl_nats_sum")


def page(table: Table) -> Page:
    """The table as a page."""
    return Page(table.title, table.caption, [PageTable(COLUMNS, [cells(row) for row in table.rows])])


def _ours(row: TableRow, *names: str) -> str:
    return next((f"{row.measures[name]:.2f}" for name in names if name in row.measures), "")


def _paper(row: TableRow, *names: str) -> str:
    return next((f"{row.paper[name]:.2f}" for name in names if name in row.paper), "–")
