"""The trials of a sweep as a table, and as a page with charts."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from davam.data.schemas import SCHEMAS
from davam.evaluate.charts import Curve, curve_chart, number
from davam.evaluate.page import Page, PageTable
from davam.evaluate.report import Section

DONE, STOPPED, FAILED = "done", "stopped", "failed"
#: what models can be compared by: valid figures of the validation sentences, the model's own first
VALID = ("valid_ppl_exact", "valid_ppl_bound", "valid_ppl_bound_bigram")
REC = ("valid_rec_nats", "valid_nll_nats")
KL = ("valid_kl_nats_sum", "valid_code_nats_bigram")  # what the latents cost, under the model's own prior first
#: the columns of measures, where any trial has them
SHOWN = (
    *("valid_rec_nats", "valid_nll_nats", "valid_kl_nats_sum", "valid_code_nats_bigram", *VALID),
    *("valid_codes_used", "rec_nats", "kl_nats_sum", "kl_nats_per_code", "ppl_exact", "ppl_bound", "ppl_iw"),
    *("ppl_exact_known", "ppl_bound_known", "ppl_iw_known"),
)
MOST_LINES = 12
LOG_RATIO = 4  # between a swept key's largest and smallest value, from which on its axis is logarithmic

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Trial:
    """One combination of the swept values, and what it came to.

    `settings` has the value of every axis; `dynamics` the points by epoch of each measure that training took.
    """

    name: str
    presets: str
    settings: Mapping[str, str]
    state: str
    reason: str = ""
    measures: Mapping[str, float] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    epochs: int = 0
    train_s: float = 0.0
    dynamics: Mapping[str, Points] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """The trials, what they are ranked by (a measure's name, or the valid figure that each has), and what a reader
    must know."""

    title: str
    caption: Sequence[str]
    metric: str | None
    trials: Sequence[Trial]


def metric_of(trial: Trial, metric: str | None) -> tuple[str, float]:
    """The measure that ranks the trial, and its value; NaN where it has none."""
    name = metric or next((name for name in VALID if name in trial.measures), "")
    return name, trial.measures.get(name, math.nan) if trial.state == DONE else math.nan


def ranked(sweep: Sweep) -> list[Trial]:
    """The trials, lowest measure first; those without one last, in their order."""

    def rank(trial: Trial) -> float:
        value = metric_of(trial, sweep.metric)[1]
        return math.inf if math.isnan(value) else value

    return sorted(sweep.trials, key=rank)


def winner(sweep: Sweep) -> Trial | None:
    """The best trial, if any is done."""
    best = ranked(sweep)[0]
    return None if math.isnan(metric_of(best, sweep.metric)[1]) else best


def table(sweep: Sweep) -> pa.Table:
    """The trials by rank, in the schema `sweep/1`."""
    rows = []
    for trial in ranked(sweep):
        name, value = metric_of(trial, sweep.metric)
        rows.append(
            {
                "trial": trial.name,
                "presets": trial.presets,
                "settings": [f"{key}={text}" for key, text in trial.settings.items()],
                "state": trial.state,
                "reason": trial.reason,
                "metric": name,
                "value": value,
                "measures": list(trial.measures.items()),
                "fingerprints": list(trial.fingerprints.items()),
                "epochs": trial.epochs,
                "train_s": trial.train_s,
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMAS["sweep/1"])


def page(sweep: Sweep) -> Page:
    """The table and the charts."""
    charts = [curve_chart(curve, f"chart{index}") for index, curve in enumerate(curves(sweep))]
    return Page(sweep.title, sweep.caption, [PageTable(*_grid(sweep))], charts=charts)


def section(sweep: Sweep) -> Section:
    """The same as a section of the report on the corpus."""
    best = winner(sweep)
    finding = "No trial has a figure." if best is None else f"Best of {len(sweep.trials)} trials: {best.name}."
    return Section(sweep.title, finding, *_grid(sweep), curves(sweep), notes=sweep.caption)


def curves(sweep: Sweep) -> list[Curve]:
    """Each swept number against Rec, the latents' cost and the measure that ranks; and the trials by epoch."""
    drawn: list[Curve] = []
    for axis in numeric_axes(sweep.trials):
        for title, names in (("Rec", REC), ("Cost of the latents", KL), ("What ranks the trials", None)):
            series = _by_axis(sweep, axis, names)
            values = [x for points in series.values() for x, _ in points]
            if values:
                log_x = min(values) > 0 and max(values) >= LOG_RATIO * min(values)
                unit = "perplexity" if names is None else "nats/sentence"
                drawn.append(Curve(f"{title} by {axis}", axis, unit, series, log_x))
    best = ranked(sweep)[:MOST_LINES]
    which = "" if len(best) == len(sweep.trials) else f", the first {MOST_LINES} trials"
    for name in dict.fromkeys(name for trial in best for name in trial.dynamics):
        series = {trial.name: trial.dynamics[name] for trial in best if trial.dynamics.get(name)}
        drawn.append(Curve(f"{name}{which}", "epoch", "nats/sentence", series))
    return drawn


def numeric_axes(trials: Sequence[Trial]) -> list[str]:
    """The axes on which there are two numbers at least, and nothing but numbers."""
    axes = []
    for axis in trials[0].settings:
        values = {_number(trial.settings[axis]) for trial in trials}
        if len(values) > 1 and None not in values:
            axes.append(axis)
    return axes


def _by_axis(sweep: Sweep, axis: str, names: Sequence[str] | None) -> dict[str, Points]:
    """Points by value of the axis, in a line for each combination of the other axes; of the first measure of these
    that each trial has, or of what ranks it."""
    lines: dict[str, Points] = {}
    for trial in (trial for trial in sweep.trials if trial.state == DONE):
        x = _number(trial.settings[axis])
        found = [trial.measures[name] for name in names or () if name in trial.measures]
        y = found[0] if found else metric_of(trial, sweep.metric)[1] if names is None else math.nan
        others = [f"{_last(key)}={text}" for key, text in trial.settings.items() if key != axis]
        if x is not None and not math.isnan(y):
            lines.setdefault(" ".join(others) or "all trials", []).append((x, y))
    return {name: sorted(points) for name, points in lines.items()}


def _grid(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """The columns and cells of the table."""
    trials = ranked(sweep)
    shown = [name for name in SHOWN if any(name in trial.measures for trial in trials)]
    rows = []
    for trial in trials:
        measures = [number(trial.measures[name]) if name in trial.measures else "–" for name in shown]
        state = f"{trial.state}: {trial.reason}" if trial.reason else trial.state
        rows.append([trial.name, state, *measures, str(trial.epochs), f"{trial.train_s:,.1f}"])
    return ["trial", "state", *shown, "epochs", "train s"], rows


def trial_names(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Short names of combinations: `codebook_size=128 beta_max=1`, with as much of each key as tells it from others."""
    keys = list(settings[0])
    short = {key: _last(key) if sum(_last(key) == _last(other) for other in keys) == 1 else key for key in keys}
    return [" ".join(f"{short[key]}={value}" for key, value in combination.items()) for combination in settings]


def combinations(axes: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Every combination of the axes' values, the last axis fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
