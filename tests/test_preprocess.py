"""The cache: right values, one bad clip among good ones, and runs that are killed, stopped, or lose a worker."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import tiny_face, tiny_frames
from safetensors.torch import load_file
from torch import Tensor

from talkhead.data.cache import Entry
from talkhead.data.contact_sheet import contact_sheet
from talkhead.data.dataset import read_manifest
from talkhead.data.manifest import json_lines
from talkhead.data.preprocess import Summary, preprocess
from talkhead.media.read import VideoWriter, read_image, write_audio
from talkhead.tracking.track import Detection

SIDE = 32  # px of a rendered face


class SkinDetector:
    """Find the rendered face by its colour: where it lies is known exactly, and no package is needed."""

    name = "skin"

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.calls = 0

    def __call__(self, image: Tensor, face: str | int = "largest") -> Detection | None:
        self.calls += 1
        time.sleep(self.seconds)
        if (image[0] > 150).sum() < 100:
            return None
        corner = (middle_of_skin(image) - middle_of_skin(tiny_frames(tiny_face(SIDE)[None], SIDE)[0])).round()
        return Detection(tiny_face(SIDE) + corner, 1.0, (0.0, 0.0, 1.0, 1.0))


def middle_of_skin(image: Tensor) -> Tensor:
    """Return (2,) px (x, y), the middle of the box around what is red enough for skin."""
    skin = image[0] > 150
    edges = [skin.any(axis).nonzero().flatten() for axis in (0, 1)]
    return torch.tensor([(e[0] + e[-1]) / 2 for e in edges])


def render(
    path: Path,
    frames: int = 8,
    face: Callable[[int], bool] = lambda t: True,
    sound: bool = True,
    place: Callable[[int], int] = lambda t: 20 + t % 8,
) -> None:
    """Write a 25-fps video, 80 x 64 px, of a face that drifts to the right, with a tone that rises in loudness."""
    picture = tiny_frames(tiny_face(SIDE)[None], SIDE)[0]
    audio = torch.linspace(0, 0.5, frames * 640) * (torch.arange(frames * 640) * 0.2).sin()
    with VideoWriter(path, 25, (64, 80), audio if sound else None, preset="ultrafast") as video:
        for t in range(frames):
            canvas = torch.tensor([60, 90, 200], dtype=torch.uint8)[:, None, None].repeat(1, 64, 80)
            if face(t):
                canvas[:, 16 : 16 + SIDE, place(t) : place(t) + SIDE] = picture
            video.append(canvas)


def run(root: Path, output: Path, **settings: object) -> Summary:
    """Preprocess a folder quietly with the rendered faces' detector."""
    arguments = {"size": 48, "detector": SkinDetector(), "progress": False} | settings
    return preprocess("folder", root, output, **arguments)  # type: ignore[arg-type]


def entry_of(output: Path, name: str) -> Entry:
    return next(e for e in read_manifest(output) if e["name"] == name)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six good clips, a sound, and four kinds of bad clips."""
    root = tmp_path_factory.mktemp("recordings")
    for index in range(6):
        render(root / f"good{index}.mp4", 8 + index)
    write_audio(root / "speech.wav", torch.zeros(4000))
    render(root / "gap.mp4", 12, face=lambda t: t < 2 or t > 8)
    render(root / "mute.mp4", sound=False)
    render(root / "wall.mp4", face=lambda t: False)
    (root / "text.mp4").write_text("no video")
    return root


@pytest.fixture(scope="module")
def cache(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recordings' cache, made by one unbroken run; only to be read."""
    output = tmp_path_factory.mktemp("unbroken") / "cache"
    run(recordings, output)
    return output


