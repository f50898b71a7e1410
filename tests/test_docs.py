"""What the documents name exists."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(ROOT.glob("docs/**/*.md")) + [ROOT / "README.md"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_tests_that_are_named_exist(path: Path) -> None:
    for file, name in re.findall(r"`(tests/\w+\.py)::(\w+)`", path.read_text()):
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_names_of_ours_exist(path: Path) -> None:
    for dotted in set(re.findall(r"`(talkhead(?:\.\w+)+)`", path.read_text())):
        module, _, name = dotted.rpartition(".")
        try:
            found = importlib.import_module(dotted)
        except ModuleNotFoundError:
            found = getattr(importlib.import_module(module), name)
        assert found is not None, dotted


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_pipelines_page_names_the_steps_and_the_files_that_there_are() -> None:
    from talkhead.pipeline import painting, talking_head
    from talkhead.speaker import folder

    page = (ROOT / "docs" / "pipeline.md").read_text()
    steps = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert [name for name in steps if name not in vars(talking_head) | vars(painting)] == []
    way = re.findall(r"[a-z]+_[a-z_]+|FramePlacer", (talking_head.__doc__ or "").partition("\n\n")[2])
    assert set(way) - {*steps} == set()
    _, files, *_ = re.split(r"\n\n", folder.__doc__ or "")
    section = page.partition("## A pipeline's folder")[2].partition("\n## ")[0]
    assert [name for name in re.findall(r"^\S+", files, re.MULTILINE) if f"`{name}`" not in section] == []
