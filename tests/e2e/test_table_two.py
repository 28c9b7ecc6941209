"""Table II as its user makes it: real Ray, rows side by side, and the same command again."""

import subprocess
from pathlib import Path

import pytest

from tests.programs import run

SMALL = [
    "data.train_rows=400",
    "data.valid_rows=60",
    "data.test_rows=60",
    "model.hidden_dim=32",
    "stage_one.batch_rows=32",
    "evaluation.importance_draws=20",
    "samples.rows=64",
]


def table(store: Path, rows: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """The finished program."""
    arguments = ["--preset", "tiny", "--store", str(store), "--rows", rows, "--epochs", "2"]
    return run(*arguments, *SMALL, *overrides, script="table_two")


@pytest.mark.slow
def test_rows_are_trained_once_and_compared(tmp_path: Path) -> None:
    done = table(tmp_path, "vae,lstm_lm")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[1:]] == ["| lstm_lm", "| vae"]
    assert "ppl_exact" in lines[1]
    assert "ppl_iw" in lines[2]
    assert "2 epochs of every training" in done.stdout
    assert (tmp_path / "tables" / "table_two-tiny.html").exists()
    again = table(tmp_path, "vae,lstm_lm")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("skip   unchanged") == 2
    assert [line for line in again.stdout.splitlines() if line.startswith("| ")] == lines


@pytest.mark.slow
def test_rows_with_categorical_latents_go_through_the_whole_pipeline(tmp_path: Path) -> None:
    small = ["model.latents=3", "model.codebook_size=8", "stage_one.optimizer.lr=0.004"]
    done = table(tmp_path, "dvae,dvae_score,daps", *small)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[1:]] == ["| dvae", "| dvae_score", "| daps"]
    assert all("ppl_iw" in line for line in lines[1:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exact", "settings"),
    [({"davam_joint": False, "davam_exact_512": True}, ["model.quantized_epochs=1"]), ({"davam_class": True}, [])],
)
def test_rows_beyond_the_paper_go_through_the_whole_pipeline(
    tmp_path: Path, exact: dict[str, bool], settings: list[str]
) -> None:
    done = table(tmp_path, ",".join(exact), "model.codebook_size=16", "model.continuous_epochs=0", *settings)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[1:]] == [f"| {name}" for name in exact]
    assert ["ppl_exact" in line for line in lines[1:]] == list(exact.values())


@pytest.mark.slow
def test_a_row_that_fails_is_named_and_left_out(tmp_path: Path) -> None:
    done = table(tmp_path, "lstm_lm", "stage_one.optimizer.lr=3e38")
    assert done.returncode == 1
    assert "lstm_lm               failed with exit code 1" in done.stderr
    assert "| lstm_lm | not run |" in done.stdout
    log = (tmp_path / "tables" / "logs" / "lstm_lm.log").read_text()
    assert "error: training diverged" in log
    assert "Traceback" not in log
