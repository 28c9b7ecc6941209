"""The estimate of a recipe: costs that were measured in its store and, where there are none, those of a reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from davam.config import Frozen
from davam.data import fs
from davam.errors import ConfigError
from davam.generation.forecast import Probe
from davam.plan.cost import Build, Cost, fitted
from davam.plan.runs import alike
from davam.plan.work import Work
from davam.recipe import Recipe, load_recipe

FAR = 10  # times the work that was measured, from which on an estimate is a guess
HEADER = ("stage", "units", "unit", "workers", "fixed_s", "serial_us", "worker_us", "wall_s", "megabytes", "costs")


class Reference(Frozen):
    """Costs that were measured elsewhere: when, on what and by what command, and for which recipe."""

    date: str
    hardware: str
    command: str
    preset: str
    overrides: tuple[str, ...] = ()
    stages: dict[str, Cost]

    @property
    def recipe(self) -> Recipe:
        """The recipe that was measured."""
        return load_recipe(self.preset.split(","), self.overrides)


@dataclass(frozen=True)
class Estimate:
    """What a stage will take, and where its costs come from: so many builds, or the reference."""

    work: Work
    cost: Cost
    builds: int

    @property
    def wall_s(self) -> float:
        """Seconds."""
        return self.cost.wall_s(self.work)

    @property
    def bytes(self) -> float:
        """Bytes that stay."""
        return self.cost.bytes(self.work)


def estimates(works: Sequence[Work], builds: Mapping[str, Sequence[Build]], reference: Reference) -> list[Estimate]:
    """The estimate of each stage."""
    return [_estimate(work, builds.get(work.stage, ()), reference) for work in works]


def totals(found: Sequence[Estimate], workers: int, usd_per_worker_hour: float | None) -> dict[str, float]:
    """Seconds and bytes of all stages, one after the other and, where a price is known, the money for the workers, who
    are paid for all the while."""
    hours = sum(estimate.wall_s for estimate in found) / 3600
    figures = {"wall_s": 3600 * hours, "megabytes": sum(estimate.bytes for estimate in found) / 1e6}
    return figures if usd_per_worker_hour is None else figures | {"usd": hours * workers * usd_per_worker_hour}


def sampling_probe(found: Sequence[Estimate]) -> Probe:
    """The rows of `samples` as a look ahead at a larger corpus: without checks, so all of them stay."""
    samples = next(estimate for estimate in found if estimate.work.stage == "samples")
    rows = round(samples.work.units)
    return Probe(rows, rows, rows * samples.cost.worker_s_per_unit, round(samples.bytes))


def table(found: Sequence[Estimate]) -> list[str]:
    """The lines of a table, columns apart by blanks: seconds and bytes of each stage and what they are made of."""
    rows = [HEADER, *map(_cells, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def caveats(found: Sequence[Estimate], recipe: Recipe, reference: Reference) -> list[str]:
    """What a reader should know of where the costs come from."""
    borrowed = [estimate.work.stage for estimate in found if not estimate.builds]
    lines = []
    if borrowed:
        lines.append(
            f"not measured in this store: {', '.join(borrowed)}; their costs are those of {reference.hardware}, "
            f"{reference.date}, {reference.command}"
        )
        if not alike(reference.recipe, recipe):
            lines.append("that was another model, so they are a guide at best; a short run in this store measures them")
    far = [each.work.stage for each in found if each.work.units > FAR * each.cost.most_units]
    if far:
        lines.append(f"over {FAR} times what was measured: {', '.join(far)}")
    return lines


def read_reference(uri: str) -> Reference:
    """The costs in a YAML file. Raises ConfigError for a file that is none."""
    try:
        values: Any = yaml.safe_load(fs.read_bytes(uri))
        return Reference.model_validate(values)
    except (FileNotFoundError, yaml.YAMLError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--reference {uri}: no table of costs ({reason}); see cluster/costs.yaml") from None


def _estimate(work: Work, builds: Sequence[Build], reference: Reference) -> Estimate:
    if builds:
        return Estimate(work, fitted(builds), len(builds))
    # A pretraining trains the same model in the same way.
    name = "stage_one" if work.stage == "pretraining" else work.stage
    if name not in reference.stages:
        raise ConfigError(f"--reference: no costs of {name}, and none were measured in this store; see costs.yaml")
    return Estimate(work, reference.stages[name], 0)


def _cells(estimate: Estimate) -> tuple[str, ...]:
    work, cost = estimate.work, estimate.cost
    return (
        work.stage,
        f"{work.units:.0f}",
        work.unit,
        f"{work.workers}",
        f"{cost.fixed_s:.2f}",
        f"{1e6 * cost.serial_s_per_unit:.4g}",
        f"{1e6 * cost.worker_s_per_unit:.4g}",
        f"{estimate.wall_s:.1f}",
        f"{estimate.bytes / 1e6:.3g}",
        f"{estimate.builds}_builds" if estimate.builds else "reference",
    )
