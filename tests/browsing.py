"""A real browser for the tests of the pages: Debian's chromium through Playwright; skipped, with a reason, without."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip
GRADIOS_WARNINGS = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("DeprecationWarning", "ResourceWarning", "pytest.PytestUnraisableExceptionWarning")
]
"""The marks of a module that makes the page."""


@contextmanager
def chromium(heard: Path | None = None) -> Iterator[Any]:
    """Open a browser without a window.

    Args:
        heard: a WAV file that its microphone hears, over and over; the page is allowed to listen. None: no microphone.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'talkhead[browser]'")
    if CHROMIUM is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
    flags = [*FLAGS]
    if heard is not None:
        flags += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        flags.append(f"--use-file-for-fake-audio-capture={heard}")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()
