"""Networks as graphs: ONNX through onnxruntime and torch.export's programs answer what PyTorch answers."""

import errno
import importlib.util
import json
import math
import os
from pathlib import Path

import pytest
import torch
from conftest import shaken

from talkhead.cli import main
from talkhead.nets.conformer import ConformerClassifier
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.schedulers import MaskNoiseBridgeScheduler
from talkhead.speaker.folder import load_parts, write_parts
from talkhead.speaker.graphs import condition_inputs, export_graphs

NEEDS_ONNX = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="graphs are an extra: pip install '.[onnx]'",
)
# What the exporters themselves do in an old way.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def speaker(tmp_path_factory) -> Path:
    """Random networks with everything that the bundled ones have, small."""
    torch.manual_seed(1)
    landmark = shaken(LandmarkNet(width=16, layers=2, heads=2, portrait_view="summary", habits=2), 0.05)
    options = {
        "output": "flow",
        "coarse": True,
        "reference_channels": True,
        "opening_channel": True,
        "bank": 2,
        "doubt": 0.5,
    }
    renderer = shaken(Renderer(size=32, widths=(8, 16), patch=4, **options), 0.1)
    folder = tmp_path_factory.mktemp("speaker")
    emotion = ConformerClassifier("XS", trained_on=["happy", "neutral", "sad"], window_seconds=2.0)
    info = {"fps": "25", "window": 4, "overlap": 1, "num_inference_steps": 1}
    write_parts(folder, landmark, emotion, renderer, MaskNoiseBridgeScheduler(), info)
    return folder


@pytest.fixture(scope="module")
def nets(speaker):
    landmark, emotion, renderer, *_ = load_parts(speaker)
    return {"landmark": landmark.eval(), "emotion": emotion.eval(), "renderer": renderer.eval()}


@pytest.fixture(scope="module")
def onnx(speaker, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "graphs"
    assert main(["export-graphs", "--speaker", str(speaker), "--output", str(folder), "--seconds", "1"]) == 0
    return folder


@pytest.fixture(scope="module")
def onnx_emotion(speaker, tmp_path_factory) -> Path:
    return export_graphs(speaker, tmp_path_factory.mktemp("onnx") / "emotion", parts=["emotion"])


@pytest.fixture(scope="module")
def programs(speaker, tmp_path_factory) -> Path:
    return export_graphs(speaker, tmp_path_factory.mktemp("torch") / "graphs", form="torch", seconds=1.0)


def runner(folder: Path, name: str):
    """Return a function of named tensors that runs one graph."""
    if (folder / f"{name}.pt2").exists():
        program = torch.export.load(folder / f"{name}.pt2").module()

        def run(**inputs):
            plain = (
                {key: inputs.pop(key) for key in ("sample", "timestep", "emotion")} if name == "renderer" else inputs
            )
            more = [inputs] if name == "renderer" else []
            return program(*plain.values(), *more)

        return run
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
    return lambda **inputs: torch.from_numpy(session.run(None, {k: v.numpy() for k, v in inputs.items()})[0])


# Translating to ONNX takes the exporter seconds a network, however small; one is always held, and all by
# `pytest -m storm tests/test_graphs.py`.
FORMS = [pytest.param("onnx", marks=[NEEDS_ONNX, pytest.mark.storm]), "programs"]


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_landmarks_are_those_of_pytorch(form, nets, request):
    run = runner(request.getfixturevalue(form), "landmark")
    audio, face = 0.2 * torch.randn(1, 16000), torch.rand(1, 68, 2) * 90 + 5
    emotion, level = torch.eye(8)[4:5], torch.tensor([0.13])
    found = run(audio=audio, reference_landmarks=face, emotion=emotion, level=level)
    expected = nets["landmark"](audio, face, emotion, 25, level)
    assert (expected - face[:, None]).abs().max() > 0.5  # it moves
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)  # px


