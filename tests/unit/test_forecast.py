"""The forecast of a corpus: its arithmetic, and its table of prices."""

from pathlib import Path

import pytest

from davam.errors import ConfigError
from davam.generation.forecast import Machine, Probe, burden, forecast, machine, read_prices
from pipelines.generate import check_memory, machine_bytes, order_of, parsed

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


def test_what_rows_ask_of_the_driver() -> None:
    asked = burden(10**10, 100)
    assert asked == {"ranges": 2500, "driver_gigabytes_duplicate": 80, "driver_gigabytes_near_duplicate": 640}
    assert burden(1, 1)["ranges"] == 1


def test_more_rows_than_memory_can_compare_are_refused_at_once() -> None:
    check_memory(10**9, ["copy", "duplicate"], 16 * 10**9)
    check_memory(10**10, ["copy"], 1)
    with pytest.raises(ConfigError) as refused:
        check_memory(10**9, ["duplicate", "near_duplicate"], 16 * 10**9)
    assert str(refused.value) == (
        "filters.drop names duplicate and near_duplicate, whose hashes take 72 GB here for 1,000,000,000 rows, but "
        "this machine has 16 GB; leave out near_duplicate, give fewer rows, or make the corpus in parts with a seed "
        "and a --store for each"
    )
    assert machine_bytes() > 10**8


def test_a_container_has_the_memory_of_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = machine_bytes()
    limits = tuple(tmp_path / name for name in ("memory.max", "memory.limit_in_bytes", "nothing"))
    limits[0].write_text("max\n")
    limits[1].write_text(f"{2**63}\n")
    monkeypatch.setattr("pipelines.generate.MEMORY_LIMITS", limits)
    assert machine_bytes() >= whole
    limits[0].write_text("8589\n")
    assert machine_bytes() == 8589


def test_labels_are_given_once() -> None:
    for override in ("sampling.labels=balanced", "sampling.labels={anger: 1}", "sampling.labels.joy=1"):
        options = parsed(["--model", "m", "--rows", "1", "--label", "joy", override])
        with pytest.raises(ConfigError, match=r"--label joy and sampling\.labels: give one of them"):
            order_of(options)
