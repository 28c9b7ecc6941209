"""One small run of the whole pipeline, for all tests that read what it leaves."""

import subprocess
from pathlib import Path

import pytest

from tests.programs import SMALL, run


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    store = tmp_path_factory.mktemp("store")
    return store, run("--store", str(store), "--workers", "2", *SMALL)
