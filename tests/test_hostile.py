"""Files from anywhere: a speaker's folder or a motion that says what cannot be gets one sentence; nothing is run."""

import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import POINTS, speech, tiny_pipeline, tiny_portrait
from safetensors.torch import load_file, save_file

from talkhead.pipeline import TalkingHeadPipeline
from talkhead.pipeline.motion import LandmarkSequence
from talkhead.speaker.schema import check_arguments

NASTY: list[Any] = [
    None, True, "x", "os.system", "../../x", "1/0", "x" * 10_000, -1, 0, 0.5, 16384, 10**12, 1e308, float("nan"),
    float("inf"), [], [[]], [1, "x"], ["raw"] * 2000, {}, {"a": {"a": 1}},
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny speaker."""
    speaker, path = tiny_pipeline(), tmp_path_factory.mktemp("hostile") / "speaker"
    speaker.info["reference_landmarks"] = POINTS.tolist()
    speaker.save_pretrained(path)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to change, beside a file that is nobody's business."""
    monkeypatch.chdir(tmp_path)
    Path("secret").write_bytes(next((folder / "renderer").glob("*.safetensors")).read_bytes())
    shutil.copytree(folder, "speaker")
    return Path("speaker")


def changes(folder: Path) -> Iterator[tuple[str, str, Any]]:
    """Yield every (file, key, value) in which one value of a folder's JSON files is another."""
    for file in sorted(folder.rglob("*.json")):
        for key in [*json.loads(file.read_text()), "unheard_of"]:
            for value in NASTY:
                yield str(file.relative_to(folder)), key, value


def try_change(source: Path, target: Path, file: str, key: str, value: Any) -> str:
    """Load and use a speaker with one changed value: "works", or the sentence with which it was refused."""
    shutil.copytree(source, target)
    (target / file).write_text(json.dumps(json.loads((source / file).read_text()) | {key: value}))
    try:
        loaded = TalkingHeadPipeline.from_pretrained(target)
    except ValueError as error:
        assert "\n" not in str(error) and "is damaged or incomplete" in str(error)
        return str(error)
    finally:
        shutil.rmtree(target)
    try:
        made = loaded(tiny_portrait(), speech(0.1), reference_landmarks=POINTS, emotion="sad", size=32)
        assert made.frames.shape[0] >= 1
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "works"


@pytest.mark.parametrize("part", ["landmark", "renderer"])
def test_training_on_what_is_no_emotion_is_refused(copy, part):
    """It would be told nothing, 0 / 0, and paint a black video."""
    file = copy / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"trained_on": ["joy"]}))
    with pytest.raises(ValueError, match=rf"{part}.trained_on must name emotions among angry, .* got \['joy'\]"):
        TalkingHeadPipeline.from_pretrained(copy)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_folder_says_what_can_be_or_is_refused(folder: Path, tmp_path: Path) -> None:
    every = list(changes(folder))
    outcomes = [try_change(folder, tmp_path / "x", *change) for change in random.Random(11).sample(every, 24)]
    assert 0 < outcomes.count("works") < 16


@pytest.mark.storm
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_change_of_a_folder_is_used_or_refused(folder: Path, tmp_path: Path) -> None:
    outcomes = [try_change(folder, tmp_path / "x", *change) for change in changes(folder)]
    print(f"{len(outcomes)} changes, {outcomes.count('works')} work, the others are refused")


def swap_scheduler(folder: Path, name: str) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": name}))


def poison_weights(folder: Path) -> None:
    file = next((folder / "renderer").glob("*.safetensors"))
    save_file({name: w / 0 for name, w in load_file(file).items()}, file)


def pickle_weights(folder: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return os.mkdir, ("executed",)

    file = next((folder / "renderer").glob("*.safetensors"))
    file.unlink()
    torch.save({"x": Payload()}, file.with_suffix(".bin"))


def point_elsewhere(folder: Path) -> None:
    file = next((folder / "renderer").glob("*.safetensors"))
    file.unlink()
    file.symlink_to(Path("secret").absolute())


def name_further_files(folder: Path) -> None:
    file = next((folder / "renderer").glob("*.safetensors"))
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(file), "../../secret")}
    file.unlink()
    (folder / "renderer" / f"{file.name}.index.json").write_text(json.dumps(index))


def link_a_part(folder: Path) -> None:
    shutil.move(folder / "renderer", "renderer")
    (folder / "renderer").symlink_to(Path("renderer").absolute())


