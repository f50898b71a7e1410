"""What a guide says to type does what it says, where that is a matter of seconds."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from conftest import OneFace, tiny_pipeline
from test_guides import commands

from talkhead.cli import main
from talkhead.media.read import read_audio, read_image
from talkhead.media.write import VideoWriter, write_audio, write_image
from talkhead.speaker.folder import BUNDLED

ROOT = Path(__file__).resolve().parents[1]
# Guides whose commands make a video or a list in seconds, with a tiny speaker in the bundled one's place.
FOLLOWED = ("quickstart.md", "emotion.md", "motion.md", "graphs.md", "speaker.md", "mead.md")
SHORT = ("generate", "dub", "push", "demo", "cache")


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_cache) -> Path:
    """A folder with the files that the guides speak of."""
    home = tmp_path_factory.mktemp("home")
    portrait, speech = read_image(BUNDLED / "portrait.png"), read_audio(BUNDLED / "speech.flac")[:4800]
    for name in ("me.jpg", "me.png", "anna.png"):
        write_image(home / name, portrait)
    for name in ("hello.wav", "new.wav"):
        write_audio(home / name, speech)
    with VideoWriter(home / "talk.mp4", 25, (128, 128), speech) as video:
        for _ in range(8):
            video.append(portrait)
    shutil.copytree(tiny_cache, home / "cache")
    speaker = home / "speakers" / "anna"
    tiny = tiny_pipeline()
    tiny.info["reference_landmarks"] = json.loads((BUNDLED / "pipeline.json").read_text())["reference_landmarks"]
    tiny.save_pretrained(speaker)
    shutil.copyfile(BUNDLED / "portrait.png", speaker / "portrait.png")
    write_audio(speaker / "speech.flac", speech)
    return home


def short(name: str) -> list[str]:
    """Return the commands of a guide that are run, in their order; what asks the hub is run in test_hub.py."""
    lines = [line for line in commands(ROOT / "docs" / name, "talkhead") if line.split()[1] in SHORT]
    return [line for line in lines if "..." not in line and ("anna/speaker" not in line or "--dry-run" in line)]


@pytest.mark.parametrize("name", FOLLOWED)
def test_the_short_commands_of_a_guide_do_what_it_says(name, home, tmp_path, monkeypatch):
    from talkhead.pipeline import TalkingHeadPipeline

    folder = shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(folder)
    monkeypatch.setattr("talkhead.speaker.folder.BUNDLED", folder / "speakers" / "anna")
    points = json.loads((folder / "speakers" / "anna" / "pipeline.json").read_text())["reference_landmarks"]
    monkeypatch.setattr("talkhead.pipeline.talking_head.load_detector", lambda *_: OneFace(torch.tensor(points)))
    if "motion.npz" in "".join(short(name)):
        TalkingHeadPipeline.from_pretrained("bundled")("me.png", "hello.wav").motion.save("motion.npz")
    assert short(name)
    for line in short(name):
        assert main(shlex.split(line)[1:]) == 0, line
        if "--output" in line:
            output = shlex.split(line)[shlex.split(line).index("--output") + 1]
            assert (folder / output).stat().st_size > 500, line
