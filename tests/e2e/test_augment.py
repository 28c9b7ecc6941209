"""The experiment on augmentation as its user runs it: real Ray, every language model trained once."""

import json
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from davam.data.schemas import check
from tests.programs import killed, run

TINY = [
    "data.train_rows=600",
    "data.valid_rows=60",
    "data.test_rows=60",
    "model.hidden_dim=24",
    "model.embed_dim=16",
    "model.codebook_size=64",
    "prior.hidden_dim=24",
    "prior.embed_dim=16",
    "stage_one.epochs=3",
    "stage_two.epochs=2",
]


def arguments(store: Path, *more: str) -> list[str]:
    """Few rows and short trainings."""
    return ["--store", str(store), "--sizes", "200", "--ratios", "0,1", "--least-steps", "1", *TINY, *more]


def augment(store: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The finished program."""
    return run(*arguments(store, *more), script="augment")


def rows(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The rows of the table that it printed."""
    return [line for line in done.stdout.splitlines() if line.startswith("| 200 ")]


def manifests(store: Path) -> dict[str, bytes]:
    """Everything that was committed."""
    return {str(path.relative_to(store)): path.read_bytes() for path in store.glob("artifacts/*/*/manifest.json")}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A store, and the experiment in it."""
    store = tmp_path_factory.mktemp("store")
    return store, augment(store, "--seeds", "1", "--sources", "repeat,eda")


def test_every_model_is_trained_once(small: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    store, done = small
    assert done.returncode == 0, done.stderr
    assert "augment_cell  0 of 3 are there" in done.stderr
    assert [line.split(" | ")[1:4] for line in rows(done)] == [
        ["same_data", "eda", "1"],
        ["same_data", "real", "0"],
        ["same_data", "repeat", "1"],
    ]
    page = Path(done.stdout.splitlines()[-1].removeprefix("augment "))
    assert page.read_text("utf-8").count("<svg") == 2
    cells = pq.read_table(page.with_name("cells.parquet"))
    check(cells.schema, "augment_cells/2", "the cells")
    assert sorted(set(cells["tokens_added"].to_pylist())) == [0, cells["tokens_real"][0].as_py()]
    assert len(json.loads(page.with_name("results.json").read_bytes())["cells"]) == 3
    # Nothing was found out about the generator, so no report is told anything of it.
    assert not list(store.glob("experiments/**/*.json"))
    before = manifests(store)
    again = augment(store, "--seeds", "1", "--sources", "repeat,eda")
    assert again.returncode == 0, again.stderr
    assert "augment_cell  3 of 3 are there" in again.stderr
    assert rows(again) == rows(done)
    assert manifests(store) == before


def test_a_size_beyond_the_corpus_is_refused_before_any_training(
    small: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    before = manifests(small[0])
    done = augment(small[0], "--sizes", "601", "--sources", "repeat")
    assert done.returncode == 2
    assert "error: --sizes 601: the corpus has 600 training sentences; ask for fewer, or add text" in done.stderr
    assert manifests(small[0]) == before


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_run_goes_on_and_ends_as_the_unbroken_one(tmp_path: Path) -> None:
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    some = ("--seeds", "2", "--sources", "repeat,eda")
    killed(
        "augment",
        arguments(broken, *some),
        lambda: len(list(broken.glob("artifacts/augment_cell/*/manifest.json"))) > 1,
    )
    before = manifests(broken)
    assert 2 <= sum("augment_cell" in name for name in before) < 6
    done, unbroken = augment(broken, *some), augment(whole, *some)
    assert done.returncode == 0, done.stderr
    assert before.items() <= manifests(broken).items()
    assert rows(done) == rows(unbroken)
    assert len(rows(done)) == 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_generators_under_both_protocols(tmp_path: Path) -> None:
    done = augment(tmp_path, "--seeds", "2")
    assert done.returncode == 0, done.stderr
    shown = [line.split(" | ")[1:3] for line in rows(done)]
    assert shown == [
        *(["same_data", name] for name in ("davam", "eda", "lstm_lm", "real", "repeat")),
        ["pretrained", "davam"],
        ["pretrained", "lstm_lm"],
    ]
    assert "* **davam on its own 200 sentences (same_data): " in done.stdout
    before = manifests(tmp_path)
    grown = augment(tmp_path, "--seeds", "2", "--ratios", "0,1,2", "--sources", "davam")
    assert grown.returncode == 0, grown.stderr
    assert "augment_cell  6 of 10 are there" in grown.stderr
    assert before.items() <= manifests(tmp_path).items()
    trained = {name for name in manifests(tmp_path).keys() - before.keys() if "/stage_" in name}
    assert not trained


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_corpus_with_labels_is_judged_by_a_classifier_as_well(tmp_path: Path) -> None:
    done = augment(tmp_path, "--seeds", "2", "--sources", "lstm_lm,repeat", "data.label_column=category")
    assert done.returncode == 0, done.stderr
    assert "| accuracy | 95% | difference | 95% |" in done.stdout
    accuracies = [float(line.split(" | ")[9]) for line in rows(done)]
    assert all(0 < accuracy <= 1 for accuracy in accuracies)
