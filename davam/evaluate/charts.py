"""Charts as inline SVG for pages without scripts: the same bytes for the same data, in the page's own colors.

A page names the colors: `--rule` and `--series-1` to `--series-4`.
"""

import io
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, StrMethodFormatter


@dataclass(frozen=True)
class Curve:
    """One chart of lines, each a sequence of (x, y); points that are not finite are left out."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False


@dataclass(frozen=True)
class Intervals:
    """One chart of lines with intervals, each a sequence of (x, mean, low, high); an unbounded interval is left out."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float, float, float]]]


@dataclass(frozen=True)
class Chart:
    """A drawn chart; without an SVG there was nothing to draw."""

    title: str
    caption: str
    svg: Markup | None


def number(value: float | int | str) -> str:
    """Four significant digits, thousands set apart; whole numbers in full."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "infinite", -math.inf: "−infinite"}.get(value, "undefined")
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


# Drawn in these colors, which become the page's own, so that charts follow its light and dark themes.
_INK, _RULE = "#010101", "#020202"
_SERIES = ("#03010a", "#03010b", "#03010c", "#03010d")
_PAGE_COLOR = {_INK: "currentColor", _RULE: "var(--rule)"} | {
    color: f"var(--series-{index})" for index, color in enumerate(_SERIES, start=1)
}
_DASHES = ("-", "--", "-.", ":")
_LETTERS = 60  # across a chart
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _RULE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 3.5,
}


def curve_chart(curve: Curve, salt: str) -> Chart:
    """The lines as a chart; the salt is the chart's own on its page."""
    lines = {
        _label(name): [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in curve.series.items()
    }
    lines = {name: points for name, points in lines.items() if points}
    last = [f"{name} ends at {number(points[-1][1])}" for name, points in lines.items()]
    caption = "; ".join(last) + "." if last else "No points were recorded."
    columns = _legend_columns(lines)

    def draw(axes: Axes) -> None:
        for index, (name, points) in enumerate(lines.items()):
            axes.plot(*zip(*points, strict=True), label=name, **_line(index, marked=len(points) <= 12))
        x_values = [x for points in lines.values() for x, _ in points]
        if curve.log_x:
            axes.set_xscale("log")
            axes.set_xticks(sorted(set(x_values)), [f"{x:g}" for x in sorted(set(x_values))])
            axes.minorticks_off()
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=all(float(x).is_integer() for x in x_values)))
        axes.ticklabel_format(axis="y" if curve.log_x else "both", useOffset=False)
        axes.set(xlabel=_label(curve.x_label), ylabel=_label(curve.y_label))
        if len(lines) > 1:
            _legend(axes, columns)

    description = f"{curve.title}. {caption}"
    return Chart(curve.title, caption, _svg(draw, salt, description, -(-len(lines) // columns)) if lines else None)


def interval_chart(chart: Intervals, salt: str) -> Chart:
    """The chart of lines with intervals; lines stand a little apart, so that intervals do not hide each other."""
    lines = {_label(name): points for name, points in chart.series.items() if points}
    last = [f"{name} ends at {number(points[-1][1])}" for name, points in lines.items()]
    caption = "; ".join(last) + "." if last else "Nothing was measured."
    columns = _legend_columns(lines)
    apart = 0.012 * max((x for points in lines.values() for x, *_ in points), default=0.0)

    def draw(axes: Axes) -> None:
        for index, (name, points) in enumerate(lines.items()):
            x, mean, low, high = (np.array(column) for column in zip(*points, strict=True))
            x = x + apart * (index - (len(lines) - 1) / 2)
            axes.plot(x, mean, label=name, **_line(index, marked=True))
            bounded = np.isfinite(low) & np.isfinite(high)
            axes.vlines(x[bounded], low[bounded], high[bounded], color=_SERIES[index % len(_SERIES)], linewidth=1)
        axes.ticklabel_format(useOffset=False)
        axes.set(xlabel=_label(chart.x_label), ylabel=_label(chart.y_label))
        _legend(axes, columns)

    description = f"{chart.title}. {caption}"
    return Chart(chart.title, caption, _svg(draw, salt, description, -(-len(lines) // columns)) if lines else None)


def codes_chart(code_usage: Sequence[int]) -> Chart:
    """How often each code occurs, by rank."""
    title = "Positions per code, most used first"
    counts = np.sort(np.asarray(code_usage, dtype=np.int64))[::-1]
    used = int((counts > 0).sum())
    if not used:
        return Chart(title, "No codes were counted.", None)
    caption = f"{used:,} of {len(counts):,} codes used, {len(counts) - used:,} never used."

    def draw(axes: Axes) -> None:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.stairs(counts, baseline=0.5, fill=True, color=_SERIES[0])
        axes.set(xlabel="code, by rank", ylabel="positions", xlim=(0, len(counts)), ylim=(0.5, None))
        axes.minorticks_off()

    return Chart(title, caption, _svg(draw, "codes", f"{title}. {caption}"))


def lengths_chart(lengths: Mapping[str, Sequence[int]]) -> Chart:
    """The distribution of lengths of each source."""
    title = "Sentence lengths"
    groups = {_label(name): np.asarray(values) for name, values in lengths.items() if len(values)}
    if not groups:
        return Chart(title, "No lengths were recorded.", None)
    caption = "; ".join(f"{name}: mean {values.mean():.1f} words" for name, values in groups.items()) + "."
    lowest = min(int(values.min()) for values in groups.values())
    highest = max(int(values.max()) for values in groups.values())
    step = 1 + (highest - lowest) // 60
    edges = np.arange(lowest, highest + 1 + step, step) - 0.5

    def draw(axes: Axes) -> None:
        for index, (name, values) in enumerate(groups.items()):
            share = np.histogram(values, edges)[0] / len(values)
            style: dict[str, Any] = {"color": _SERIES[index % len(_SERIES)], "label": name}
            if index == 0:
                axes.stairs(share, edges, fill=True, alpha=0.35, **style)
            else:
                axes.stairs(share, edges, linewidth=1.8, **style)
        axes.set(xlabel="words", ylabel="share of sentences", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _legend(axes)

    return Chart(title, caption, _svg(draw, "lengths", f"{title}. {caption}"))


def _line(index: int, marked: bool) -> dict[str, Any]:
    # Dashes as well as colors tell the lines apart, for print and for the color-blind.
    colors = len(_SERIES)
    dash = _DASHES[(index + index // colors) % len(_DASHES)]
    return {"color": _SERIES[index % colors], "linestyle": dash, "marker": "o" if marked else ""}


def _legend(axes: Axes, columns: int = 3) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2, columnspacing=1.2)


def _legend_columns(names: Collection[str]) -> int:
    widest = max(map(len, names), default=0) + 6  # with the line's own sign
    return min(3, max(1, _LETTERS // widest))


def _label(text: str) -> str:
    """The text without control characters, which XML cannot hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _svg(draw: Callable[[Axes], None], salt: str, description: str, legend_rows: int = 1) -> Markup:
    """The chart as inline SVG: the same bytes for the same data, no names shared between charts."""
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", _STYLE, {"svg.hashsalt": salt}]):
        canvas = Canvas(figsize=(4.7, 2.9 + 0.2 * (legend_rows - 1)))
        draw(canvas.subplots())
        canvas.savefig(buffer, format="svg")
    root = ElementTree.fromstring(buffer.getvalue())
    _strip(root)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": description,
        "class": "chart",
    }
    markup = ElementTree.tostring(root, encoding="unicode")
    for drawn, shown in _PAGE_COLOR.items():
        markup = markup.replace(drawn, shown)
    return Markup(markup)


def _strip(node: ElementTree.Element) -> None:
    """Take out what a page of several charts must not hold: namespaces, metadata, styles, repeated ids."""
    node.tag = node.tag.rpartition("}")[2]
    node.attrib = {name.rpartition("}")[2]: value for name, value in node.attrib.items()}
    if node.tag == "g":
        node.attrib.pop("id", None)
    node.text = (node.text or "").strip()
    node.tail = ""
    for child in list(node):
        _strip(child)
        if child.tag in ("metadata", "style"):
            node.remove(child)
