"""The site is whole: it builds strictly, every page is linked, none is too long; what it says to type exists."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(p.relative_to(ROOT / "docs") for p in (ROOT / "docs").rglob("*.md"))
LONGEST = 1500


def listed(entry) -> list[str]:
    """Return the pages below an entry of the navigation."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in listed(part)]


def test_every_page_is_in_the_navigation_once():
    pages = listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(pages) == [str(page) for page in PAGES]


@pytest.mark.parametrize("page", [p for p in PAGES if p.parts[0] != "measurements"], ids=str)
def test_a_page_can_be_read_in_one_go(page):
    assert len((ROOT / "docs" / page).read_text().split()) <= LONGEST


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="the site is an extra: pip install '.[docs]'")
def test_the_site_builds_strictly(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "images" / "demo.mp4").stat().st_size > 10_000


def test_the_dockerfile_installs_what_the_readme_installs():
    steps = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    assert re.match(r"(#[^\n]*\n)*FROM python:3\.11", steps)
    for line in steps.splitlines():
        assert not line or re.match(r"(#|FROM|ARG|WORKDIR|COPY|RUN|EXPOSE|ENTRYPOINT|CMD)\b| *#", line), line
    extras = set(re.search(r'"\.\[([\w,]+)\]"', steps).group(1).split(","))
    project = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = ", project, re.MULTILINE) for extra in extras)
    assert "-c constraints.txt" in steps and "talkhead doctor --fix" in steps
    assert all((ROOT / name).exists() for name in re.search(r"COPY (.*) \./\n", steps).group(1).split())
