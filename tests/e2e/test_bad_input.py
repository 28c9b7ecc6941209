"""What a user does wrong: one message that says what, where and what to do, the right exit code, no traceback."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from pipelines.full import full, plan
from pipelines.stage import program
from tests.programs import SMALL, run

Here = Callable[..., subprocess.CompletedProcess[str]]
FILES = ("--preset", "recommended", "data.kind=files")


def expect(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """The exit code, all parts of the message, and nothing of Python's insides."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr.split("error: ", 1)[1]
    for part in parts:
        assert part in message


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """Ray is started once, by the first test that needs it."""
    yield
    ray.shutdown()


@pytest.fixture
def here(one_ray: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """Runs the program in this process."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run_here(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = program("full", plan, full, arguments)
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    return run_here


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("model.codebok_size=9",), 2, ("model.codebok_size: unknown key; did you mean codebook_size?",)),
        (("model.codebook_size=1",), 2, ("model.codebook_size=1: input should be greater than or equal to 2",)),
        (
            ("stage_one.epochs=1",),
            2,
            ("stage_one.epochs=1 with model.continuous_epochs=1: no epoch would be quantized",),
        ),
        (("--preset", "recomended"), 2, ("no such preset; did you mean recommended?",)),
        (("--workers", "4000"), 2, ("--workers 4000 needs 4000 CPUs, but this machine has",)),
        ((*FILES, "data.train=no/such.txt"), 2, ("no/such.txt: no such file, folder or glob; check data.root",)),
    ],
)
def test_settings(tmp_path: Path, arguments: tuple[str, ...], code: int, parts: tuple[str, ...], here: Here) -> None:
    expect(here("--store", str(tmp_path), *arguments), code, *parts)


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    expect(run("--store", str(tmp_path / "file" / "store")), 1, "cannot write", "or choose another --store")


def test_an_empty_file(tmp_path: Path, here: Here) -> None:
    (tmp_path / "empty.txt").write_text("")
    done = here("--store", str(tmp_path / "store"), *FILES, f"data.train={tmp_path}/empty.txt")
    expect(done, 2, "empty.txt: the file is empty; give a file with one sentence a line")


def test_a_file_that_is_not_utf8(tmp_path: Path, here: Here) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait\n")
    done = here("--store", str(tmp_path / "store"), *FILES, f"data.train={tmp_path}/latin.txt")
    expect(done, 2, "latin.txt: not UTF-8 at byte 3", "iconv -f latin1 -t utf-8")
    assert not list((tmp_path / "store").glob("**/manifest.json"))


def test_too_few_sentences_and_dropped_rows(tmp_path: Path, here: Here) -> None:
    lines = [f"a b {i}" for i in range(30)] + ["", "  ", "w " * 1_000_000]
    (tmp_path / "few.txt").write_text("\n".join(lines) + "\n")
    done = here("--store", str(tmp_path / "store"), *FILES, f"data.train={tmp_path}/few.txt", "data.valid_share=0.4")
    expect(done, 2, "training sentences for 512 codes: every code needs several; add text, or set model.codebook_size=")
    assert "dropped 2 blank rows and 1 rows longer than data.max_tokens" in done.stderr


def test_a_training_that_diverges(tmp_path: Path) -> None:
    done = run("--store", str(tmp_path), "--workers", "2", *SMALL, "stage_one.optimizer.lr=1e30")
    expect(done, 1, "training diverged in epoch 1, step", "the gradient norm is", "lower the optimizer's lr")
    assert [path.parts[-3] for path in tmp_path.glob("artifacts/*/*/manifest.json")] == ["tokens"]


def test_one_sentence_only(tmp_path: Path, here: Here) -> None:
    (tmp_path / "one.txt").write_text("a single sentence\n")
    done = here("--store", str(tmp_path / "store"), *FILES, f"data.train={tmp_path}/one.txt")
    expect(done, 2, "1 training sentences for 512 codes: every code needs several; add text")


def test_a_vocabulary_that_is_all_unknown(tmp_path: Path, here: Here) -> None:
    (tmp_path / "rare.txt").write_text("\n".join(f"a{i} b{i}" for i in range(99)) + "\n")
    done = here("--store", str(tmp_path / "store"), *FILES, f"data.train={tmp_path}/rare.txt", "tokenizer.min_count=2")
    expect(done, 2, "every word would be <unk>: none occurs 2 times (the most frequent 1); lower tokenizer.min_count")
