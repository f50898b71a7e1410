"""The scripts that measure, with a tiny speaker, and what they compute against the definitions."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import POINTS, speech, tiny_pipeline, tiny_portrait

from talkhead.media.read import probe, read_image, write_audio, write_image
from talkhead.metrics import seam_ratio
from talkhead.metrics.pictures import step_ratio
from talkhead.pipeline import TalkingHeadPipeline

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name: str) -> ModuleType:
    """Import a script without running it."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny speaker with a portrait and a speech of its own."""
    pipe = tiny_pipeline()
    pipe.info["reference_landmarks"] = POINTS.tolist()
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
    frames = pipe(folder / "portrait.png", speech(0.5).repeat(4), reference_landmarks=POINTS).frames
    borders = module.window_borders(50, 8, 2)
    assert row["seam"] == pytest.approx(seam_ratio(frames.permute(0, 3, 1, 2), borders), abs=0.02)
    assert "seam of the longest" in shown and "hardware" in shown and "torch" in shown


def test_long_video_sees_a_seam():
    """Against `seam_ratio`, on frames that jump at every window's start."""
    module = load("long_video")
    frames = torch.arange(40).float() + 3 * (torch.arange(40) // 6)
    frames = frames.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).byte()
    borders, steps = module.window_borders(40, 8, 2), module.differences(frames)
    assert step_ratio(steps, borders) == pytest.approx(seam_ratio(frames, borders)) and seam_ratio(frames, borders) > 2
    moved = list(module.moved_borders(borders, 6, 40))
    assert moved and all(not set(others) & set(borders) for others in moved)
    assert all(step_ratio(steps, others) < 1 for others in moved)


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
    for seconds in (10, 20):
        made, left, ahead = 0, 0, []
        for piece in pipe.stream(folder / "portrait.png", speech(seconds), reference_landmarks=POINTS, emotion="sad"):
            ahead.append(made - left)
            left += len(piece.frames)
        assert left == 25 * seconds
        # One and a half windows of sound, of 4 s each, and the segments on their way: a window for each step and two.
        assert max(ahead) <= 6 * 25 + 4 * 8


def test_speed_is_printed_beside_the_papers_process(folder, monkeypatch, capsys):
    module = load("benchmark_generate")
    short = ("--seconds", 0.4, "--steps", 1, 2, "--repeat", 1, "--size", 16, "--paper", 3)
    run(module, monkeypatch, "--model", folder, *short)
    shown = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in shown.splitlines() if line.startswith("| ")]
    assert "at 16 px" in rows[0][0] and "hardware" in shown and "versions" in shown
    cells = {row[0]: dict(zip(module.COLUMNS, row[1:], strict=True)) for row in rows[1:]}
    assert [(c["frames"], c["steps"]) for c in cells.values()] == [("10", "3"), ("10", "1"), ("10", "2")]
    paper, ours = cells["the paper's process"], cells["tiny, 0.4 s, 1 calls"]
    assert paper["gain"] == "-"
    assert float(ours["gain"]) == pytest.approx(float(ours["fps"]) / float(paper["fps"]), rel=0.1)


def test_pictures_stand_where_their_names_say(folder, tiny_cache, tmp_path, monkeypatch, capsys):
    module = load("compare_pictures")
    out = tmp_path / "strip.png"
    models = ("--model", f"one={folder}:1", "--model", f"by halves={folder}:2:500")
    run(module, monkeypatch, tiny_cache, out, "--clip", "clip00", "clip03", "--frames", 3, *models)
    picture, side = read_image(out), 32
    columns = 2 * 3  # two clips, three frames each; and as many mouths
    width = module.LEFT + 2 * columns * (side + module.GAP) + 3 * module.GAP
    assert picture.shape == (3, module.TOP + 4 * (side + module.GAP), width)
    truth = module.make_truth(module.read_clip(tiny_cache, "clip03", None), None).frames
    x = module.LEFT + 3 * (side + module.GAP)
    assert torch.equal(picture[:, module.TOP : module.TOP + side, x : x + side], truth[0])
    names = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert names == ["| Pictures", "| one", "| by halves", "| portrait warped by the landmarks"]
    with pytest.raises(SystemExit, match="LABEL=WHAT"):
        module.load_model("no label", 0, "cpu")


def test_a_mouth_is_cut_out_square_inside_the_frame():
    square = load("compare_pictures").square
    assert square((40, 80, 80, 100), 128) == (40, 70, 80, 110)
    assert square((100, 110, 128, 128), 128) == (100, 100, 128, 128)
