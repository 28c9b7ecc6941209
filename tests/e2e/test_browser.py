"""The report in a real browser, from the disk, on a phone and on a desk."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from davam.augment.page import COLUMNS, TITLE
from davam.evaluate.report import Report, Section, render
from davam.evaluate.verdict import Verdict
from tests.programs import report_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr")
PHONE = 390  # pixels
# The page itself allows no script, so it is measured from outside, in a frame as wide as a phone.
FRAME = """<!doctype html><title>-</title>
<iframe src="report.html" style="border: 0; width: {width}px; height: 2000px"></iframe>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  document.title = "widths " + frame.contentDocument.documentElement.scrollWidth + " " + frame.contentWindow.innerWidth;
}};
</script>"""


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


def wide_report() -> Report:
    """A report with an experiment whose tables are much wider than a phone."""
    cells = ["2,000", "same_data", "davam", "0.5", *["1,234.56 to 2,345.67"] * (len(COLUMNS) - 4)]
    sentences = Section("Table III: samples", "", ["row", "text"], [["davam_512", "a man in a hat sits . " * 20]], [])
    notes = ["python pipelines/augment.py " + "--sizes=1000,2000,4000" * 20]
    sections = [Section(TITLE, "It helps.", COLUMNS, [cells] * 9, [], (), notes), sentences]
    verdict = Verdict("keep", ("No fault was found.",))
    return Report("t", "s", "2026", verdict, "v", [], [], [], [], [], [], [], [], sections, {}, [], 0.0, {}, "", "")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_wide_experiment_does_not_widen_the_page_on_a_phone(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(render(wide_report()), "utf-8")
    (tmp_path / "frame.html").write_text(FRAME.format(width=PHONE), "utf-8")
    options = [*OPTIONS, "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [str(BROWSER), *options, "--dump-dom", f"file://{tmp_path / 'frame.html'}"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r"<title>widths (\d+) (\d+)</title>", dom)
    assert found is not None, dom
    scrolled, inner = map(int, found.groups())
    assert inner == PHONE
    assert scrolled <= inner


def test_the_page_is_small(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    assert report_of(built[1]).stat().st_size < 2_000_000
