"""The review in a browser, by keyboard, from the command line on: look, filter, decide, undo, reload, curate.

The same flows run without a browser in test_app.py. This lane needs chromium (Debian: apt-get install chromium).
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from roclip_audit.audit.decision_log import read_log
from roclip_audit.core.run import RunFolder
from tests.audit.review.reviewkit import HOSTILE, build_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; Debian: apt-get install chromium"),
]
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return build_run(tmp_path, n_pairs=80, captions=HOSTILE)


@pytest.fixture
def address(run: RunFolder) -> Iterator[str]:
    """Start the command, give its address, and stop it as Ctrl-C does."""
    command = [sys.executable, "-m", "roclip_audit.cli.main", "review", "--audit", str(run.root), "--reviewer", "anna"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield line.split(": ", 1)[1].strip()
        process.send_signal(signal.SIGINT)
        process.wait(20)


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """A page of a headless browser that has come in; what the page complains about fails the test."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        found = browser.new_page(viewport={"width": 1200, "height": 900})
        complaints: list[str] = []
        found.on("pageerror", lambda error: complaints.append(str(error)))
        found.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        found.goto(address)
        yield found
        browser.close()
        assert complaints == []


def verdicts(run: RunFolder) -> list[tuple[str, str]]:
    return [(one.verdict, one.reviewer) for one in read_log(run)[0]]


def wait_for(page: Any, condition: str) -> None:
    """Wait for a condition in JavaScript; Playwright's own way would need what the page's policy forbids."""
    from playwright.sync_api import Error

    for _ in range(200):
        with suppress(Error):  # the page was just being left
            if page.evaluate(condition):
                return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {condition}")


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.dataset.uid ?? ''"))


def test_look_filter_decide_undo_reload_curate(page: Any, run: RunFolder, tmp_path: Path) -> None:
    assert "token" not in page.url
    assert page.title() == "Pairs · roclip-audit"
    wait_for(page, "document.querySelector('[data-count]').textContent === '88 pairs'")
    wait_for(page, "[...document.images].slice(0, 4).every((one) => one.complete && one.naturalWidth > 0)")

    page.keyboard.press("j")
    first = focused(page)
    page.keyboard.press("d")
    page.wait_for_selector(f"#p-{first}[data-verdict=drop]")
    second = focused(page)
    assert second not in {"", first}
    page.keyboard.press("f")
    page.wait_for_selector(f"#p-{second}[data-verdict=keep]")
    assert verdicts(run) == [("drop", "anna"), ("keep", "anna")]
    page.keyboard.press("k")
    page.keyboard.press("u")
    page.wait_for_selector(f"#p-{second}[data-verdict='']")
    assert focused(page) == second  # the reload came back to where it was

    page.keyboard.press("/")
    page.keyboard.type("red")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?search=red*")
    captions = page.locator(".card .caption").all_inner_texts()
    assert captions
    assert all("red" in caption for caption in captions)
    page.goto(page.url.split("?")[0])  # opened without a list: back to where the reviewer was
    page.wait_for_url("**/?search=red*")

    page.keyboard.press("j")
    shown = focused(page)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/pair/{shown}*")
    page.fill("#note", "a red one")
    page.keyboard.press("Escape")
    page.keyboard.press("d")
    wait_for(page, f"!location.pathname.endsWith('{shown}')")
    page.go_back()
    page.wait_for_selector(".history >> text=a red one")
    page.keyboard.press("Escape")
    page.wait_for_selector(f"#p-{shown}[data-verdict=drop]")

    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.wait_for_url("**/campaigns")
    page.uncheck("input[name=suspicious]")
    page.get_by_role("button", name="Drop").click()
    page.wait_for_selector("text=12 dropped")
    page.keyboard.press("u")
    page.wait_for_selector("text=Undone for 12")

    command = [sys.executable, "-m", "roclip_audit.cli.main", "curate", str(tmp_path / "shards"), str(tmp_path / "out"),
               "--audit", str(run.root), "--where", "false", "--dry-run"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "2 for decision: drop" in done.stdout or "changed" in done.stderr, done.stdout + done.stderr


def test_hostile_captions_run_nothing(page: Any) -> None:
    page.goto(page.url.split("?")[0] + "?sort=caption&ascending=1")
    page.wait_for_load_state("networkidle")
    assert page.title() == "Pairs · roclip-audit"
    assert page.evaluate("document.querySelectorAll('script').length") == 1


@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_sticks_out(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    uid = page.get_attribute(".card", "data-uid")
    base = page.url.split("?")[0].rstrip("/")
    for path in ("/?show=all", f"/pair/{uid}", "/campaigns"):
        page.goto(base + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
