"""The plan of a run that was made: all its stages are measured, and it takes what it took."""

import subprocess
from pathlib import Path

import pytest

from davam.cli import main
from davam.data.artifacts import Store
from tests.programs import SMALL, STAGES


def test_a_run_is_what_its_own_plan_says(
    built: tuple[Path, subprocess.CompletedProcess[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(str(built[0]))
    took = {stage: store.list_stage(stage)[0].provenance for stage in STAGES}
    for stage in ("tokens", "codes", "samples", "evaluate"):
        assert 0 < took[stage]["busy_s"] < 2 * took[stage]["wall_s"]
    assert main(["plan", "--store", store.uri, "--workers", "2", *SMALL]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    header, *lines = [line.split() for line in said.out.splitlines()]
    planned = {line[0]: dict(zip(header, line, strict=True)) for line in lines if len(line) == len(header)}
    assert list(planned) == STAGES
    for stage, row in planned.items():
        # Tokens a row are those of the grammar, not of this draw of it.
        assert float(row["wall_s"]) == pytest.approx(took[stage]["wall_s"], rel=0.05, abs=0.11)
        assert row["costs"] == "1_builds"
