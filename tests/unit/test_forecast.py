"""The forecast of a corpus: its arithmetic, and its table of prices."""

from pathlib import Path

import pytest

from davam.errors import ConfigError
from davam.generation.forecast import Machine, Probe, forecast, machine, read_prices

ROOT = Path(__file__).parents[2]


def test_time_storage_and_money_in_closed_form() -> None:
    figures = forecast(Probe(rows=1000, kept=800, busy_s=4.0, bytes=80_000), 36_000_000, 10, 0.5)
    assert figures == pytest.approx(
        {"kept_share": 0.8, "candidates_per_s_per_worker": 250, "hours": 5, "gigabytes": 3.6, "usd": 25}
    )
    assert "usd" not in forecast(Probe(10, 10, 1.0, 10), 10, 1, None)
    with pytest.raises(ConfigError, match=r"none of 1,000 rows stays, so there is no forecast; loosen filters\.drop"):
        forecast(Probe(1000, 0, 1.0, 0), 10, 1, None)


def test_the_table_of_prices(tmp_path: Path) -> None:
    prices = read_prices(str(ROOT / "cluster" / "prices.yaml"))
    assert machine(prices, "cpu-2").workers == 2
    with pytest.raises(ConfigError, match="--machine big: not in the table of prices; there are cpu-2, cpu-16"):
        machine(prices, "big")
    table = tmp_path / "prices.yaml"
    for text in ("machines: 3", "a: [", "machines: {x: {usd_per_hour: -1, workers: 1}}", "[]"):
        table.write_text(text)
        with pytest.raises(ConfigError, match=r"no table of machines \(.*see cluster/prices.yaml"):
            read_prices(str(table))
    with pytest.raises(ConfigError, match="no table of machines"):
        read_prices(str(tmp_path / "none.yaml"))
    table.write_text("machines: {mine: {usd_per_hour: 2, workers: 4}}")
    assert read_prices(str(table)).machines == {"mine": Machine(usd_per_hour=2, workers=4)}
