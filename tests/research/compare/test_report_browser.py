"""The report in a browser, where there is one: Debian's chromium, without a window."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this computer (apt-get install chromium)")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run",
    "--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom",
)  # fmt: skip

FRAME = """<!DOCTYPE html><title>frame</title><iframe src="report.html" style="width:{width}px;height:700px;border:0"
onload="const page=this.contentDocument.documentElement;document.body.dataset.widths=page.scrollWidth+' '+page.clientWidth"></iframe>"""


def _open(page: Path, *flags: str) -> tuple[str, list[str]]:
    """The page's elements after loading, and what was written on its console."""
    command = [str(CHROMIUM), *FLAGS, *flags, f"--user-data-dir={page.parent / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture
def report(report_page: str, tmp_path: Path) -> Path:
    path = tmp_path / "page" / "report.html"
    path.parent.mkdir()
    path.write_text(report_page, encoding="utf-8")
    return path


def test_it_loads_without_a_word_on_the_console(report: Path) -> None:
    elements, console = _open(report)
    assert "Dataset007_Small" in elements and elements.count("<img") > 10
    assert console == []


def test_a_request_would_be_refused_and_told_on_the_console(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    report.write_text(text.replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'), encoding="utf-8")
    _, console = _open(report)
    assert len(console) == 1 and "Content Security Policy" in console[0]


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_page(report: Path, width: int) -> None:
    frame = report.with_name("frame.html")
    frame.write_text(FRAME.format(width=width), encoding="utf-8")
    elements, _ = _open(frame, "--allow-file-access-from-files", "--window-size=1400,900")
    widths = re.search(r'data-widths="(\d+) (\d+)"', elements)
    assert widths is not None and int(widths[1]) == int(widths[2]) <= width
    assert int(widths[2]) > width - 20
