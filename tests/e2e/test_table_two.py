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


def shown(output: str) -> dict[str, dict[str, str]]:
    """The cells of every row by the names of their columns, but for those of the paper."""
    names, _, *rows = [line.strip("| ").split("|") for line in output.splitlines() if line.startswith("|")]
    cells = [dict(zip(map(str.strip, names), map(str.strip, row), strict=True)) for row in rows]
    return {row["row"]: row for row in cells}


@pytest.mark.slow
def test_rows_are_trained_once_and_compared(tmp_path: Path) -> None:
    done = table(tmp_path, "vae,lstm_lm")
    assert done.returncode == 0, done.stderr
    rows = shown(done.stdout)
    assert list(rows) == ["lstm_lm", "vae"]
    assert float(rows["lstm_lm"]["ppl_exact"]) > 1
    assert rows["lstm_lm"]["ppl_bound"] == ""
    assert 1 < float(rows["vae"]["ppl_iw"]) < float(rows["vae"]["ppl_bound"])
    assert "2 epochs of every training" in done.stdout
    assert (tmp_path / "tables" / "table_two-tiny.html").exists()
    again = table(tmp_path, "vae,lstm_lm")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("skip   unchanged") == 2
    assert shown(again.stdout) == rows


@pytest.mark.slow
def test_rows_with_categorical_latents_go_through_the_whole_pipeline(tmp_path: Path) -> None:
    small = ["model.latents=3", "model.codebook_size=8", "stage_one.optimizer.lr=0.004"]
    done = table(tmp_path, "dvae,dvae_score,daps", *small)
    assert done.returncode == 0, done.stderr
    rows = shown(done.stdout)
    assert list(rows) == ["dvae", "dvae_score", "daps"]
    assert all(float(row["ppl_iw"]) > 1 for row in rows.values())


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
    rows = shown(done.stdout)
    assert list(rows) == list(exact)
    assert [row["ppl_exact"] != "" for row in rows.values()] == list(exact.values())


@pytest.mark.slow
def test_language_models_of_equal_size_stand_beside_a_row(tmp_path: Path) -> None:
    done = table(tmp_path, "davam_class", "--equal", "davam_class")
    assert done.returncode == 0, done.stderr
    rows = shown(done.stdout)
    assert list(rows) == ["davam_class", "lstm_lm_as_davam_class", "transformer_lm_as_davam_class"]
    weights = [int(row["parameters"].replace(",", "")) for row in rows.values()]
    assert weights[1:] == pytest.approx([weights[0]] * 2, rel=0.02)
    assert all(float(row["ppl_exact"]) > 1 for row in rows.values())


@pytest.mark.slow
def test_a_row_that_fails_is_named_and_left_out(tmp_path: Path) -> None:
    done = table(tmp_path, "lstm_lm", "stage_one.optimizer.lr=3e38")
    assert done.returncode == 1
    assert "lstm_lm               failed with exit code 1" in done.stderr
    assert "| lstm_lm | not run |" in done.stdout
    log = (tmp_path / "tables" / "logs" / "lstm_lm.log").read_text()
    assert "error: training diverged" in log
    assert "Traceback" not in log
