"""The wheel holds what the package needs, and works where nothing else of the repository is."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy, for setuptools leaves its scraps beside the source."""
    pytest.importorskip("setuptools", "77", reason="a wheel is built with setuptools 77 or later")
    home = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "talkhead", home / "tree" / "talkhead", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, home / "tree" / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", str(home / "tree"), "--wheel-dir", str(home), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(home.glob("talkhead-*.whl"))


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as packed:
        files = {name for name in packed.namelist() if ".dist-info/" not in name}
        metadata = packed.read(next(n for n in packed.namelist() if n.endswith("METADATA"))).decode()
    tracked = subprocess.run(["git", "ls-files", "talkhead"], cwd=ROOT, capture_output=True, text=True)
    source = (
        set(tracked.stdout.split())
        if tracked.returncode == 0
        else {str(path.relative_to(ROOT)) for path in (ROOT / "talkhead").rglob("*") if path.is_file()}
    )
    missing = {name for name in source if "__pycache__" not in name} - files
    assert not missing
    assert not [name for name in files if not name.startswith("talkhead/") or "__pycache__" in name]
    assert {"talkhead/assets/speaker/pipeline.json", "talkhead/configs/video.yaml", "talkhead/py.typed"} <= files
    assert "Requires-Dist: torch>=" in metadata and "Provides-Extra: onnx" in metadata


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Install the wheel into a folder of its own."""
    place = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", place, wheel], check=True)
    return place


SPEAK = """
import talkhead
from talkhead.media.read import read_audio
pipe = talkhead.TalkingHeadPipeline.from_pretrained("bundled")
portrait, face = pipe.folder / "portrait.png", pipe.info["reference_landmarks"]
speech = read_audio(pipe.folder / "speech.flac")[:4000]
print(talkhead.__file__, len(pipe(portrait, speech, sample_rate=16000, reference_landmarks=face).frames))
"""


def run_installed(place: Path, home: Path, *command: object) -> str:
    """Run Python where nothing of the repository but what was installed can be imported; return what it prints."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PYTHONPATH": str(place)}
    done = subprocess.run([sys.executable, *command], cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_bundled_speaker_speaks_from_the_wheel_alone(installed, tmp_path):
    said = run_installed(installed, tmp_path, "-c", SPEAK)
    assert said.split() == [str(installed / "talkhead" / "__init__.py"), "7"]


@pytest.mark.storm
def test_the_demo_runs_from_the_wheel_alone(installed, tmp_path):
    command = ["demo", "--output", "demo.mp4", "--preset", "ultrafast"]
    run_installed(installed, tmp_path, installed / "bin" / "talkhead", *command)
    from talkhead.media.read import probe

    assert probe(tmp_path / "demo.mp4").num_frames > 50
