"""A speaker's networks as graphs that run without this library: ONNX files, or programs of ``torch.export``.

    landmark    audio, reference_landmarks, emotion, level -> landmarks
    emotion     audio, samples -> probabilities
    renderer    sample, timestep, emotion and the conditions -> prediction

Shapes are fixed, and written into ``graphs.json``. The renderer's conditions (the spline through the landmarks, the
maps, the pictures bent to them) are made outside, by ``Renderer.prepare`` and ``condition_inputs``: ONNX has no solver
of linear equations.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from talkhead import __version__
from talkhead.data.clip import EMOTIONS, SAMPLE_RATE
from talkhead.logs.silence import only_errors
from talkhead.media.files import new_folder
from talkhead.nets.condition import Condition
from talkhead.nets.conformer import ConformerClassifier
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.one_line import one_line
from talkhead.speaker.folder import find_folder, load_parts

OPSET = 20
"""Of ONNX. Written for 18, the landmark net and the renderer answer the same in onnxruntime."""
PARTS = ("landmark", "emotion", "renderer")
_CONDITIONS = ("carrier", "channels", "picture", "coarse", "field", "bank", "likeness")


class LandmarkGraph(nn.Module):
    """One stretch of speech to its landmarks, blind to the portrait, as the pipeline uses the net."""

    def __init__(self, net: LandmarkNet, num_frames: int) -> None:
        super().__init__()
        self.net, self.num_frames = net.eval(), num_frames

    def forward(self, audio: Tensor, reference_landmarks: Tensor, emotion: Tensor, level: Tensor) -> Tensor:
        """(1, S), (1, 68, 2) px, (1, 8), (1,) -> (1, T, 68, 2) px; see ``LandmarkNet.forward``."""
        return self.net(audio, reference_landmarks, emotion, self.num_frames, level)


class EmotionGraph(nn.Module):
    """One recording, padded with zeros to a fixed length, to the probabilities of the emotions."""

    def __init__(self, net: ConformerClassifier) -> None:
        super().__init__()
        self.net = net.eval()

    def forward(self, audio: Tensor, samples: Tensor) -> Tensor:
        """(1, S) and (1,) int64, how many of them are valid -> (1, E)."""
        # Not net(...): it looks at the numbers that it is given, which a graph cannot.
        frames, lengths = self.net.front(audio, samples)
        return (self.net.classify(frames, lengths) / self.net.temperature).softmax(-1)


class RendererGraph(nn.Module):
    """One network call of the renderer, for the frames of one window."""

    def __init__(self, net: Renderer) -> None:
        super().__init__()
        self.net = net.eval()

    def forward(self, sample: Tensor, timestep: Tensor, emotion: Tensor, conditions: dict[str, Tensor]) -> Tensor:
        """(1, 3, T, H, W), (1,) int64, (1, 8), ``condition_inputs`` -> (1, 3, T, H, W); see ``Renderer.forward``."""
        told = {"channels": sample[:, :0], **conditions}
        return self.net(sample, timestep, Condition(noise=sample, **told), emotion)


def condition_inputs(renderer: Renderer, condition: Condition) -> dict[str, Tensor]:
    """Return what the renderer's graph takes of a condition, by name.

    Args:
        renderer: whose graph it is.
        condition: from its ``prepare``.

    Returns:
        The tensors of ``Condition`` that are there, without its noise, which is the first sample. A renderer with a
        bank always gets one: without further pictures one of zeros, which nobody relies on.
    """
    found = {name: getattr(condition, name) for name in _CONDITIONS}
    if renderer.config.bank and condition.bank is None:
        batch, _, frames, height, width = condition.noise.shape
        found["bank"] = condition.noise.new_zeros(batch, renderer.config.bank, 4, frames, height, width)
    return {name: tensor.contiguous() for name, tensor in found.items() if tensor is not None and tensor.numel()}


@dataclass(frozen=True)
class Graph:
    """One network with an example of what it takes.

    Attributes:
        module: what is written.
        inputs: an example of each argument, in order; a dictionary's are told apart by their own names.
        output: the result's name.
    """

    module: nn.Module
    inputs: Mapping[str, Any]
    output: str

    def tensors(self) -> dict[str, Tensor]:
        """Return the inputs with those of dictionaries in their places."""
        flat: dict[str, Tensor] = {}
        for name, value in self.inputs.items():
            flat |= value if isinstance(value, dict) else {name: value}
        return flat


def landmark_graph(net: LandmarkNet, seconds: float = 6.0, fps: float = 25.0) -> Graph:
    """Return the landmark net for stretches of so many seconds: 4 s, and 1 s of context on either side."""
    frames = round(seconds * fps)
    emotion = torch.full((1, len(EMOTIONS)), 1 / len(EMOTIONS))
    square = torch.rand(1, 68, 2, generator=torch.Generator().manual_seed(0)) * 100
    audio = torch.randn(1, round(frames / fps * SAMPLE_RATE), generator=torch.Generator().manual_seed(0)) * 0.1
    inputs = {"audio": audio, "reference_landmarks": square, "emotion": emotion, "level": torch.tensor([0.1])}
    return Graph(LandmarkGraph(net, frames), inputs, "landmarks")


def emotion_graph(net: ConformerClassifier) -> Graph:
    """Return the classifier for recordings of at most its window, 8 s unless it was built otherwise."""
    most = round(net.config["window_seconds"] * SAMPLE_RATE)
    audio = torch.randn(1, most, generator=torch.Generator().manual_seed(0)) * 0.1
    samples = torch.tensor([most * 3 // 4])
    audio[:, int(samples) :] = 0
    return Graph(EmotionGraph(net), {"audio": audio, "samples": samples}, "probabilities")


def renderer_graph(net: Renderer, frames: int = 16) -> Graph:
    """Return one step of the renderer for windows of so many frames."""
    size, draw = net.config.size, torch.Generator().manual_seed(0)
    picture = torch.rand(1, 3, size, size, generator=draw)
    face = torch.rand(1, 68, 2, generator=draw) * (size - 1)
    moved = face[:, None] + torch.randn(1, frames, 68, 2, generator=draw)
    condition = net.prepare(picture, face, moved)
    emotion = torch.full((1, len(EMOTIONS)), 1 / len(EMOTIONS))
    inputs = {"sample": condition.noise, "timestep": torch.tensor([999]), "emotion": emotion}
    return Graph(RendererGraph(net), {**inputs, "conditions": condition_inputs(net, condition)}, "prediction")


def export_graphs(
    speaker: str | Path,
    output: str | Path,
    *,
    form: Literal["onnx", "torch"] = "onnx",
    parts: Sequence[str] = PARTS,
    seconds: float = 6.0,
) -> Path:
    """Write a speaker's networks as graphs.

    Args:
        speaker: as `from_pretrained` takes it.
        output: the folder to make: ``<part>.onnx`` or ``<part>.pt2``, and ``graphs.json``, which names each graph's
            inputs and its output with their shapes and types.
        form: ``onnx`` (opset 20, for onnxruntime and what else reads it), or ``torch``, a program of ``torch.export``
            for ``torch.export.load`` and AOTInductor.
        parts: which of landmark, emotion and renderer; a speaker without a classifier has no emotion.
        seconds: length of the stretches that the landmark net's graph hears.

    Returns:
        The folder.

    Raises:
        ValueError: if an argument is not as above.
        ImportError: if ONNX's packages are missing.
        RuntimeError: if a network cannot be written.
        FileExistsError: if there is something in ``output``.
    """
    if form not in ("onnx", "torch"):
        raise ValueError(f"form must be onnx or torch; got {form!r}")
    if not parts or not set(parts) <= set(PARTS):
        raise ValueError(f"parts must be some of {', '.join(PARTS)}; got {list(parts)}")
    if not 0.2 <= seconds <= 60:
        raise ValueError(f"seconds must lie in 0.2..60; got {seconds}")
    landmark, emotion, renderer, _, info = load_parts(find_folder(speaker))
    if emotion is None and set(parts) == {"emotion"}:
        raise ValueError(f"export-graphs: '{speaker}' has no emotion classifier; choose other --parts")
    fps = float(Fraction(info.get("fps", "25")))
    with new_folder(output) as folder:
        said = {}
        for name in (name for name in PARTS if name in parts):
            if name == "landmark":
                graph = landmark_graph(landmark, seconds, fps)
            elif name == "renderer":
                graph = renderer_graph(renderer, info.get("window", 16))
            elif emotion is not None:
                graph = emotion_graph(emotion)
            else:
                continue
            write_graph(graph, folder / f"{name}.{'onnx' if form == 'onnx' else 'pt2'}")
            said[name] = described(graph)
        facts = {"talkhead": __version__, "torch": torch.__version__, "form": form, "fps": fps, "graphs": said}
        facts |= {"opset": OPSET} if form == "onnx" else {}
        (folder / "graphs.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return Path(output)


def described(graph: Graph) -> dict[str, Any]:
    """Return a graph's inputs and output, with shapes and types, as JSON has them."""
    with torch.no_grad():
        answer = graph.module(*graph.inputs.values())
    kinds = {name: [list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in graph.tensors().items()}
    return {"inputs": kinds, "output": {graph.output: [list(answer.shape), str(answer.dtype).removeprefix("torch.")]}}


def write_graph(graph: Graph, path: Path) -> None:
    """Write one graph, as ONNX or as a program by the name's ending: .onnx or .pt2.

    Raises:
        ImportError: if ONNX's packages are missing.
        OSError: if the file cannot be written.
        RuntimeError: if the network cannot.
    """
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(graph.module, tuple(graph.inputs.values()))
            if path.suffix == ".pt2":
                whole = io.BytesIO()  # a full disk would end the process within torch's own writer
                torch.export.save(program, whole)
                path.write_bytes(whole.getbuffer())
            else:
                _write_onnx(program, graph, path)
    except ImportError as error:
        raise ImportError(
            f"ONNX needs a package that is missing ({error.name}); pip install 'talkhead[onnx]'"
        ) from error
    except OSError:  # the disk's
        raise
    except Exception as error:  # the exporters have errors of their own, and each means the same here
        reason = one_line(error, 300)
        raise RuntimeError(
            f"export-graphs: {path.stem} cannot be written as {path.suffix[1:]} ({reason}); choose other --parts"
        ) from error


def _write_onnx(program: torch.export.ExportedProgram, graph: Graph, path: Path) -> None:
    found = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(graph.tensors()),
        output_names=[graph.output],
        external_data=False,
        verbose=False,
    )
    assert found is not None
    found.save(path, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' news of their own insides to themselves: they are held to PyTorch by what they answer.

    A recurrent layer's weights are listed twice, torchvision, which nothing here needs, is not installed, and they call
    their own parts by old names.
    """
    with only_errors("torch.onnx._internal.exporter._registration"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