def test_a_folder_becomes_a_cache(recordings: Path, tmp_path: Path) -> None:
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in recordings.iterdir()}
    summary = run(recordings, tmp_path / "cache")
    assert summary.ok == 7 and sorted(n for n, _ in summary.failed) == ["gap", "mute", "text", "wall"]
    assert str(summary).startswith("7 ok, 4 failed: gap (") and "\n" not in str(summary)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in recordings.iterdir()} == before
    lines = (tmp_path / "cache/manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == sorted(p.stem for p in recordings.iterdir())
    assert str(recordings) not in "".join(lines)
    reasons = {n: r for n, r in summary.failed}
    assert "no sound" in reasons["mute"] and "face" in reasons["wall"] and "'text.mp4'" in reasons["text"]
    assert not list((tmp_path / "cache").rglob("*.tmp*"))


def test_a_cached_clip_is_face_landmarks_and_sound(cache: Path) -> None:
    entry = entry_of(cache, "good3")
    tensors = load_file(cache / "clips/good3.safetensors")
    assert {k: (tuple(v.shape), v.dtype) for k, v in tensors.items()} == {
        "frames": ((11, 3, 48, 48), torch.uint8),
        "landmarks": ((11, 68, 2), torch.float32),
        "confidence": ((11,), torch.float32),
        "audio": ((7040,), torch.float32),
    }
    assert (entry["fps"], entry["frames"], entry["samples"], entry["size"]) == ("25", 11, 7040, 48)
    assert entry["source_size"] == [80, 64] and entry["detector"] == "skin" and entry["identity"] == "speaker"
    # The detector's landmarks, taken by hand through the half-pixel convention into the crop; the face's left edge lies
    # at x = 20 + t % 8, and smoothing passes a straight drift (frames 0 to 4) unchanged.
    x, y, side = entry["crop"]
    expected = torch.stack([tiny_face(SIDE) + torch.tensor([20.0 + t, 16.0]) for t in range(4)])
    expected = (expected + 0.5 - torch.tensor([x, y])) * 48 / side - 0.5
    # 1.2 px: the detector finds the compressed picture's edge to a pixel, 48 / 44 px in the crop.
    torch.testing.assert_close(tensors["landmarks"][:4], expected, atol=1.2, rtol=0)
    # The tone: loudest at the end, as written.
    assert tensors["audio"][-640:].abs().max() > 0.4 > 0.1 > tensors["audio"][:640].abs().max()
    sound = load_file(cache / "clips/speech.safetensors")
    assert list(sound) == ["audio"] and len(sound["audio"]) == 4000 == entry_of(cache, "speech")["samples"]


def test_names_in_other_codes_than_utf8_are_read_and_end_no_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root, output = tmp_path / "in", tmp_path / "cache"
    folder = root / os.fsdecode(b"Andr\xe9")  # as old archives and discs hold them, in Latin-1
    try:
        folder.mkdir(parents=True)
    except OSError:  # macOS takes none
        pytest.skip("this file system holds no such names")
    write_audio(folder / os.fsdecode(b"caf\xe9.wav"), torch.zeros(1600))
    (folder / os.fsdecode(b"caf\xe8.mp4")).write_text("no video")
    write_audio(root / "é.wav", torch.zeros(1600))
    for _ in range(2):  # a further run finds what the first one left
        run(root, output, progress=True)
        print(*(text for e in read_manifest(output) for text in e.values()))
    assert "é" in capsys.readouterr()[0].encode().decode()  # it can be printed
    digest = hashlib.sha256(rb"Andr\udce9/caf\udce9.wav").hexdigest()[:8]
    ok = {e["source"]: (e["name"], e["identity"], e["sentence"]) for e in read_manifest(output) if e["status"] == "ok"}
    assert ok == {
        "Andr\\udce9/caf\\udce9.wav": (f"Andr_-caf_-{digest}", "Andr\\udce9", "caf\\udce9"),
        "é.wav": ("é", "speaker", "é"),
    }
    assert not any(str(root) in e["reason"] for e in read_manifest(output))


def test_lines_of_results_hold_any_file_name() -> None:
    entry = {"name": os.fsdecode(b"caf\xe9 \\udce9 \xc3\xa9"), "\udcff": ["\\", "\\\udce9"]}
    assert json.loads(json_lines([entry]).decode("utf-8")) == entry
    assert json_lines([{"name": "é😀"}]) == '{"name": "é😀"}\n'.encode()


def test_the_contact_sheet_shows_faces_and_points(cache: Path) -> None:
    sheet = read_image(cache / "contact_sheet.png")
    assert sheet.shape == (3, 2 * 192, 3 * 192)  # six clips with a picture in a 4:3 grid
    entries = read_manifest(cache)
    assert torch.equal(contact_sheet(cache, entries), sheet)  # type: ignore[arg-type]
    for tile in sheet.unfold(1, 192, 192).unfold(2, 192, 192).flatten(1, 2).unbind(1):
        assert (tile == torch.tensor([255, 40, 120])[:, None, None]).all(0).sum() > 12  # the outer lip's crosses
    assert contact_sheet(cache, [e for e in entries if not e["frames"]]) is None


def test_a_rerun_does_only_what_is_missing(recordings: Path, tmp_path: Path) -> None:
    root, output = tmp_path / "in", tmp_path / "cache"
    root.mkdir()
    for name in ("good0.mp4", "good1.mp4", "text.mp4"):
        (root / name).write_bytes((recordings / name).read_bytes())
    assert run(root, output).ok == 2
    render(root / "text.mp4", 9)
    detector = SkinDetector()
    summary = run(root, output, detector=detector)
    assert (summary.ok, summary.failed, detector.calls) == (3, [], 9)
    (output / "clips/good0.safetensors").unlink()
    (root / "good1.mp4").unlink()
    detector = SkinDetector()
    # A lost clip is made again; one whose recording is gone is kept.
    assert run(root, output, detector=detector).ok == 3 and detector.calls == 8


def test_a_recording_that_was_replaced_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, output = tmp_path / "in", tmp_path / "cache"
    root.mkdir()
    for name in ("a", "b"):
        render(root / f"{name}.mp4", 8)
        write_audio(root / f"{name}.wav", torch.rand(5120))
    run(root, output)
    before = {e["name"]: e for e in read_manifest(output)}
    assert before["a"]["bytes"] == sum((root / f"a.{kind}").stat().st_size for kind in ("mp4", "wav"))
    render(root / "a.mp4", 12)
    write_audio(root / "a.wav", torch.rand(7680))
    write_audio(root / "b.wav", torch.rand(5121))
    detector = SkinDetector()
    capsys.readouterr()
    assert run(root, output, detector=detector).ok == 2 and detector.calls == 12 + 8
    said = capsys.readouterr().err
    assert "made again: a: its recording is another" in said and "made again: b: its recording is another" in said
    after = {e["name"]: e for e in read_manifest(output)}
    assert after["a"]["frames"] == 12 and after["b"]["sha256"] != before["b"]["sha256"]
    lines = [{key: value for key, value in e.items() if key != "bytes"} for e in after.values()]
    (output / "manifest.jsonl").write_bytes(json_lines(lines))  # as older caches are
    assert run(root, output, detector=(detector := SkinDetector())).ok == 2 and not detector.calls


def test_other_settings_are_refused(recordings: Path, cache: Path, tmp_path: Path) -> None:
    for change, words in (
        ({"size": 64}, "size=48, not 64"),
        ({"emotion": "sad"}, "emotion=None, not 'sad'"),
        ({"detector": "dlib"}, "detector='skin', not 'dlib'"),
    ):
        with pytest.raises(ValueError, match=words):
            run(recordings, cache, **change)
    with pytest.raises(ValueError, match="made with input="):
        run(recordings / "good0.mp4", cache)
    for change, words in (
        ({"size": 0}, "size must be a whole number of at least 8; got 0"),
        ({"size": 64.5}, "size must be a whole number of at least 8; got 64.5"),
        ({"scale": 0.5}, "scale must be a number of at least 1; got 0.5"),
        ({"scale": math.nan}, "scale must be a number of at least 1; got nan"),
        ({"workers": -1}, "workers must be a whole number of at least 1; got -1"),
        ({"max_gap": -2}, "max_gap must be a whole number of at least 0; got -2"),
        ({"segment_seconds": 0.0}, "segment_seconds must be a number of at least 1; got 0.0"),
        ({"missing": "fill"}, "missing must be one of error, interpolate, skip; got 'fill'"),
        ({"face": "left"}, "face must be 'largest', 'center' or an index from 0 .the leftmost.; got 'left'"),
        ({"face": None}, "face must be 'largest', 'center' or an index from 0 .the leftmost.; got None"),
    ):
        with pytest.raises(ValueError, match=f"^{words}$"):
            run(recordings, tmp_path / "other", **change)
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match="is the input and would be written over"):
        run(recordings, recordings / ".." / recordings.name)
    with pytest.raises(OSError, match="output: cannot make the folder"):
        run(recordings, recordings / "good0.mp4")


