"""The arrows between the files, read from the source, and what an import costs."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import talkhead

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "talkhead"
SLOW = 3  # a busy machine with two cores may take this many times what an idle one takes

# Data flows from left to right; a file may import what stands left of it, and its own layer.
ORDER = [
    "data.clip", "media", "face", "ops", "finishing", "speech", "metrics", "tracking", "data", "nets", "schedulers",
    "augmentation", "losses", "logs", "modules",
    "speaker", "heads", "pipeline", "dubbing", "evaluate", "adapting", "inventory", "app", "scale", "cli",
]  # fmt: skip
# Rooms that know nothing of each other.
SIDE_BY_SIDE = {"media", "face", "ops"}
# Files that import nothing of ours, and that everybody may import.
FREE = {"_version", "devices", "one_line", "progress", "renamed", "short_repr", "face.points"}
# The rooms that touch codecs.
READERS, WRITERS = ["clock", "colours", "container", "sound"], ["write", "formats"]
# Files at the top level that are parts of a layer.
PARTS = {"measuring": "cli", "parsing": "cli", "preparing": "cli", "training": "cli", "verbs": "cli"}


def sources() -> list[Path]:
    """Return the package's files but its front door, which names everything."""
    return [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


def module_name(path: Path) -> str:
    """Return a file's name below the package: ``nets.kan``, ``metrics`` for a folder's ``__init__``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(module: str) -> str:
    """Return the layer that a module below the package belongs to."""
    if module == "data.clip":
        return module
    top = module.split(".")[0]
    return PARTS.get(top, top)


def is_for_types(node: ast.AST) -> bool:
    """Tell whether a statement is ``if TYPE_CHECKING:``."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(tree: ast.AST, inside_functions: bool = True) -> Iterator[str]:
    """Yield the full names that a file imports when it runs (not those for type checkers alone)."""
    for node in ast.iter_child_nodes(tree):
        if is_for_types(node):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(node, inside_functions)


def ours(name: str) -> str | None:
    """Return the module below the package that an imported name comes from; None for others' and for the package."""
    parts = name.split(".")
    if parts[0] != "talkhead":
        return None
    for end in range(len(parts), 1, -1):
        path = PACKAGE.joinpath(*parts[1:end])
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            return ".".join(parts[1:end])
    assert parts[1:] in ([], ["__version__"], ["_version"]), f"{name} is no module of ours"
    return None


def may_import(importer: str, imported: str) -> bool:
    """Tell whether the arrow between two layers points the right way."""
    if importer == imported:
        return True
    if importer in SIDE_BY_SIDE:
        return imported == "data.clip"
    return ORDER.index(imported) < ORDER.index(importer)


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_imports_point_back_along_the_data(path: Path) -> None:
    module = module_name(path)
    for name in imports(ast.parse(path.read_text())):
        imported = ours(name)
        if imported is None:
            continue
        assert module not in FREE, f"{module} imports {imported}"
        if module in ("doctor", "__main__"):  # the doctor imports nothing of ours; the other is the program
            assert module == "__main__" and imported == "cli", f"{module} imports {imported}"
        elif imported in FREE:
            continue
        elif module in ("cli", "verbs"):
            assert imported != "__main__"
        elif module == "training":
            assert imported not in ("__main__", "cli", "measuring", "preparing", "verbs")
        else:
            assert layer(module) in ORDER, f"{module} is in no layer: put it into ORDER or PARTS"
            assert layer(imported) in ORDER, f"{module} imports {imported}, which is in no layer"
            assert may_import(layer(module), layer(imported)), f"{module} imports {imported}"


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("triton", {"ops.mask_noise_triton"}),
        ("av", {f"media.{n}" for n in READERS + WRITERS}),
        ("pillow_heif", {"media.pictures", "app.page"}),
    ],
)
def test_a_package_has_its_home(package: str, homes: set[str]) -> None:
    for path in sources():
        if package in {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}:
            assert module_name(path) in homes


@pytest.mark.parametrize("package", ["torchvision", "cv2", "pkg_resources"])
def test_a_package_is_used_nowhere(package: str) -> None:
    for path in sources():
        assert package not in {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}, module_name(path)


@pytest.mark.parametrize("module", ["__init__", "cli", "doctor", "measuring", "preparing", "training", "verbs"])
def test_the_light_files_import_the_standard_library_alone(module: str) -> None:
    names = imports(ast.parse((PACKAGE / f"{module}.py").read_text()), inside_functions=False)
    assert {n.split(".")[0] for n in names} <= sys.stdlib_module_names | {"talkhead"}


def test_import_is_fast_and_brings_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import talkhead; seconds = time.perf_counter() - start;"
        "import json; print(json.dumps([seconds, [m for m in ('torch', 'numpy', 'lightning') if m in sys.modules]]))"
    )
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)) for _ in range(3)]
    assert min(seconds for seconds, _ in runs) < 0.3 * SLOW
    assert runs[0][1] == []


def test_who_makes_a_video_waits_for_no_training() -> None:
    """Nothing that the pipeline imports, and nothing that this imports, brings what takes seconds to be imported."""
    files = {module_name(path): path for path in sources()}
    reached, todo = set(), ["pipeline"]
    while todo:
        module = todo.pop()
        reached.add(module)
        names = set(imports(ast.parse(files[module].read_text()), inside_functions=False))
        assert not {name.split(".")[0] for name in names} & {"lightning", "torchmetrics", "matplotlib"}, module
        brought = {module.rpartition(".")[0], *filter(None, map(ours, names))}
        todo += [other for other in brought & set(files) if other not in reached]
    assert {"pipeline.talking_head", "nets.renderer", "speaker.trained", "metrics.mouths"} <= reached


@pytest.mark.parametrize("name", talkhead.__all__)
def test_public_names_exist(name: str) -> None:
    assert name in dir(talkhead)
    assert getattr(talkhead, name) is getattr(talkhead, name)


def test_an_unknown_public_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'TalkingFeet'"):
        _ = talkhead.TalkingFeet


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_no_file_is_over_400_lines_and_no_room_over_2500() -> None:
    files = [*sources(), *sorted((ROOT / "tests").glob("*.py"))]
    long = {str(path.relative_to(ROOT)): lines(path) for path in files if lines(path) > 400}
    assert long == {}, "split by what it returns, or tests"
    rooms: dict[str, int] = {}
    for path in sources():
        if path.parent != PACKAGE:
            rooms[path.parent.name] = rooms.get(path.parent.name, 0) + lines(path)
    assert {room: count for room, count in rooms.items() if count > 2500} == {}, "give what is new a room of its own"
