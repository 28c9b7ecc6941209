"""What Prometheus sees of the work, through Ray's own metrics: how far each stage is, its measures, and what a corpus
drops. Ray puts `ray_` before the names, and exports them on every node; monitoring/ has rules and a board for them."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ray.util.metrics import Gauge

if TYPE_CHECKING:
    from davam.generation.corpus import Range

SHOWN = "show:"  # before the names of values that are for the progress line and for boards
EXPORTED = "export:"  # before those that are for boards alone


class StageMetrics:
    """The metrics of one piece of long work: tags say which, and what its unit is."""

    def __init__(self, stage: str, total: float, unit: str) -> None:
        self.tags = {"stage": stage, "unit": unit}
        self.began_s = time.monotonic()
        self.done, self.total, self.seconds = (
            Gauge(f"davam_stage_{name}", description, tuple(self.tags))
            for name, description in (
                ("done", "Work done, in the stage's unit"),
                ("total", "Work that the stage has, in its unit"),
                ("seconds", "Seconds since the stage began"),
            )
        )
        self.measure = Gauge(
            "davam_stage_measure", "Measures of training, such as rec_nats and kl_nats_sum", ("stage", "measure")
        )
        self.total.set(total, self.tags)

    def update(self, values: Mapping[str, float]) -> None:
        """Exports the values that a stage's counter holds."""
        self.done.set(values.get("done", 0.0), self.tags)
        self.seconds.set(time.monotonic() - self.began_s, self.tags)
        for name, value in values.items():
            if name.startswith((SHOWN, EXPORTED)):
                self.measure.set(value, {"stage": self.tags["stage"], "measure": name.partition(":")[2]})


def export_range(part: "Range") -> None:
    """Exports what a range of a corpus came to: the share that stays, that dropped by reason, and the mean length of
    the longest run that its rows copy."""
    made = part.stop - part.first
    share = Gauge("davam_rows_share", "Share of a range's candidates, by what became of them", ("outcome",))
    share.set(part.kept / made, {"outcome": "kept"})
    for reason, count in part.dropped.items():
        share.set(count / made, {"outcome": reason})
    copied = Gauge("davam_rows_copied_tokens", "Mean longest run of tokens that a row copies of the training text")
    copied.set(part.said.copied_tokens / max(1, part.kept))
