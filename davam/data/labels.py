"""The labels of a corpus: what a label-conditional model is trained on, and what can be asked of it."""

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from davam.errors import DataError

LABELS = "labels.json"  # beside the rows of a corpus with labels
MOST_LABELS = 1_000  # a column with more values is hardly one of labels
MOST_SHOWN = 10


@dataclass(frozen=True)
class Labels:
    """Every label with its number of training rows, in the order of the names; a label's number is its place."""

    rows: Mapping[str, int]

    @classmethod
    def counted(cls, rows: Mapping[str, Mapping[str, int]], where: str) -> "Labels":
        """Those of the training rows; `rows` counts the rows of every label in every split.

        Raises DataError for too many values to be labels, and for a label that only other splits have.
        """
        training = rows.get("train", {})
        if len(training) > MOST_LABELS:
            raise DataError(
                f"{where} has {len(training):,} values, and {MOST_LABELS:,} at most are labels; give classes instead"
            )
        for split, counts in rows.items():
            for label in sorted(counts.keys() - training.keys()):
                raise DataError(
                    f"{where}: {counts[label]} rows of the {split} split have the label {label!r}, and no training row "
                    "has it; add training rows of it, or leave these out"
                )
        return cls(dict(sorted(training.items())))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> tuple[str, ...]:
        """The labels in the order of their numbers."""
        return tuple(self.rows)

    def numbers(self, names: Sequence[str]) -> list[int]:
        """The number of each label. Raises DataError for one that no training row has."""
        place = {name: number for number, name in enumerate(self.rows)}
        for name in names:
            if name not in place:
                raise DataError(f"label {name!r}: no training row has it; there are {self.shown()}")
        return [place[name] for name in names]

    def shares(self, mix: Mapping[str, float] | Literal["balanced"] | None) -> dict[str, float]:
        """How often each label is drawn: as in the mix, all alike, or as in the training rows.

        Raises DataError for a mix with a label that no training row has.
        """
        if mix == "balanced":
            return dict.fromkeys(self.rows, 1.0)
        if mix is None:
            return {name: float(count) for name, count in self.rows.items()}
        self.numbers(list(mix))
        return {name: mix[name] for name in self.rows if name in mix}  # however the mix is written

    def drawn(self, shares: Mapping[str, float], uniforms: Sequence[float]) -> list[str]:
        """A label for each uniform number."""
        names, bounds = list(shares), list(itertools.accumulate(shares.values()))
        return [names[min(bisect.bisect_right(bounds, u * bounds[-1]), len(names) - 1)] for u in uniforms]

    def shown(self) -> str:
        """The names, for messages."""
        more = f" and {len(self) - MOST_SHOWN} more" if len(self) > MOST_SHOWN else ""
        return ", ".join(self.names[:MOST_SHOWN]) + more


def as_label(value: object, where: str) -> str:
    """A label as text; numbers and truth values are classes, too. Raises DataError for anything else."""
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        raise DataError(f"{where}: the label is {value}, which is no class; make the column whole numbers or text")
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(f"{where}: no label; every row needs one: label it, or leave it out")
    return as_text(value, where)


def as_text(value: object, where: str) -> str:
    """The value, which must be text that can be written. Raises DataError for anything else."""
    if not isinstance(value, str):
        raise DataError(f"{where} is {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: half of a surrogate pair at character {error.start}; repair the escape") from None
    return value


NO_LABELS = Labels({})
