"""What the guides say to type is typed: every command is parsed, every script and every import exists."""

import argparse
import ast
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from talkhead.cli import make_parser
from talkhead.training import TRAINING

ROOT = Path(__file__).resolve().parents[1]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(path: Path, program: str) -> list[str]:
    """Return a page's indented lines that start with a program, continued lines joined, comments cut off."""
    text = path.read_text().replace("\\\n", " ")
    found = re.findall(rf"^    ((?:[A-Z_]+=\S+ )?{program} [^\n]*)", text, re.MULTILINE)
    return [re.split(r"\s#|\s[>|]\s", line)[0].strip() for line in found]


def lines_of(program: str) -> list:
    """Return (page, line) of all guides."""
    pairs = sorted({(path.name, line) for path in GUIDES for line in commands(path, program)})
    return [pytest.param(*pair, id=" ".join(pair)[:60]) for pair in pairs]


@pytest.mark.parametrize(("page", "line"), lines_of("talkhead"))
def test_a_command_is_one_that_the_program_takes(page, line, capsys):
    words = shlex.split(line)[1:]
    if words[0] in TRAINING or "..." in words or "--help" in words:
        if "--config" in words and "CONFIG" not in line:
            names = [words[at + 1] for at, word in enumerate(words) if word == "--config"]
            homes = [ROOT / "talkhead" / "configs" / f"{name}.yaml" for name in names if not name.endswith(".yaml")]
            assert all(home.exists() for home in homes), line
        return
    try:
        make_parser().parse_args([word.strip("[]") for word in words])
    except SystemExit as stop:
        assert stop.code == 0, f"{page}: {line}\n{capsys.readouterr().err}"


@pytest.mark.parametrize(("page", "line"), lines_of("python") + lines_of("bash"))
def test_a_script_exists_and_knows_its_options(page, line):
    words = shlex.split(line)
    script = next((word for word in words if word.endswith((".py", ".sh"))), None)
    if script is None:
        return
    text = (ROOT / script).read_text()
    options = [word.split("=")[0] for word in words[words.index(script) :] if word.startswith("--")]
    assert not [option for option in options if option not in text and f'"{option[2:]}"' not in text], f"{page}: {line}"


def blocks(path: Path) -> list[str]:
    """Return a page's Python blocks."""
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", [path for path in GUIDES if blocks(path)], ids=lambda path: path.name)
def test_python_of_a_guide_is_python_and_imports_what_exists(path):
    for block in blocks(path):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "talkhead":
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("name", ["table1", "known_faults", "make_speaker", "train_slurm"])
def test_a_script_without_its_words_says_which(name: str) -> None:
    done = subprocess.run(["bash", f"examples/{name}.sh"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and ": 1: give " in done.stderr, done.stderr


def test_the_command_lines_page_has_every_verb_and_configuration() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    verbs = next(a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    configs = [path.stem for path in (ROOT / "talkhead" / "configs").glob("*.yaml")]
    assert not [name for name in [*verbs, *configs] if f"`{name}`" not in page and f"`{name} " not in page]


def test_no_guide_knows_where_data_lies_on_a_machine() -> None:
    pages = [*GUIDES, *(ROOT / "examples").glob("*.*")]
    assert not [path.name for path in pages if "shared/data" in path.read_text()]
