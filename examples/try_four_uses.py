"""Try the four uses as a new user would, from this clone: how long each takes to show something, with pictures of it.

    python examples/try_four_uses.py --output outputs/uses

Needs the extras ui, live, docs, dlib and browser, and Debian's chromium. The clock of each use starts with its command
and stops when its result plays or stands on the page. The portrait, the speech and the video are the bundled speaker's.
What is not counted is the installation: `time make demo` on a fresh clone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from talkhead.media.read import read_audio, read_image
from talkhead.media.write import write_audio, write_image
from talkhead.speaker.folder import BUNDLED

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
WIDE = {"width": 1100, "height": 900}


@contextmanager
def started(*words: str, says: str) -> Iterator[str]:
    """Run a server of ours while the block runs; give the address that it prints."""
    command = [sys.executable, "-W", "ignore", "-u", "-m", "talkhead", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            line = next(line for line in server.stdout if says in line and "http" in line)
            threading.Thread(target=server.stdout.read, daemon=True).start()
            address = "http" + line.split("http", 1)[1].split()[0].rstrip("/.,)'\"")
            host, port = address.removeprefix("http://").split(":")
            while True:  # it may say where it will be before it is there
                try:
                    socket.create_connection((host, int(port)), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield address
        finally:
            server.terminate()


def use_app(page: Any, files: Path, shots: Path) -> float:
    """Make a video in the browser, without the command line."""
    start = time.perf_counter()
    with started("app", "--port", "7871", says="http") as address:
        page.goto(address)
        page.get_by_role("tab", name="Speak").wait_for()
        page.locator("input[type=file][accept*=image]").first.set_input_files(files / "portrait.png")
        page.locator("input[type=file][accept*=audio]").first.set_input_files(files / "speech.wav")
        page.wait_for_timeout(1500)
        page.locator("#speak").click()
        page.wait_for_function("() => { const v = document.querySelector('.made video'); return v && v.duration > 0; }")
        seconds = time.perf_counter() - start
        page.wait_for_timeout(1500)
        page.screenshot(path=shots / "uses_app.png", full_page=True)
    return seconds


def use_live(page: Any, files: Path, shots: Path) -> float:
    """Let the live face speak a file in place of the microphone."""
    start = time.perf_counter()
    with started("serve", "--port", "8871", "--size", "128", says="http") as address:
        page.goto(address)
        page.locator("#source").select_option("file")
        page.locator("#file").set_input_files(files / "speech.wav")
        page.locator("#start").click()
        page.wait_for_function("() => parseInt(document.querySelector('#shown').textContent) > 10")
        seconds = time.perf_counter() - start
        page.screenshot(path=shots / "uses_live.png")
    return seconds


def use_dub(page: Any, files: Path, shots: Path) -> float:
    """Give the demo's video other words."""
    start = time.perf_counter()
    words = ["dub", "--video", files / "talk.mp4", "--audio", files / "speech.wav", "--output", files / "dubbed.mp4"]
    command = [sys.executable, "-W", "ignore", "-m", "talkhead", *words, "--detector", "dlib"]
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    (files / "dub.html").write_text(
        "<body style='font: 18px sans-serif'><p>before, and dubbed</p>"
        + "".join(f"<video src={name} width=320 autoplay muted loop></video> " for name in ("talk.mp4", "dubbed.mp4"))
    )
    page.goto(f"file://{files.resolve()}/dub.html")
    page.wait_for_timeout(1500)
    page.screenshot(path=shots / "uses_dub.png", clip={"x": 0, "y": 0, "width": 700, "height": 400})
    return seconds


def use_site(page: Any, files: Path, shots: Path) -> float:
    """Build the site and open its first page, with the video playing."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", files / "site"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Quiet(*a, directory=str(files / "site")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        page.wait_for_function("() => { const v = document.querySelector('video'); return v && v.currentTime > 0.3; }")
        seconds = time.perf_counter() - start
        page.screenshot(path=shots / "uses_site.png")
    finally:
        server.shutdown()
        server.server_close()
    return seconds


USES = {
    "`talkhead app`: from the command to the playing video": use_app,
    "`talkhead serve`: to the tenth live frame": use_live,
    "`talkhead dub`: to the dubbed video": use_dub,
    "the site: built strictly, its video plays": use_site,
}


def main() -> None:
    """Try all four, write the table and the pictures."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/uses"))
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    speech = read_audio(BUNDLED / "speech.flac")[: 3 * 16000]
    write_audio(output / "speech.wav", speech)
    write_image(output / "portrait.png", read_image(BUNDLED / "portrait.png"))
    start = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-m", "talkhead", "demo", "--output", output / "talk.mp4"]
    subprocess.run(command, check=True, capture_output=True)
    rows = [f"| `talkhead demo`: a video on disk | {time.perf_counter() - start:.0f} |"]
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, use in USES.items():
            page = browser.new_page(viewport=WIDE)
            page.set_default_timeout(150_000)
            rows.append(f"| {name} | {use(page, output, output):.0f} |")
            print(rows[-1], flush=True)
            page.close()
        browser.close()
    cores = len(os.sched_getaffinity(0))
    lines = [f"{cores} cores, load {os.getloadavg()[0]:.1f}\n", "| use | seconds |", "|---|---|", *rows]
    print("\n".join(lines))
    (output / "uses.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
