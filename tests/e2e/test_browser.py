"""The report in a real browser, from the disk, on a phone and on a desk."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.programs import report_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_opens_without_an_error(
    built: tuple[Path, subprocess.CompletedProcess[str]], width: int, tmp_path: Path
) -> None:
    page, shot = report_of(built[1]), tmp_path / "page.png"
    command = [str(BROWSER), *OPTIONS, f"--window-size={width},2000", f"--user-data-dir={tmp_path / 'profile'}"]
    drawn = subprocess.run(
        [*command, f"--screenshot={shot}", f"file://{page}"], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in drawn.stderr
    assert shot.read_bytes().startswith(b"\x89PNG")
    dom = subprocess.run(
        [*command, "--dump-dom", f"file://{page}"], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert "Verdict: <strong>" in dom
    assert dom.count("<svg") == page.read_text("utf-8").count("<svg")


def test_the_page_is_small(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    assert report_of(built[1]).stat().st_size < 2_000_000
