"""A finished run on a tracking server, as its user puts it there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import ROOT, report_of

pytestmark = pytest.mark.slow


def to_mlflow(run: Path | str, server: Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "pipelines/to_mlflow.py", "--run", str(run), "--tracking-uri", f"file://{server}"]
    environment = os.environ | more
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)


def test_a_run_is_written_once_with_all_that_was_measured(
    built: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = next((built[0] / "runs").iterdir())
    first, second = to_mlflow(folder, tmp_path), to_mlflow(folder, tmp_path)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout == second.stdout
    mlflow.set_tracking_uri(f"file://{tmp_path}")
    (run,) = mlflow.search_runs(experiment_names=["davam"], output_format="list")
    assert run.data.params["model.codebook_size"] == "64"
    assert {"ppl_bound", "test_copy_rate", "stage_one/valid/rec_nats"} <= run.data.metrics.keys()
    found = mlflow.artifacts.list_artifacts(run_id=run.info.run_id, artifact_path="report")
    assert {"report/report.html", "report/report.json"} <= {entry.path for entry in found}
    report = report_of(built[1])
    before = report.read_text("utf-8")
    try:
        report.write_text(f"{before}<!-- made again -->", "utf-8")
        again = to_mlflow(folder, tmp_path)
    finally:
        report.write_text(before, "utf-8")
    assert again.stdout not in ("", first.stdout)
    assert to_mlflow(folder, tmp_path).stdout == first.stdout


def test_what_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    refused = to_mlflow(tmp_path, tmp_path)
    assert refused.returncode == 1
    assert "no finished run here; give STORE/runs/ID, as full.py leaves it" in refused.stderr
    assert "Traceback" not in refused.stderr
