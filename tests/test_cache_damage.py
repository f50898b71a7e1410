"""A cache that was damaged, a manifest that lies, and a folder of everything that goes wrong."""

import json
import shutil
import struct
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from test_preprocess import SkinDetector, render, run

from talkhead.cli import main
from talkhead.data.dataset import ClipDataset
from talkhead.data.index import list_sources
from talkhead.data.manifest import damaged_clips, read_manifest
from talkhead.data.preprocess import preprocess
from talkhead.inventory.merge import merge_caches
from talkhead.media.read import VideoWriter, write_audio


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    (root / "in").mkdir()
    for name in "abc":
        render(root / "in" / f"{name}.mp4", 12)
    run(root / "in", root / "cache")
    return root


@pytest.fixture
def made(made_once, tmp_path):
    """Three recordings and their cache, to be damaged; its settings name the recordings' folder."""
    shutil.copytree(made_once / "cache", tmp_path / "cache")
    return tmp_path


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 16
    path.write_bytes(data)


def cut(path: Path, place: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * place)])


@pytest.mark.parametrize("harm", [flip, cut])
@pytest.mark.parametrize("place", [0.001, 0.5, 0.999])
def test_a_damaged_clip_is_named_and_made_again(made, made_once, harm, place, capsys):
    cache, clip = made / "cache", made / "cache/clips/b.safetensors"
    before = {p.name: p.read_bytes() for p in [*(cache / "clips").iterdir(), cache / "manifest.jsonl"]}
    harm(clip, place)
    with pytest.raises(ValueError, match="'b'.*damaged.*preprocess"):
        ClipDataset(cache, ["a", "b", "c"])[1]
    assert ClipDataset(cache, ["a", "b", "c"])[0].frames is not None
    assert [name for name, _ in damaged_clips(cache)] == ["b"]
    assert main(["preprocess", "--verify", "--output", str(cache)]) == 1
    assert "b: its file is damaged" in capsys.readouterr().out
    detector = SkinDetector()
    run(made_once / "in", cache, detector=detector)
    assert detector.calls == 12  # no other clip was made again
    assert "made again: b" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in [*(cache / "clips").iterdir(), cache / "manifest.jsonl"]} == before
    assert main(["preprocess", "--verify", "--output", str(cache)]) == 0


@pytest.mark.parametrize("harm", [flip, cut, lambda path, place: path.unlink()])
def test_caches_with_damaged_clips_are_not_merged(made, made_once, harm, capsys):
    (made / "other").mkdir()
    render(made / "other/z.mp4", 6)
    run(made / "other", made / "cache_2")
    harm(made / "cache/clips/b.safetensors", 0.5)
    caches, output = [str(made / "cache_2"), str(made / "cache")], made / "merged"
    assert main(["merge", *caches, "--output", str(output)]) == 2
    *bar, said = capsys.readouterr().err.splitlines()
    assert all("checking" in line for line in bar if line)
    assert f"the clip 'b' of '{caches[1]}' cannot be used, its file is " in said and "`talkhead preprocess`" in said
    assert sorted(p.name for p in made.iterdir()) == ["cache", "cache_2", "other"]
    run(made_once / "in", made / "cache")
    assert merge_caches(caches, output) == 4 and not damaged_clips(output)


def test_a_damaged_clip_that_no_contact_sheet_shows_is_not_merged(tmp_path, tiny_cache):
    """Of many clips the sheet, which alone read them, shows 48."""
    shutil.copytree(tiny_cache, tmp_path / "many")
    entry = json.loads((tiny_cache / "manifest.jsonl").read_text().splitlines()[0])
    for number in range(60):
        shutil.copy(tiny_cache / "clips/clip00.safetensors", tmp_path / f"many/clips/more{number:02d}.safetensors")
        with (tmp_path / "many/manifest.jsonl").open("a") as manifest:
            manifest.write(json.dumps(entry | {"name": f"more{number:02d}"}) + "\n")
    (tmp_path / "many/clips/more59.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="the clip 'more59' of .*damaged"):
        merge_caches([tmp_path / "many"], tmp_path / "merged")


def test_a_damaged_clip_whose_recording_is_gone_is_said(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "abc":
        render(tmp_path / "in" / f"{name}.mp4", 12)
    run(tmp_path / "in", tmp_path / "cache")
    (tmp_path / "in/b.mp4").unlink()
    flip(tmp_path / "cache/clips/b.safetensors", 0.5)
    summary = run(tmp_path / "in", tmp_path / "cache")
    assert summary.ok == 2 and "recording is gone" in dict(summary.failed)["b"]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../secret"}, {"name": "/etc/passwd"}, {"name": "a/b"}, {"name": "..\\b"}, {"name": ".."},
        {"name": ".a"}, {"name": ""}, {"name": 7}, {"name": ["a"]}, {"status": "fine"}, {"frames": "many"},
        {"frames": -1}, {"samples": 1.5}, {"fps": "0"}, {"fps": "1/0"}, {"fps": [25]}, {"identity": None},
        {"fps": None}, {"frames": None}, {"emotion": "joyful"}, {"sentence": ...},
    ],
)  # fmt: skip
def test_a_manifest_never_leads_out_of_the_cache(made, change):
    path = made / "cache/manifest.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    entries[1] = {key: value for key, value in (entries[1] | change).items() if value is not ...}
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    for reader in (read_manifest, damaged_clips):
        with pytest.raises(ValueError, match=r"manifest\.jsonl.*make the cache anew") as error:
            reader(made / "cache")
        assert "\n" not in str(error.value)


