"""A speaker goes to the hub and comes back, through the hub's own client, against a stand-in on this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import shaken, tiny_pipeline
from hub_standin import standin

from talkhead.cli import main
from talkhead.media.read import write_image
from talkhead.speaker.folder import find_folder
from talkhead.speaker.hub import push, speaker_files

ROOT = Path(__file__).resolve().parents[1]
# What a user does on two machines; in a process of its own, because the client reads its environment once.
STORY = """
import json, sys
import torch
import talkhead
from talkhead.cli import main
first, second, out = sys.argv[1:]
def weight(name, **options):
    return talkhead.TalkingHeadPipeline.from_pretrained(name, **options).renderer.unet.stem.weight.sum().item()
codes = [main(["push", first, "anna/speaker"]), main(["push", second, "anna/speaker", "--message", "Again"]),
         main(["push", first, "anna/speaker", "--revision", "v1"])]
json.dump({
    "codes": codes, "main": weight("anna/speaker"), "v1": weight("anna/speaker", revision="v1"),
    "at": weight("anna/speaker@v1"), "missing": main(["demo", "--speaker", "anna/speaker@v9"]),
}, open(out, "w"))
"""


@pytest.fixture(scope="module")
def speakers(tmp_path_factory) -> tuple[Path, Path]:
    """Two speakers; in the first one's folder lies more than the speaker."""
    home = tmp_path_factory.mktemp("speakers")
    pipe = tiny_pipeline()
    pipe.save_pretrained(home / "first")
    write_image(home / "first" / "portrait.png", torch.zeros(3, 8, 8, dtype=torch.uint8))
    for name in ("notes.txt", ".env", "renderer/events.log", "landmark/.secret.json", "runs/last.ckpt"):
        (home / "first" / name).parent.mkdir(exist_ok=True)
        (home / "first" / name).write_text("mine")
    shaken(pipe.renderer, 0.2)
    pipe.save_pretrained(home / "second")
    return home / "first", home / "second"


def test_a_speaker_comes_back_as_it_went_by_branch(speakers, tmp_path):
    with standin() as (hub, address):
        surroundings = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_right"}
        command = [sys.executable, "-W", "ignore", "-c", STORY, *map(str, speakers), str(tmp_path / "told.json")]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | surroundings | {"HF_HUB_DISABLE_XET": "1"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr + "\n".join(hub.unknown)
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["codes"] == [0, 0, 0] and told["missing"] == 2 and "anna/speaker" in done.stderr
    from talkhead.pipeline import TalkingHeadPipeline

    first, second = (TalkingHeadPipeline.from_pretrained(s).renderer.unet.stem.weight.sum().item() for s in speakers)
    assert (told["main"], told["v1"], told["at"]) == (second, first, first)
    names = set(speaker_files(speakers[0])) | {"README.md", ".gitattributes"}
    assert set(hub.files("anna/speaker", "v1")) == names and "portrait.png" in names
    # The second speaker has no portrait: the first one's must not be taken for it.
    assert set(hub.files("anna/speaker", "main")) == names - {"portrait.png"}
    assert b"anna/speaker" in hub.files("anna/speaker", "main")["README.md"]
    assert not [path for path in hub.fetched if path not in names]
    assert not [route for route in hub.unknown if "anna" in route]


def test_nothing_but_the_speaker_is_named(speakers, capsys):
    assert main(["push", str(speakers[0]), "anna/speaker", "--dry-run"]) == 0
    named = capsys.readouterr().out.split()
    assert named == sorted({*speaker_files(speakers[0]), "README.md"})
    assert not [name for name in named if "secret" in name or name.endswith((".txt", ".log", ".ckpt", ".env"))]
    assert not (speakers[0] / "README.md").exists()  # the user's folder is only read


def test_what_leads_out_of_the_folder_is_not_sent(speakers, tmp_path):
    folder = shutil.copytree(speakers[0], tmp_path / "speaker")
    (tmp_path / "private.flac").write_bytes(b"mine")
    (folder / "speech.flac").symlink_to(tmp_path / "private.flac")
    with pytest.raises(ValueError, match="leads out of the folder"):
        push(folder, "anna/speaker", dry_run=True)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("bank.safetensors", b"no bank", "bank.safetensors' is no bank of mouths"),
        ("portrait.png", b"no picture", "is damaged or incomplete .portrait.png: .* cannot be read"),
        ("speech.flac", b"", "is damaged or incomplete .speech.flac: .* has no sound"),
        ("README.md", b"\xff", "is damaged or incomplete .README.md: 'utf-8'"),
    ],
)
def test_what_cannot_be_read_beside_the_networks_is_not_sent(name, content, words, speakers, tmp_path):
    folder = shutil.copytree(speakers[0], tmp_path / "speaker")
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as said:
        push(folder, "anna/speaker", dry_run=True)
    assert "\n" not in str(said.value) and "again" in str(said.value)


@pytest.mark.parametrize("name", ["anna", "anna/two/three", "../up", "anna/speaker@v1"])
def test_a_name_that_is_no_hub_id_is_refused(name, speakers):
    with pytest.raises(ValueError, match="expected user/name"):
        push(speakers[0], name)


def test_without_the_hub_it_says_so(speakers, capsys):
    assert main(["push", str(speakers[0]), "anna/speaker"]) == 2  # the tests run offline
    assert "sign in" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="hub"):
        find_folder("anna/speaker@v1")
    with pytest.raises(ValueError, match="revision"):
        from talkhead.pipeline import TalkingHeadPipeline

        TalkingHeadPipeline.from_pretrained(speakers[0], revision="v1")