@pytest.mark.parametrize("form", [pytest.param("onnx_emotion", marks=NEEDS_ONNX), "programs"])
@torch.no_grad()
def test_emotions_are_those_of_the_recording_without_its_padding(form, nets, request):
    run = runner(request.getfixturevalue(form), "emotion")
    for count, gain in ((32000, 0.1), (20000, 0.3), (9000, 0.01), (16000, 0.0)):
        audio = torch.zeros(1, 32000)
        audio[:, :count] = gain * torch.randn(1, count) * torch.linspace(0, 1, count).sin()
        found = run(audio=audio, samples=torch.tensor([count]))
        expected = nets["emotion"].probabilities(audio[:, :count])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        assert int((found == 0).sum()) == 5  # what it was not trained on


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pictures", [0, 3])
@torch.no_grad()
def test_a_renderer_step_is_that_of_pytorch(form, pictures, nets, request):
    run, net = runner(request.getfixturevalue(form), "renderer"), nets["renderer"]
    face = torch.rand(1, 68, 2) * 31
    bank = (torch.rand(1, pictures, 3, 32, 32), torch.rand(1, pictures, 68, 2) * 31) if pictures else None
    picture, moved = torch.rand(1, 3, 32, 32), face[:, None] + torch.randn(1, 4, 68, 2)
    condition = net.prepare(picture, face, moved, bank=bank, seed=5)
    sample, timestep, emotion = torch.randn(1, 3, 4, 32, 32), torch.tensor([321]), torch.eye(8)[2:3]
    given = {"sample": sample, "timestep": timestep, "emotion": emotion}
    found = run(**given, **condition_inputs(net, condition))
    torch.testing.assert_close(found, net(sample, timestep, condition, emotion), atol=2e-4, rtol=0)


def test_a_full_disk_is_no_fault_of_a_network(speaker, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    options = ["--speaker", str(speaker), "--parts", "emotion", "--form", "torch"]
    assert main(["export-graphs", *options, "--output", str(tmp_path / "graphs")]) == 2
    said = capsys.readouterr().err
    assert f"--output: '{tmp_path / 'graphs'}' cannot be written" in said and "make room" in said
    assert list(tmp_path.iterdir()) == []


@NEEDS_ONNX
@pytest.mark.storm
def test_graphs_json_says_what_the_files_take(onnx):
    import onnxruntime

    facts = json.loads((onnx / "graphs.json").read_text())
    assert sorted(p.name for p in onnx.iterdir()) == ["emotion.onnx", "graphs.json", "landmark.onnx", "renderer.onnx"]
    for name, said in facts["graphs"].items():
        session = onnxruntime.InferenceSession(onnx / f"{name}.onnx", providers=["CPUExecutionProvider"])
        assert {i.name: i.shape for i in session.get_inputs()} == {k: shape for k, (shape, _) in said["inputs"].items()}
        assert {o.name: o.shape for o in session.get_outputs()} == {
            k: shape for k, (shape, _) in said["output"].items()
        }
    assert facts["graphs"]["landmark"]["output"] == {"landmarks": [[1, 25, 68, 2], "float32"]}


def test_what_cannot_be_written_is_said_in_one_sentence(speaker, tmp_path):
    with pytest.raises(ValueError, match="form must be onnx or torch"):
        export_graphs(speaker, tmp_path / "a", form="tflite")
    with pytest.raises(ValueError, match=r"^parts must be some of landmark, emotion, renderer; got \['lips'\]$"):
        export_graphs(speaker, tmp_path / "a", parts=["lips"])
    with pytest.raises(ValueError, match=r"^seconds must lie in 0\.2\.\.60; got nan$"):
        export_graphs(speaker, tmp_path / "a", seconds=math.nan)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("kept")
    with pytest.raises(FileExistsError, match="choose another"):
        export_graphs(speaker, tmp_path / "b", form="torch", parts=["landmark"])
    assert (tmp_path / "b" / "mine.txt").read_text() == "kept"