def test_verify_needs_a_cache_and_preprocess_an_input(tmp_path, capsys):
    assert main(["preprocess", "--verify", "--output", str(tmp_path)]) == 2
    assert "has no manifest" in capsys.readouterr().err
    assert main(["preprocess", "--output", str(tmp_path / "cache")]) == 2
    assert "--layout and --input" in capsys.readouterr().err


def write_at(path, fps, frames):
    render(path, frames)
    with av.open(str(path)) as source:
        pictures = [f.to_ndarray(format="rgb24") for f in source.decode(video=0)]
    with VideoWriter(path, fps, (64, 80), torch.zeros(round(16000 * frames / fps)), preset="ultrafast") as video:
        for picture in pictures:
            video.append(torch.from_numpy(picture).permute(2, 0, 1))


def test_a_mixed_folder_is_brought_to_one_rate(tmp_path):
    (tmp_path / "in").mkdir()
    for name, fps, frames in [("a", Fraction(25), 15), ("b", Fraction(30), 18), ("c", Fraction(30000, 1001), 18)]:
        write_at(tmp_path / "in" / f"{name}.mp4", fps, frames)
    run(tmp_path / "in", tmp_path / "mixed")
    assert {e["fps"] for e in read_manifest(tmp_path / "mixed")} == {"25", "30", "30000/1001"}
    run(tmp_path / "in", tmp_path / "one", fps=25)
    entries = read_manifest(tmp_path / "one")
    assert [(e["fps"], e["frames"], e["samples"]) for e in entries] == [("25", 15, 9600)] * 3
    with pytest.raises(ValueError, match="fps"):
        run(tmp_path / "in", tmp_path / "one", fps=30)  # a cache of other settings
    with pytest.raises(ValueError, match="fps must lie"):
        run(tmp_path / "in", tmp_path / "other", fps=0)


