"""What a corpus will take: time, storage and money, from a few rows that were really made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import Field, ValidationError

from davam.config import Frozen
from davam.data import fs
from davam.errors import ConfigError
from davam.generation.corpus import HASHES, hash_bytes, most_range_rows


class Machine(Frozen):
    """A kind of machine: its price, and how many model actors it carries."""

    usd_per_hour: float = Field(ge=0)
    workers: int = Field(ge=1)


class Prices(Frozen):
    """The table of machines."""

    machines: dict[str, Machine]


@dataclass(frozen=True)
class Probe:
    """Rows that were made to look ahead: how many stay, the seconds that the actors spent on them, and their bytes."""

    rows: int
    kept: int
    busy_s: float
    bytes: int


def forecast(probe: Probe, rows: int, workers: int, usd_per_worker_hour: float | None) -> dict[str, float]:
    """The figures for so many rows on so many workers that are as fast as those of the probe; money where a price is
    known. Raises ConfigError when no row of the probe stays."""
    if not probe.kept:
        raise ConfigError(f"none of {probe.rows:,} rows stays, so there is no forecast; loosen filters.drop")
    kept_share = probe.kept / probe.rows
    rows_per_s = probe.rows / probe.busy_s
    hours = rows / kept_share / rows_per_s / workers / 3600
    figures = {
        "kept_share": kept_share,
        "candidates_per_s_per_worker": rows_per_s,
        "hours": hours,
        "gigabytes": probe.bytes / probe.kept * rows / 1e9,
    }
    return figures if usd_per_worker_hour is None else figures | {"usd": hours * workers * usd_per_worker_hour}


def burden(rows: int, workers: int) -> dict[str, float]:
    """What so many rows ask of the driver, which commits range by range: how many ranges, and the memory of each check
    that compares rows with each other."""
    gigabytes = {f"driver_gigabytes_{name}": hash_bytes(rows, [name]) / 1e9 for name in HASHES}
    return {"ranges": float(math.ceil(rows / most_range_rows(workers)))} | gigabytes


def read_prices(uri: str) -> Prices:
    """The table in a YAML file. Raises ConfigError for a file that is not one."""
    try:
        values: Any = yaml.safe_load(fs.read_bytes(uri))
        return Prices.model_validate(values if isinstance(values, Mapping) else {})
    except (FileNotFoundError, yaml.YAMLError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--prices {uri}: no table of machines ({reason}); see cluster/prices.yaml") from None


def machine(prices: Prices, name: str) -> Machine:
    """The machine of that name. Raises ConfigError that lists those there are."""
    if name not in prices.machines:
        raise ConfigError(f"--machine {name}: not in the table of prices; there are {', '.join(prices.machines)}")
    return prices.machines[name]
