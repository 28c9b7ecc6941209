"""Where results go when the store is given as a relative path."""

from pathlib import Path

import pytest

from pipelines.stage import SUBMITTED, open_run, parser


def store_of(*arguments: str) -> str:
    """The store's URI for these arguments."""
    given = list(arguments)
    return open_run(parser("full").parse_args(given), given).execution.store


def test_a_relative_store_is_here_or_for_a_job_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(SUBMITTED, raising=False)
    assert store_of() == str(tmp_path / "davam_store")
    monkeypatch.setenv(SUBMITTED, "{}")
    monkeypatch.setenv("HOME", "/home/someone")
    assert store_of() == "/home/someone/davam_store"
    assert store_of("--store", "/data/store") == "/data/store"
    assert store_of("--store", "s3://bucket/store") == "s3://bucket/store"