def test_missing_faces_fail_skip_or_are_bridged(recordings: Path, tmp_path: Path) -> None:
    skipped = run(recordings, tmp_path / "skip", missing="skip")
    assert sorted(n for n, _ in skipped.skipped) == ["gap", "wall"] and len(skipped.failed) == 2
    assert "2 skipped: " in str(skipped)
    bridged = run(recordings, tmp_path / "bridge", max_gap=7)
    assert [n for n, _ in bridged.failed] == ["mute", "text", "wall"]
    confidence = load_file(tmp_path / "bridge/clips/gap.safetensors")["confidence"]
    assert confidence.tolist() == [1.0] * 2 + [0.0] * 7 + [1.0] * 3


def test_a_long_video_becomes_several_clips(tmp_path: Path) -> None:
    root, output = tmp_path / "in", tmp_path / "cache"
    root.mkdir()
    render(root / "talk.mp4", 70, face=lambda t: not 24 <= t < 40)
    summary = run(root, output, segment_seconds=1.0)
    assert summary.ok == 2 and [n for n, _ in summary.failed] == ["talk@001"]
    entries = {e["name"]: e for e in read_manifest(output)}
    assert [e["segment"] for e in entries.values()] == [
        {"index": i, "count": 3, "start": s} for i, s in enumerate((0, 23, 46))
    ]
    assert [entries[n]["frames"] for n in ("talk@000", "talk@002")] == [23, 24]
    assert len({e["sentence"] for e in entries.values()}) == 3
    # Each clip has its own stretch of the one tone: the pieces differ from the whole by nothing.
    whole = run(root, tmp_path / "whole", segment_seconds=None, max_gap=20)
    assert whole.ok == 1
    audio = load_file(tmp_path / "whole/clips/talk.safetensors")["audio"]
    assert torch.equal(load_file(output / "clips/talk@002.safetensors")["audio"], audio[46 * 640 :])


