"""The scripts that measure, with a tiny speaker, and what they compute against the definitions."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_pipeline import POINTS, speech, tiny_pipeline, tiny_portrait

from talkhead.data.media import probe, write_audio, write_image
from talkhead.metrics import seam_ratio
from talkhead.pipeline import TalkingHeadPipeline

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name: str) -> ModuleType:
    """Import a script without running it."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny speaker with a portrait and a speech of its own."""
    pipe = tiny_pipeline()
    pipe.info["portrait_landmarks"] = POINTS.tolist()
    folder = tmp_path_factory.mktemp("speaker") / "tiny"
    pipe.save_pretrained(folder)
    write_image(folder / "portrait.png", tiny_portrait())
    write_audio(folder / "speech.flac", speech(0.5))
    return folder


def run(module: ModuleType, monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_long_video_measures_what_it_made(folder, tmp_path, monkeypatch, capsys):
    module = load("long_video")
    run(module, monkeypatch, "--model", folder, "--seconds", 2, "--keep", tmp_path / "kept", "--threads", 1)
    shown = capsys.readouterr().out
    cells = re.search(r"^\| 2 s \| (.*) \|$", shown, re.MULTILINE)[1].split(" | ")
    row = dict(zip(module.COLUMNS, map(float, cells), strict=True))
    assert probe(tmp_path / "kept" / "2s.mp4").num_frames == row["frames"] == 50
    assert 0 < row["imported"] < row["loaded"] <= row["peak"]
    # The seam is that of the frames the pipeline makes.
    pipe = TalkingHeadPipeline.from_pretrained(folder)
    frames = pipe(folder / "portrait.png", speech(0.5).repeat(4), portrait_landmarks=POINTS).frames
    borders = module.window_borders(50, 8, 2)
    assert row["seam"] == pytest.approx(seam_ratio(frames.permute(0, 3, 1, 2), borders), abs=0.02)
    assert "seam of the longest" in shown and "hardware" in shown and "torch" in shown


def test_long_video_sees_a_seam():
    """Against `seam_ratio`, on frames that jump at every window's start."""
    module = load("long_video")
    frames = torch.arange(40).float() + 3 * (torch.arange(40) // 6)
    frames = frames.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).byte()
    borders, steps = module.window_borders(40, 8, 2), module.differences(frames)
    assert module.seam(steps, borders) == pytest.approx(seam_ratio(frames, borders)) and seam_ratio(frames, borders) > 2
    moved = list(module.moved_borders(borders, 6, 40))
    assert moved and all(not set(others) & set(borders) for others in moved)
    assert all(module.seam(steps, others) < 1 for others in moved)


def test_long_video_loops_without_a_jump():
    order = load("long_video").forth_and_back(5, 23)
    assert order.diff().abs().eq(1).all() and order.min() == 0 and order.max() == 4
    assert load("long_video").forth_and_back(1, 3).tolist() == [0, 0, 0]


def test_long_video_moves_as_a_clip(folder, tiny_cache):
    module = load("long_video")
    pipe = TalkingHeadPipeline.from_pretrained(folder)
    work = module.clip_work(str(tiny_cache), "clip00", 1.0)
    pieces = pipe.stream(**work)
    assert pieces.num_frames == 25 and pieces.audio is None
    control = list(module.control_frames(pipe, work, [str(tiny_cache), "clip00"], torch.zeros(25, 68, 2)))
    assert len(control) == 25 and torch.equal(control[0], control[22])  # 12 frames forth, 10 back


def test_a_stream_reads_ahead_no_further_the_longer_it_is(folder, monkeypatch):
    """How many landmarks wait for their frames, at most."""
    pipe = TalkingHeadPipeline.from_pretrained(folder)
    made = 0
    moving = pipe.landmark_net.stream

    def counting(*arguments, **options):
        nonlocal made
        for part in moving(*arguments, **options):
            made += len(part)
            yield part

    monkeypatch.setattr(pipe.landmark_net, "stream", counting)
    for seconds in (20, 40):
        made, left, ahead = 0, 0, []
        for piece in pipe.stream(folder / "portrait.png", speech(seconds), portrait_landmarks=POINTS, emotion="sad"):
            ahead.append(made - left)
            left += len(piece.frames)
        assert left == 25 * seconds
        # One and a half windows of sound, of 4 s each, and the segments on their way: a window for each step and two.
        assert max(ahead) <= 6 * 25 + 4 * 8
