"""What every test shares: no network, fixed seeds, and the optional real data."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; two threads in each wait for one another
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning 2.6 calls it by old names

import json  # noqa: E402
import math  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import Tensor  # noqa: E402

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same random state."""
    torch.manual_seed(0)


@pytest.fixture
def sentence(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs the command line, expects exit code 2, and returns the one line it printed."""

    from talkhead.cli import main

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert main(arguments) == 2
        lines = capsys.readouterr().err.splitlines()
        said = [line for line in lines if line.startswith("talkhead: error: ")]
        assert len(said) == 1, lines
        return said[0]

    return run


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Return a function that gives a path of the real data, or skips the test where it is absent."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"real data is absent: ../shared/data/{name}")
        return path

    return find


def arc(points: int, x: float, y: float, width: float, height: float, turn: tuple[float, float] = (0.5, 1.5)) -> Tensor:
    """Return (points, 2) on an ellipse: 0 is right, a quarter turn below, half a turn left; a whole turn is closed."""
    closed = turn[1] - turn[0] == 1
    angle = torch.linspace(*turn, points + closed)[:points] * math.tau
    return torch.stack([x + width * angle.cos(), y + height * angle.sin()], -1)


def tiny_face(size: int = 32, opening: float = 0.5) -> Tensor:
    """Return the (68, 2) px landmarks of a simple frontal face in a square frame.

    Args:
        size: the frame's side in px.
        opening: 0 for closed lips, 1 for a wide open mouth.
    """
    left, right = (0.30, 0.40), (0.70, 0.40)
    unit = torch.cat(
        [
            arc(17, 0.5, 0.45, 0.38, 0.45, (0.5, 0.0)),  # jaw, from the left ear below the chin to the right one
            arc(5, left[0], 0.32, 0.12, 0.05, (0.5, 1.0)),
            arc(5, right[0], 0.32, 0.12, 0.05, (0.5, 1.0)),
            torch.stack([torch.full((4,), 0.5), torch.linspace(0.38, 0.55, 4)], -1),
            arc(5, 0.5, 0.58, 0.08, 0.03, (0.5, 0.0)),
            arc(6, *left, 0.07, 0.03),
            arc(6, *right, 0.07, 0.03),
            arc(12, 0.5, 0.74, 0.14, 0.04 + 0.06 * opening),
            arc(8, 0.5, 0.74, 0.10, 0.06 * opening),
        ]
    )
    return unit * (size - 1)


def tiny_frames(landmarks: Tensor, size: int = 32) -> Tensor:
    """Paint (T, 3, size, size) uint8 pictures whose mouth follows (T, 68, 2) landmarks: skin, blue wall, dark mouth."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    skin = (((x / size - 0.5) / 0.4) ** 2 + ((y / size - 0.48) / 0.48) ** 2 < 1).expand(len(landmarks), size, size)
    lips = landmarks[:, 48:60]
    centre, half = lips.mean(1)[:, :, None, None], (lips.amax(1) - lips.amin(1))[:, :, None, None] / 2
    mouth = ((x - centre[:, 0]) / half[:, 0]) ** 2 + ((y - centre[:, 1]) / half[:, 1]) ** 2 < 1
    colours = torch.tensor([[60, 90, 200], [220, 170, 140], [90, 20, 30]], dtype=torch.uint8)
    return colours[skin.long() + mouth.long() * skin].permute(0, 3, 1, 2).contiguous()


POINTS = tiny_face(40) + torch.tensor([16.0, 10.0])
"""The landmarks of ``tiny_portrait``."""


def tiny_portrait() -> Tensor:
    """Return (3, 61, 72) uint8: a rendered face in the middle of a larger picture; its landmarks are POINTS."""
    picture = torch.randint(0, 255, (3, 61, 72), generator=torch.manual_seed(2), dtype=torch.uint8)
    picture[:, 10:50, 16:56] = tiny_frames(tiny_face(40)[None], 40)[0]
    return picture


class OneFace:
    """A detector that knows where the face is, or that there is none."""

    name = "fixed"

    def __init__(self, points: Tensor | None) -> None:
        self.points, self.asked = points, []

    def __call__(self, image: Tensor, face: str | int = "largest") -> Any:
        from talkhead.tracking.track import Detection

        self.asked.append(face)
        return None if self.points is None else Detection(self.points, 1.0, (0, 0, 1, 1))


def speech(seconds: float) -> Tensor:
    """Return a hum at 16 kHz whose loudness goes up and down."""
    t = torch.arange(round(seconds * 16000)) / 16000
    return 0.3 * torch.sin(2 * math.pi * 140 * t) * (0.5 + 0.5 * torch.sin(2 * math.pi * 3 * t))


def shaken(net: torch.nn.Module, std: float) -> torch.nn.Module:
    """Give every weight a value, for last layers start at zero and would hide the rest."""
    for weights in net.parameters():
        torch.nn.init.normal_(weights, std=std)
    return net


def tiny_pipeline() -> Any:
    """Return a ``TalkingHeadPipeline`` of random networks of 32 px."""
    from talkhead.nets.conformer import ConformerClassifier
    from talkhead.nets.landmark import LandmarkNet
    from talkhead.nets.renderer import Renderer
    from talkhead.pipeline import TalkingHeadPipeline
    from talkhead.schedulers import MaskNoiseBridgeScheduler

    torch.manual_seed(1)
    landmark = shaken(LandmarkNet(width=16, layers=1, heads=2), 0.05)
    renderer = shaken(Renderer(size=32, widths=(8, 16), patch=2), 0.1)
    info = {"window": 8, "overlap": 2, "num_inference_steps": 2}
    return TalkingHeadPipeline(landmark, ConformerClassifier("XS"), renderer, MaskNoiseBridgeScheduler(), info)


@pytest.fixture(scope="module")
def pipe() -> Any:
    """The tests' small pipeline."""
    return tiny_pipeline()


@pytest.fixture(scope="module")
def portrait() -> Tensor:
    """The tests' small portrait."""
    return tiny_portrait()


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a cache of 12 clips (32 px, 12 frames, 25 fps) in which the mouth opens as the sound gets loud."""
    root, generator = tmp_path_factory.mktemp("tiny_cache"), torch.Generator().manual_seed(0)
    (root / "clips").mkdir()
    lines = []
    for index in range(12):
        opening = torch.rand(12, generator=generator)
        landmarks = torch.stack([tiny_face(32, float(o)) for o in opening])
        loudness = opening.repeat_interleave(640)
        audio = 0.5 * loudness * (torch.arange(7680) * (0.05 + 0.01 * index)).sin()
        tensors = {
            "frames": tiny_frames(landmarks),
            "landmarks": landmarks,
            "confidence": torch.ones(12),
            "audio": audio,
        }
        save_file(tensors, root / "clips" / f"clip{index:02d}.safetensors")
        lines.append(json.dumps(tiny_entry(index)))
    (root / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    (root / "preprocess.json").write_text("{}")
    return root


def tiny_entry(index: int) -> dict[str, object]:
    """Return the manifest's entry of one clip of ``tiny_cache``."""
    return {
        "name": f"clip{index:02d}",
        "source": f"clip{index:02d}.mp4",
        "status": "ok",
        "reason": None,
        "identity": "anna",
        "emotion": ("happy", "sad", "neutral")[index % 3],
        "sentence": f"s{index % 4}",
        "fps": "25",
        "frames": 12,
        "samples": 7680,
        "size": 32,
        "crop": [0, 0, 32],
        "source_size": [32, 32],
        "detector": "dlib",
        "versions": {},
    }


def tiny_encoder(kind: str, folder: Path) -> str:
    """Write a tiny speech encoder with random weights, Whisper with pieces of a second; return the folder's name."""
    import transformers

    torch.manual_seed(1)
    speech = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": (8, 8),
        "conv_kernel": (10, 8),
        "conv_stride": (10, 8),
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
    }
    whisper = {
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "num_mel_bins": 20,
        "max_source_positions": 50,
        "max_target_positions": 8,
        "vocab_size": 20,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    }
    config = {
        "wav2vec2": lambda: transformers.Wav2Vec2Config(**speech),
        "hubert": lambda: transformers.HubertConfig(**speech),
        "wavlm": lambda: transformers.WavLMConfig(**speech),
        "whisper": lambda: transformers.WhisperConfig(**whisper),
    }[kind]()
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)
