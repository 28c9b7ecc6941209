"""The experiment's results and what follows from them: means, differences from no augmentation, and the verdict.

A difference is paired: the same real sentences and the same seed with and without the added ones. Negative is better.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from davam.augment.intervals import Interval, interval
from davam.data.schemas import SCHEMAS
from davam.evaluate.verdict import Usefulness

PROTOCOLS = SAME_DATA, PRETRAINED = "same_data", "pretrained"
REAL = "real"  # the source of the cells without anything added
REPEAT, LSTM_LM, EDA, CAUSAL_LM = "repeat", "lstm_lm", "eda", "causal_lm"
RIVALS = (REPEAT, EDA, LSTM_LM)  # what a generator must beat before it is said to help

Condition = tuple[str, str, int, float]


@dataclass(frozen=True)
class Cell:
    """One language model: what it was trained on, and its perplexity on the real test sentences.

    `accuracy` is that of a classifier trained on the same rows with their labels, None where there are none.
    """

    protocol: str
    source: str
    size: int
    ratio: float
    seed: int
    ppl_exact: float
    accuracy: float | None
    tokens_real: int
    tokens_added: int
    rows_added: int
    rows_judged: int
    steps: int
    epochs: int
    wall_s: float

    @property
    def condition(self) -> Condition:
        """All but the seed."""
        return self.protocol, self.source, self.size, self.ratio


@dataclass(frozen=True)
class Summary:
    """One condition over all seeds: the perplexity, its paired difference from the real sentences alone, and the same
    of the accuracy, where there are labels."""

    protocol: str
    source: str
    size: int
    ratio: float
    seeds: int
    ppl: Interval
    difference: Interval
    accuracy: Interval | None
    accuracy_difference: Interval | None


@dataclass(frozen=True)
class Verdict:
    """What can be said of a generator at one size: `helps`, `hurts` or `no difference seen`, why, and the best ratio,
    that of the lowest mean perplexity among those that help or, where none does, among all, 0 for nothing added.
    `ratio` and `difference` are the ratio among those with something added on which this rests, and its paired
    difference; `seeds` and `ratios` are how many were measured."""

    source: str
    size: int
    says: Usefulness
    why: str
    best_ratio: float
    ratio: float
    difference: Interval
    seeds: int
    ratios: int


HELPS: Usefulness = "helps"
HURTS: Usefulness = "hurts"
NO_DIFFERENCE: Usefulness = "no difference seen"


def table(cells: Sequence[Cell]) -> pa.Table:
    """The cells in the schema `augment_cells/2`."""
    schema = SCHEMAS["augment_cells/2"]
    columns: dict[str, list[Any]] = {name: [getattr(cell, name) for cell in cells] for name in schema.names}
    columns["accuracy"] = [math.nan if cell.accuracy is None else cell.accuracy for cell in cells]
    return pa.Table.from_pydict(columns, schema=schema)


def summaries(cells: Iterable[Cell]) -> list[Summary]:
    """Every condition over its seeds, by size, protocol, source and ratio."""
    cells = list(cells)
    alone = {(cell.size, cell.seed): cell for cell in cells if cell.source == REAL}
    found = []
    ordered = sorted(
        cells, key=lambda cell: (cell.size, PROTOCOLS.index(cell.protocol), cell.source, cell.ratio, cell.seed)
    )
    for _, group in groupby(ordered, key=lambda cell: cell.condition):
        here = list(group)
        before = [alone[cell.size, cell.seed] for cell in here]
        pairs = list(zip(here, before, strict=True))
        right = [
            (cell.accuracy, real.accuracy)
            for cell, real in pairs
            if cell.accuracy is not None and real.accuracy is not None
        ]
        found.append(
            Summary(
                here[0].protocol,
                here[0].source,
                here[0].size,
                here[0].ratio,
                len(here),
                interval([cell.ppl_exact for cell in here]),
                interval([cell.ppl_exact - real.ppl_exact for cell, real in pairs]),
                interval([share for share, _ in right]) if right else None,
                interval([share - real for share, real in right]) if right else None,
            )
        )
    return found


def verdict(cells: Sequence[Cell], source: str, size: int) -> Verdict:
    """The answer for a generator that has seen the same sentences alone, from the intervals alone; of its cells of that
    size there must be some.

    It helps where, at one ratio, the difference from nothing added lies below 0, and so do those from every rival at
    that ratio. It hurts where at every ratio the difference from nothing added lies above 0.
    """
    own = [cell for cell in cells if cell.size == size and cell.source == source and cell.protocol == SAME_DATA]
    found = {each.ratio: each.difference for each in summaries([*own, *_alone(cells, size)]) if each.source == source}
    lower = [ratio for ratio in found if found[ratio].below_zero]
    missing = {ratio: unbeaten(cells, source, size, ratio) for ratio in lower}
    helping = [ratio for ratio in lower if not missing[ratio]]
    shown = min(helping or lower or found, key=lambda ratio: found[ratio].mean)
    lowest = min(found, key=lambda ratio: found[ratio].mean)
    best = lowest if found[lowest].mean < 0 else 0.0
    says, seeds = NO_DIFFERENCE, len({cell.seed for cell in own})
    if helping:
        says, best = HELPS, shown
        why = f"at ratio {shown:g} lower than without, and than {', '.join(RIVALS)}"
    elif all(difference.above_zero for difference in found.values()):
        says, why = HURTS, "higher than without at every ratio"
    elif lower:
        why = f"at ratio {shown:g} lower than without, but not shown to be lower than {', '.join(missing[shown])}"
    elif seeds < 2:
        why = "one seed gives no interval; give --seeds 3 or more"
    else:
        why = "at no ratio does the interval of the difference lie below 0"
    return Verdict(source, size, says, why, best, shown, found[shown], seeds, len(found))


def unbeaten(cells: Sequence[Cell], source: str, size: int, ratio: float) -> list[str]:
    """The rivals that the source is not shown to beat at that size and ratio under the same data, by paired intervals;
    a rival that was not measured is one of them."""
    here = {
        (cell.source, cell.seed): cell.ppl_exact
        for cell in cells
        if (cell.protocol, cell.size, cell.ratio) == (SAME_DATA, size, ratio)
    }
    seeds = sorted(seed for name, seed in here if name == source)
    found = []
    for rival in RIVALS:
        pairs = [here[source, seed] - here[rival, seed] for seed in seeds if (rival, seed) in here]
        if not pairs or not interval(pairs).below_zero:
            found.append(rival)
    return found


def _alone(cells: Iterable[Cell], size: int) -> list[Cell]:
    return [cell for cell in cells if cell.size == size and cell.source == REAL]
