"""The paper from MEAD's files to its tables: the rendered tree, the estimate, the report, and the script itself."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import tiny_face, tiny_frames
from torch import nn

from talkhead.data.clip import EMOTIONS
from talkhead.data.index import list_sources
from talkhead.media.read import probe, read_audio

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import an example as its own folder sees it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_the_rendered_tree_has_meads_layout_and_quirks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mead = example("rendered_mead", monkeypatch)
    monkeypatch.setattr(mead, "SIZE", 32)
    monkeypatch.setattr(mead, "WIDTH", 56)
    portrait = tiny_frames(tiny_face(32)[None], 32)[0], tiny_face(32)
    home, speech = tmp_path / "W011", 0.1 * torch.randn(40_000, generator=torch.Generator().manual_seed(0))
    once = range(1, 2)
    assert mead.write_person(home, "W011", portrait, speech, once, 6) == 20 + 3 + 1  # happy and neutral from the left
    assert mead.write_person(home, "W011", portrait, speech, once, 6) == 0  # what is there stays
    mead.write_quirks(home, once)

    front = {(s.emotion, s.level, s.sentence): s for s in list_sources("mead", tmp_path)}
    assert {emotion for emotion, *_ in front} == set(EMOTIONS)
    lacking = {(e, k) for e in EMOTIONS for k in (1, 2, 3)} - {key[:2] for key in front}
    assert lacking == {("neutral", 2), ("neutral", 3), ("contempt", 3), ("sad", 2)}
    assert len(list_sources("mead", tmp_path, view="all")) == len(front) + 4
    assert front["angry", 1, "001"].audio_path is None  # the video's own sound is all there is
    assert (home / "audio/happy/level_1/002.m4a").exists() and ("happy", 1, "002") not in front
    with pytest.raises(ValueError):  # an empty file, listed so that it is counted
        probe(front["fear", 2, "002"].path)
    happy = front["happy", 1, "001"]
    info = probe(happy.path)
    assert (info.fps, info.width, info.height, info.num_frames) == (30, 56, 32, 6)
    assert happy.audio_path is not None
    assert abs(len(read_audio(happy.audio_path)) - 6 * 16000 / 30) < 1024 + 1  # AAC knows whole frames of 1024


def test_the_estimate_counts_steps_and_bytes_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    estimate = example("estimate_reproduction", monkeypatch)
    settings = {
        "trainer": {"max_steps": -1, "max_epochs": 500},
        "data": {"samples_per_clip": 2, "batch_size": 8},
    }
    assert estimate.steps_of(settings, 30) == 500 * 8  # 60 windows are 8 batches
    settings["trainer"]["max_steps"] = 100
    assert estimate.steps_of(settings, 30) == 100
    net = nn.Linear(2, 3)  # 9 numbers, two means of each; two checkpoints and the exported weights, 4 bytes each
    assert estimate.kept_bytes(net) == 4 * (2 * 27 + 9)
    net.requires_grad_(False)
    assert estimate.kept_bytes(net) == 4 * (2 * 9 + 9)
    lines = [estimate.Step("a", 3600, 1e9, "x"), estimate.Step("b", 1800, 2e9, "y")]
    assert "| **all** | **1.5** | **3** | 50 GB are free |" in estimate.table(lines, "about", 50e9)


def test_the_report_has_the_papers_rows_and_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = example("reproduction_report", monkeypatch)
    ours = {"psnr": 24.691, "ssim": 0.8543, "m_ld": 1.216, "f_ld": None}
    for folder, stem, name in (("table1", "evaluation", "pictures"), ("table2", "ablation", "ablation")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{stem}.json").write_text(json.dumps({"tables": {name: {"ours": ours}}, "protocol": {}}))
    one, two = report.first_table(tmp_path), report.second_table(tmp_path)
    assert one[0] == ["Table 1", "PSNR", "SSIM", "M-LD", "F-LD"] and one[-1] == ["ours", "24.69", "0.854", "1.22", "-"]
    assert ["proposed (paper)", "24.69", "0.850", "1.22", "1.33"] in one
    assert ["t = 300 (paper)", "24.69", "0.854", "-", "-"] in two and two[-1][0] == "ours"
    for version, rows in ((0, "0,3.0\n5,2.0\n"), (1, "5,1.9\n7,1.5\n")):  # gone on with from step 5
        log = tmp_path / f"video/logs/version_{version}"
        log.mkdir(parents=True)
        (log / "metrics.csv").write_text("step,train/loss\n" + rows + "9,\n")
    assert report.curve(tmp_path / "video", "train/loss") == {0: 3.0, 5: 1.9, 7: 1.5}


@pytest.mark.storm
def test_the_script_runs_is_killed_and_goes_on(tmp_path: Path) -> None:
    """`--quick`, smaller still: killed in the middle of the first fit, and again at once after the estimate."""
    pytest.importorskip("dlib")
    work = tmp_path / "work"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(EXAMPLES.parent),
        "DETECTOR": "dlib",
        "FRAMES": "16",
        "EPOCHS": "2",
    }
    command = ["bash", str(EXAMPLES / "reproduce_paper.sh"), "--quick", str(work)]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=environment, cwd=tmp_path, start_new_session=True)

    for mark in (work / ".done_estimate", work / "landmark/logs"):
        running = start()
        while not mark.exists() and running.poll() is None:
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        assert mark.exists() and not (work / "report.md").exists()
    estimated = (work / "estimate.md").read_text()
    assert start().wait() == 0
    assert (work / "estimate.md").read_text() == estimated  # not done twice
    text = (work / "report.md").read_text()
    for words in (
        "pictures bent by a computer",
        "proposed (paper)",
        "t = 1000 (paper)",
        "start at t",
        "W011",
        "2 failed",
    ):
        assert words in text
    assert (work / "report.html").read_text().count("data:image/") >= 3
    assert start().wait() == 0  # once more: all is done
