"""Charts as inline SVG: the same bytes for the same data, in the colors of the page around them.

Several charts stand on one page, in its light and its dark theme, without scripts.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import matplotlib.style
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


@dataclass(frozen=True)
class Curve:
    """One chart of lines, each a sequence of (x, y); points that are not finite are left out. A line may have an
    interval, a sequence of (x, least, most)."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    intervals: Mapping[str, Sequence[tuple[float, float, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Chart:
    """A drawn chart, or none where there is nothing to draw, and what it says in words."""

    title: str
    caption: str
    svg: Markup | None


# Drawn in these colors, which become the page's own, so that charts follow its light and dark themes.
_INK, _RULE = "#010101", "#020202"
SERIES = ("#03010a", "#03010b", "#03010c", "#03010d")
_PAGE_COLOR = {_INK: "currentColor", _RULE: "var(--rule)"} | {
    color: f"var(--series-{index})" for index, color in enumerate(SERIES, start=1)
}
_DASHES = ("-", "--", "-.", ":")
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
    """The chart of lines; the salt keeps its names apart from those of other charts on the page."""
    lines = {
        label(name): [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in curve.series.items()
    }
    lines = {name: points for name, points in lines.items() if points}
    intervals = {label(name): rows for name, rows in curve.intervals.items()}
    last = [f"{name} ends at {number(points[-1][1])}" for name, points in lines.items()]
    caption = "; ".join(last) + "." if last else "No points were recorded."

    def draw(axes: Axes) -> None:
        for index, (name, points) in enumerate(lines.items()):
            axes.plot(*zip(*points, strict=True), label=name, **_line_style(index, marked=len(points) <= 12))
            _shade(axes, [row for row in intervals.get(name, []) if all(map(math.isfinite, row))], index)
        x_values = [x for points in lines.values() for x, _ in points]
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=all(float(x).is_integer() for x in x_values)))
        axes.ticklabel_format(useOffset=False)
        axes.set(xlabel=label(curve.x_label), ylabel=label(curve.y_label))
        if len(lines) > 1:
            legend(axes)

    return Chart(curve.title, caption, svg(draw, salt, f"{curve.title}. {caption}") if lines else None)


def number(value: float | int | str) -> str:
    """Four significant digits, thousands set apart; whole numbers in full."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "infinite", -math.inf: "−infinite"}.get(value, "undefined")
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _shade(axes: Axes, rows: Sequence[tuple[float, float, float]], index: int) -> None:
    if rows:
        x, least, most = zip(*rows, strict=True)
        axes.fill_between(x, least, most, alpha=0.15, linewidth=0, color=SERIES[index % len(SERIES)])


def _line_style(index: int, marked: bool) -> dict[str, Any]:
    # Dashes as well as colors tell the lines apart, for print and for the color-blind.
    colors = len(SERIES)
    dash = _DASHES[(index + index // colors) % len(_DASHES)]
    return {"color": SERIES[index % colors], "linestyle": dash, "marker": "o" if marked else ""}


def legend(axes: Axes) -> None:
    """The lines' names above the chart."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, columnspacing=1.2)


def label(text: str) -> str:
    """The text without control characters, which XML cannot hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def svg(draw: Callable[[Axes], None], salt: str, description: str) -> Markup:
    """The chart as inline SVG: the same bytes for the same data, no names shared between charts."""
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", _STYLE, {"svg.hashsalt": salt}]):
        canvas = Figure(figsize=(4.7, 2.9))
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