HOSTILE = [
    (lambda f: (f / "pipeline.json").write_bytes(b"\xff\xfe\x00"), "can't decode"),
    (lambda f: (f / "pipeline.json").write_text("[" * 10**5), "nested too deeply"),
    (lambda f: (f / "pipeline.json").write_text(" " * 2**21 + "{}"), "larger than 1 MiB"),
    (lambda f: (f / "pipeline.json").write_text("[]"), "must hold an object"),
    (lambda f: (f / "renderer" / "config.json").unlink(), "config.json"),
    (lambda f: swap_scheduler(f, "DiffusionPipeline"), "neither talkhead's nor diffusers'"),
    (lambda f: swap_scheduler(f, "logging"), "neither talkhead's nor diffusers'"),
    (lambda f: swap_scheduler(f, "os.system"), "neither talkhead's nor diffusers'"),
    (poison_weights, "weights are not finite"),
    (pickle_weights, "safetensors"),
    (point_elsewhere, "leads out of the folder"),
    (name_further_files, "weights in several files"),
    (link_a_part, "leads out of the folder"),
]


@pytest.mark.parametrize(("harm", "words"), HOSTILE)
def test_a_hostile_folder_runs_nothing_and_opens_nothing_outside(harm: Any, words: str, copy: Path) -> None:
    harm(copy)
    with pytest.raises(ValueError, match="is damaged or incomplete") as caught:
        TalkingHeadPipeline.from_pretrained(copy)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("executed").exists()


def test_links_of_the_hubs_own_cache_are_followed(copy: Path) -> None:
    """The hub keeps snapshots/REVISION/FILE as links to ../../blobs."""
    home = Path("models--a--b")
    (home / "blobs").mkdir(parents=True)
    shutil.move(copy, home / "snapshots" / "1234")
    for index, file in enumerate(path for path in (home / "snapshots").rglob("*") if path.is_file()):
        blob = home / "blobs" / str(index)
        shutil.move(file, blob)
        file.symlink_to(os.path.relpath(blob, file.parent))
    assert TalkingHeadPipeline.from_pretrained(home / "snapshots" / "1234").renderer.config.size == 32


@pytest.mark.parametrize(
    "encoder",
    [None, {}, {"model_type": "gpt2"}, {"model_type": "hubert", "auto_map": {"AutoModel": "evil--code"}},
     {"model_type": "hubert", "_attn_implementation": "someone/kernels"}],
)  # fmt: skip
def test_an_encoder_is_described_and_never_fetched(encoder: Any) -> None:
    from talkhead.nets.landmark import LandmarkNet

    with pytest.raises(ValueError, match="encoder_config"):
        check_arguments(LandmarkNet, {"encoder": "someone/model", "encoder_config": encoder}, "landmark")


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def bomb() -> bytes:
    """A small file that unpacks to more than memory should hold, under the right name."""
    file, good = io.BytesIO(), zipfile.ZipFile(io.BytesIO(npz(fps=np.array([25, 1]), size=np.array([9, 9]))))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in good.namelist():
            archive.writestr(name, good.read(name))
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**21, 68, 2)})
        archive.writestr("landmarks.npy", header.getvalue() + bytes(1000))
    return file.getvalue()


POINTS_OF_TWO = np.zeros((2, 68, 2), np.float32)
MOTIONS = [
    b"",
    b"PK\x03\x04",
    npz(),
    npz(landmarks=POINTS_OF_TWO, fps=np.array([25, 0]), size=np.array([9, 9])),
    npz(landmarks=POINTS_OF_TWO, fps=np.array([25.0, 1.0]), size=np.array([9, 9])),
    npz(landmarks=POINTS_OF_TWO, fps=np.array(25), size=np.array([9, 9])),
    npz(landmarks=POINTS_OF_TWO, fps=np.array([25, 1]), size=np.array([10**9, 9])),
    npz(landmarks=POINTS_OF_TWO, fps=np.array([25, 1]), size=np.array(["a", "b"])),
    npz(landmarks=POINTS_OF_TWO[:, :5], fps=np.array([25, 1]), size=np.array([9, 9])),
    npz(landmarks=POINTS_OF_TWO / np.float32("nan"), fps=np.array([25, 1]), size=np.array([9, 9])),
    npz(landmarks=POINTS_OF_TWO.astype(str), fps=np.array([25, 1]), size=np.array([9, 9])),
    npz(landmarks=np.array([{}], object), fps=np.array([25, 1]), size=np.array([9, 9])),
    npz(landmarks=POINTS_OF_TWO, fps=np.array([25, 1]), size=np.array([9, 9]), more=np.zeros(3)),
    bomb(),
]


@pytest.mark.parametrize("content", MOTIONS)
def test_a_motion_that_cannot_be_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match="is no landmark sequence") as caught:
        LandmarkSequence.load(tmp_path / "x.npz")
    assert "\n" not in str(caught.value)
