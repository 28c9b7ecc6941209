"""Metrics are exported under the names that the rules and the board ask for."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import metrics
from cluster.metrics import EXPORTED, SHOWN, StageMetrics, export_range
from davam.generation.corpus import Range, Said

FOLDER = Path(__file__).parents[2] / "cluster" / "monitoring"
Seen = dict[tuple[str, ...], float]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What the gauges hold, by name and tags."""
    held: Seen = {}

    class Gauge:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...] = ()) -> None:
            assert description
            self.name, self.tag_keys = name, tag_keys

        def set(self, value: float, tags: dict[str, str] | None = None) -> None:
            assert set(tags or {}) == set(self.tag_keys)
            held[(self.name, *(tags or {}).values())] = value

    monkeypatch.setattr(metrics, "Gauge", Gauge)
    return held


def export_all(seen: Seen) -> set[str]:
    """The names of everything that is exported."""
    stage = StageMetrics("stage_one", 100, "steps")
    stage.update({"done": 30.0, f"{SHOWN}rec_nats": 4.5, f"{EXPORTED}valid/kl_nats_sum": 2.5, "busy_s": 1.0})
    export_range(Range(0, 200, 150, {"copy": 50}, Said({}, {}, 1000, 300)))
    return {name for name, *_ in seen}


def test_a_stage_and_a_range_are_exported(seen: Seen) -> None:
    export_all(seen)
    assert seen.pop(("davam_stage_seconds", "stage_one", "steps")) >= 0
    assert seen == {
        ("davam_stage_total", "stage_one", "steps"): 100,
        ("davam_stage_done", "stage_one", "steps"): 30,
        ("davam_stage_measure", "stage_one", "rec_nats"): 4.5,
        ("davam_stage_measure", "stage_one", "valid/kl_nats_sum"): 2.5,
        ("davam_rows_share", "kept"): 0.75,
        ("davam_rows_share", "copy"): 0.25,
        ("davam_rows_copied_tokens",): 2.0,
    }


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text())
    return found


def test_rules_and_board_ask_for_what_is_exported(seen: Seen) -> None:
    asked = [rule["expr"] for rule in rules()]
    asked += [target["expr"] for panel in board()["panels"] for target in panel["targets"]]
    asked.append(board()["templating"]["list"][1]["definition"])
    names = set(re.findall(r"\bray_(\w+)", " ".join(asked)))
    assert names == export_all(seen)


def test_every_rule_says_what_happened() -> None:
    for rule in rules():
        assert rule["alert"].startswith("Davam")
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_panels_lie_side_by_side() -> None:
    panels = board()["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len({panel["id"] for panel in panels}) == len(panels)