def bad_files(root: Path) -> list[str]:
    """One bad file of every kind, named after it."""
    good = (root / "good0.mp4").read_bytes()
    (root / "empty.mp4").write_bytes(b"")
    (root / "text.mp4").write_text("no video")
    (root / "cut_in_its_index.mp4").write_bytes(good[:200])
    (root / "playlist.wav").write_text("ffconcat version 1.0\nfile good0.mp4\n")
    (root / "session.mp4").write_text("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=video 5004 RTP/AVP 96\n")
    (root / "drawing.mp4").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        samples = np.full(16000, 0.1, "<f4")
        samples[8000] = value
        form = struct.pack("<HHIIHH", 3, 1, 16000, 64000, 4, 32)
        chunks = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", 64000) + samples.tobytes()
        (root / f"{name}.wav").write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    for name, rate in (("slow", 1), ("fast", 2**31 - 1)):
        with wave.open(str(root / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(bytes(16000))
        data = bytearray((root / f"{name}.wav").read_bytes())
        data[24:28] = struct.pack("<I", rate)
        (root / f"{name}.wav").write_bytes(data)
    render(root / "faceless.mp4", face=lambda t: False)
    render(root / "mute.mp4", sound=False)
    return sorted(p.stem for p in root.iterdir() if not p.stem.startswith("good"))


def test_one_bad_file_of_every_kind_beside_good_ones(tmp_path, capsys):
    root = tmp_path / "in"
    root.mkdir()
    for index in range(4):
        render(root / f"good{index}.mp4", 14 + index)  # copies of one recording would count once
    bad = bad_files(root)
    summary = preprocess("folder", root, tmp_path / "cache", size=32, detector=SkinDetector(), progress=True)
    assert summary.ok == 4 and sorted(name for name, _ in summary.failed) == bad
    assert all(reason and "\n" not in reason and str(root) not in reason for _, reason in summary.failed)
    err = capsys.readouterr().err
    assert all(f"failed: {name}:" in err for name in bad)
    options = ["--data.root", str(tmp_path / "cache"), "--trainer.default_root_dir", str(tmp_path / "run")]
    small = [
        "--model.size",
        "32",
        "--data.num_frames",
        "10",
        "--data.batch_size",
        "2",
        "--model.net.width",
        "16",
        "--data.split",
        "clip",
    ]
    once = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    once += ["--trainer.log_every_n_steps", "1"]
    assert main(["fit", "--config", "landmark", *options, *small, *once]) == 0


def test_meads_quirks(tmp_path):
    """Levels and views missing, sounds without pictures and the other way round, capitals, and what systems leave."""
    for place in [
        "M003/video/front/happy/level_1/001.mp4",
        "M003/video/front/happy/level_3/002.MP4",  # level 2 is missing, and the suffix is in capitals
        "M003/video/front/neutral/level_1/003.mp4",  # neutral has one level
        "M003/video/left_30/happy/level_1/001.mp4",  # another view
        "M003/video/front/happy/.Trashes/004.mp4",
        "M003/video/front/happy/level_1/._001.mp4",
        "M003/video/front/.hidden/level_1/005.mp4",
        "M003/audio/happy/level_1/001.m4a",
        "M003/audio/happy/level_1/009.m4a",  # more sounds than pictures
        "M003/video.tar",
        ".M009/video/front/happy/level_1/001.mp4",
        "__MACOSX/M003/video/front/happy/level_1/001.mp4",
        "W011/video/front/surprised/level_2/001.mp4",
        "W014/audio/sad/level_1/001.m4a",  # a person without pictures
    ]:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    names = [s.name for s in list_sources("mead", tmp_path)]
    assert names == [
        "M003-front-happy-level_1-001", "M003-front-happy-level_3-002", "M003-front-neutral-level_1-003",
        "W011-front-surprised-level_2-001",
    ]  # fmt: skip
    sounds = {s.name: s.audio_path and s.audio_path.name for s in list_sources("mead", tmp_path)}
    assert list(sounds.values()) == ["001.m4a", None, None, None]
    assert len(list_sources("mead", tmp_path, view="left_30")) == 1


def test_a_rendered_mead_tree_at_two_rates(tmp_path):
    person = tmp_path / "MEAD" / "M003"
    for number, (level, fps, own) in enumerate([("level_1", 30, True), ("level_1", 25, False), ("level_3", 30, True)]):
        folder = person / "video/front/happy" / level
        folder.mkdir(parents=True, exist_ok=True)
        write_at(folder / f"{number:03d}.mp4", Fraction(fps), 15)
        if not own:
            (person / "audio/happy" / level).mkdir(parents=True)
            sound = person / "audio/happy" / level / f"{number:03d}.m4a"
            write_audio(tmp_path / "a.wav", torch.ones(9600) / 4 * torch.arange(9600).mul(0.3).sin())
            with av.open(str(tmp_path / "a.wav")) as source, av.open(str(sound), "w", format="mp4") as target:
                stream = target.add_stream("aac", rate=16000, layout="mono")
                for frame in source.decode(audio=0):
                    target.mux(stream.encode(frame))
                target.mux(stream.encode(None))
    summary = preprocess(
        "mead", tmp_path / "MEAD", tmp_path / "cache", size=32, detector=SkinDetector(), fps=25, progress=False
    )
    assert summary.ok == 3 and not summary.failed
    assert {(e["fps"], e["identity"], e["emotion"]) for e in read_manifest(tmp_path / "cache")} == {
        ("25", "M003", "happy")
    }


def test_hidden_at_every_depth(tmp_path):
    for place in ["a.mp4", "x/b.mp4", ".h/c.mp4", "x/.h/y/d.mp4", "x/y/._e.mp4", "x/.ipynb_checkpoints/f.wav",
                  ".Trashes/501/g.mp4", "__MACOSX/h.mp4", "x/@eaDir/i.mp4", "$RECYCLE.BIN/j.wav"]:  # fmt: skip
        (tmp_path / ".home" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ".home" / place).write_bytes(b"")
    # Only what lies below the folder that was asked for is judged.
    assert [s.path.name for s in list_sources("folder", tmp_path / ".home")] == ["a.mp4", "b.mp4"]