def test_sound_that_ends_early_is_a_fault(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    render(root / "a.mp4", 25, sound=False)
    write_audio(root / "a.wav", torch.zeros(4000))
    render(root / "b.mp4", 25, sound=False)
    write_audio(root / "b.wav", torch.ones(15000) / 2)
    summary = run(root, tmp_path / "cache")
    assert summary.failed == [("a", "its sound ends 0.75 s before its picture")] and summary.ok == 1
    audio = load_file(tmp_path / "cache/clips/b.safetensors")["audio"]
    assert len(audio) == 16000 and audio[14900] > 0.4 and audio[15000:].abs().max() == 0


def test_a_damaged_clip_is_kept_with_a_remark(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    pytest.importorskip("dlib")
    root = tmp_path / "in"
    root.mkdir()
    content = (shared_data("grid_s1/clips/bbaf5a.mpg")).read_bytes()
    (root / "cut.mpg").write_bytes(content[: len(content) // 4])
    summary = preprocess("folder", root, tmp_path / "cache", detector="dlib", progress=False)
    entry = entry_of(tmp_path / "cache", "cut")
    assert summary.ok == 1 and 5 < entry["frames"] < 40 and entry["samples"] == entry["frames"] * 640
    landmarks = load_file(tmp_path / "cache/clips/cut.safetensors")["landmarks"]
    assert (landmarks > 0).all() and (landmarks < 128).all()


def test_a_last_shot_long_after_the_sound_is_not_filled_with_silence(tmp_path: Path) -> None:
    """The shot of 12 frames lacks 0.48 s of its sound, and its end is 0.58 s beyond all sound."""
    (tmp_path / "in").mkdir()
    render(tmp_path / "in/a.mp4", 52, sound=False, place=lambda t: 4 if t < 40 else 44)
    write_audio(tmp_path / "in/a.wav", torch.full((24_000,), 0.1))
    summary = run(tmp_path / "in", tmp_path / "cache")
    assert summary.ok == 1 and [name for name, _ in summary.failed] == ["a@001"]
    assert summary.failed[0][1] == "its sound ends 0.58 s before its picture"


def test_ctrl_c_says_how_to_go_on(
    recordings: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Impatient(SkinDetector):
        def __call__(self, image: Tensor, face: str | int = "largest") -> Detection | None:
            if self.calls == 30:
                raise KeyboardInterrupt
            return super().__call__(image, face)

    with pytest.raises(KeyboardInterrupt):
        run(recordings, tmp_path / "cache", detector=Impatient())
    assert "stopped: 3 of 11 done; run the same command again to continue" in capsys.readouterr().err
    detector = SkinDetector()
    assert run(recordings, tmp_path / "cache", detector=detector).ok == 7
    assert (tmp_path / "cache/manifest.jsonl").read_bytes() == (cache / "manifest.jsonl").read_bytes()


SCRIPT = """
import sys
sys.path[:0] = {paths!r}
from test_preprocess import SkinDetector, run
if __name__ == "__main__":
    run({root!r}, {output!r}, detector=SkinDetector(seconds=0.03), workers=2)
"""


def start(recordings: Path, output: Path, lines: int) -> subprocess.Popen[bytes]:
    """Start a run of two workers, and come back when it has written some lines of its manifest."""
    script = output.with_suffix(".py")
    paths = [str(p) for p in Path(__file__).resolve().parents[:2]]
    script.write_text(SCRIPT.format(paths=paths, root=str(recordings), output=str(output)))
    process = subprocess.Popen([sys.executable, script], start_new_session=True)
    manifest, deadline = output / "manifest.jsonl", time.monotonic() + 120
    while not manifest.exists() or manifest.read_bytes().count(b"\n") < lines:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    return process


def wait_until_gone(group: int) -> None:
    """Wait until no process of a group is left."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("workers outlived their killed parent")


def test_a_killed_run_is_continued_to_the_same_manifest(recordings: Path, cache: Path, tmp_path: Path) -> None:
    output = tmp_path / "cache"
    process = start(recordings, output, 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until_gone(process.pid)
    left = (output / "manifest.jsonl").read_bytes()
    assert 2 <= left.count(b"\n") < 11
    # As if the power had gone in the middle of a line and of a clip.
    (output / "manifest.jsonl").write_bytes(left[:-20])
    (output / "clips/.good5.1-0123456789ab.tmp.safetensors").write_bytes(b"half")
    run(recordings, output)
    assert (output / "manifest.jsonl").read_bytes() == (cache / "manifest.jsonl").read_bytes()
    assert not list(output.rglob("*.tmp*"))
    hashes = [
        {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (folder / "clips").iterdir()}
        for folder in (output, cache)
    ]
    assert hashes[0] == hashes[1]


def test_summary_counts_reasons() -> None:
    summary = Summary(3, [(f"f{i}", "bad") for i in range(12)], [("s", "calm"), ("t", "calm")], warned=1)
    assert str(summary).startswith("3 ok (1 with remarks in the manifest), 12 failed: f0 (bad); ")
    assert str(summary).endswith("f9 (bad); and 2 more in the manifest, 2 skipped: calm (2)")
