"""Scheduled retraining, one day after the other: what is new is trained on, and promoted where it is better."""

import json
import random
import subprocess
from pathlib import Path

import pytest

from davam import api
from davam.data import channel, fs, grammar
from davam.generation.training_text import text_of
from tests.programs import SMALL, killed, run, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TEXTS = grammar.sample_sentences(8_000, seed=3)
NOT_OF_FILES = ("data.train_rows", "data.valid_rows", "data.test_rows")
SETTINGS = [
    *(text for text in SMALL if not text.startswith(NOT_OF_FILES)),
    "data.valid_share=0.2",
    "data.test_share=0.2",
]


def arguments(store: Path, data: Path, *more: str) -> list[str]:
    given = ["--preset", "recommended,tiny,brief", "--store", str(store), "--workers", "2", "--channel", "prod"]
    return [*given, "--data", str(data), *more, *SETTINGS, "data.max_tokens=32"]


def write(folder: Path, name: str, texts: list[str]) -> Path:
    fs.write_bytes_atomic(str(folder / name), "".join(f"{text}\n" for text in texts).encode())
    return folder


def retrained(store: Path, data: Path, *more: str) -> subprocess.CompletedProcess[str]:
    done = run(*arguments(store, data, *more), script="retrain")
    assert done.returncode in (0, 10), done.stderr
    return done


def decision(done: subprocess.CompletedProcess[str], store: Path) -> dict[str, object]:
    name = done.stdout.splitlines()[-1].split()[1].rpartition("/")[2]
    found: dict[str, object] = json.loads((store / "decisions" / "prod" / f"{name}.json").read_text())
    return found


def test_a_week_of_retraining(tmp_path: Path) -> None:
    store, data = tmp_path / "store", tmp_path / "data"

    first = retrained(store, write(data, "monday.txt", TEXTS[:3000]))
    assert (first.returncode, len(channel.promotions(str(store), "prod"))) == (0, 1), first.stderr

    unchanged = retrained(store, data)
    assert unchanged.returncode == 10
    assert "Nothing new: " in unchanged.stdout
    assert "  build  " not in unchanged.stderr

    write(data, "tuesday.txt", TEXTS[3000:])
    looked = retrained(store, data, "--dry-run")
    assert looked.returncode == 10
    assert "Decision: promote the challenger." in looked.stdout
    assert len(channel.promotions(str(store), "prod")) == 1
    assert decision(looked, store)["changes"] == {"new": 1, "the same": 1}

    # Two at once: what one builds the other waits for, and one of them promotes.
    second = started("retrain", arguments(store, data), lambda: True)
    other = retrained(store, data)
    second.communicate(timeout=250)
    assert sorted([other.returncode, second.returncode]) == [0, 10]
    better = channel.promotions(str(store), "prod")
    assert len(better) == 2

    shuffled = [" ".join(random.Random(text).sample(text.split(), len(text.split()))) for text in TEXTS]
    worse = retrained(store, write(tmp_path / "worse", "all.txt", shuffled))
    assert worse.returncode == 10, worse.stdout
    assert "NOT MET: perplexity of the frozen sentences" in worse.stdout
    assert channel.promotions(str(store), "prod") == better

    drifted = retrained(store, write(tmp_path / "drifted", "all.txt", [*TEXTS, *(text.upper() for text in TEXTS)]))
    flags = decision(drifted, store)["drift"]["flags"]  # type: ignore[index]
    assert any(flag.startswith("unknown words: ") for flag in flags)

    # Killed as soon as it has decided; the next one comes to the same decision. Both go on from the champion.
    write(data, "wednesday.txt", grammar.sample_sentences(8_000, seed=4))
    known = set((store / "decisions" / "prod").glob("*.json"))
    warm = ("--warm-start", "--keep", "2")
    killed("retrain", arguments(store, data, *warm), lambda: set((store / "decisions" / "prod").glob("*.json")) - known)
    after = channel.promotions(str(store), "prod")
    again = retrained(store, data, *warm)
    assert "  build  " not in again.stderr
    run_path = again.stdout.splitlines()[-1].split()[1]
    last = channel.promotions(str(store), "prod")
    assert (again.returncode == 0) == (len(last) > len(after))
    assert len([each for each in last if each.run == run_path]) <= 1
    begun = json.loads((store / run_path / "run.json").read_text())["recipe"]["warm_start"]
    assert begun == str(store / after[-1].run)
    text = text_of(str(store / run_path))
    assert text is not None
    assert not text.is_all
    if again.returncode == 0:
        assert len(list((store / "runs").iterdir())) == 2

    api.load(str(store / "channels" / "prod")).sample(2)
