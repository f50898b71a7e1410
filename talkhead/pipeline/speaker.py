"""A pipeline as a folder: find, load, save, export.

pipeline.json      version, fps, size, crop_scale, window, overlap, num_inference_steps, reference_landmarks
landmark/          LandmarkNet          (config.json, safetensors)
emotion/           ConformerClassifier  (may be absent: the emotion is then always given)
renderer/          Renderer
scheduler/         scheduler_config.json
portrait.png       the speaker's own face and
speech.flac        something to say, for the demo (both may be absent)
README.md          the model card
"""

from __future__ import annotations

import importlib
import json
import pickle
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from talkhead import __version__
from talkhead.data.clip import EMOTIONS
from talkhead.data.tracking import load_detector, track_landmarks
from talkhead.media.files import new_folder
from talkhead.media.read import exact_fps, read_audio, read_image, write_audio, write_image
from talkhead.nets.conformer import ConformerClassifier
from talkhead.nets.head_motion import HeadMotionNet
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.pipeline.motion import check_landmarks
from talkhead.renamed import renamed_arguments
from talkhead.schedulers import Scheduler

BUNDLED = Path(__file__).parents[1] / "assets" / "speaker"
EXTRAS = ("portrait.png", "speech.flac", "README.md")


def find_folder(name: str | Path) -> Path:
    """Return the folder of a pipeline.

    Args:
        name: "bundled" for the speaker inside the package; a folder; or a Hugging Face hub id, "someone/speaker".

    Raises:
        FileNotFoundError: if it is none of these, or the hub's files can neither be found in the cache nor downloaded.
        ValueError: if the folder holds no pipeline.
    """
    folder = BUNDLED if str(name) == "bundled" else Path(name)
    if not folder.is_dir():
        if str(name) == "bundled":
            raise FileNotFoundError(
                "pipeline 'bundled': this installation has no speaker inside; reinstall talkhead, or make a speaker "
                "with `talkhead export` and give its folder"
            )
        if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(name)):
            raise FileNotFoundError(f"pipeline: no folder '{name}'; give 'bundled', a pipeline's folder or a hub id")
        folder = _download(str(name))
    if not (folder / "pipeline.json").is_file():
        raise ValueError(f"pipeline: '{name}' has no pipeline.json; give a folder written by `talkhead export`")
    return folder


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name))
    except Exception as error:  # hub, network, cache: each has errors of its own, and each means the same here
        raise FileNotFoundError(
            f"pipeline: '{name}' is no folder here, and cannot be had from the Hugging Face hub "
            f"({type(error).__name__}); check the name and the connection, or give a folder"
        ) from error


def load_parts(folder: Path) -> tuple[LandmarkNet, ConformerClassifier | None, Renderer, Scheduler, dict[str, Any]]:
    """Load what a pipeline's folder holds: landmark net, emotion net, renderer, scheduler, info.

    Raises:
        ValueError: if a part is missing or cannot be read.
    """
    try:
        info = json.loads((folder / "pipeline.json").read_text(encoding="utf-8"))
        if "portrait_landmarks" in info:  # their name in folders written before 0.1.0
            info["reference_landmarks"] = info.pop("portrait_landmarks")
        landmark = LandmarkNet.from_pretrained(folder / "landmark")
        emotion = ConformerClassifier.from_pretrained(folder / "emotion") if (folder / "emotion").is_dir() else None
        renderer = Renderer.from_pretrained(folder / "renderer")
        scheduler = load_scheduler(folder / "scheduler")
        for name, part in {"landmark": landmark, "emotion": emotion, "renderer": renderer}.items():
            if part is not None and any(weight.is_meta for weight in part.state_dict().values()):
                raise ValueError(f"{name}: its weights file lacks some of the network's weights")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"pipeline: '{folder}' is damaged or incomplete ({reason}); export it again") from error
    return landmark, emotion, renderer, scheduler, info


def load_drawn_head(folder: Path) -> HeadMotionNet | None:
    """Load the net that draws the head's motion; None where the folder has none, as older ones have.

    Raises:
        ValueError: if it cannot be read.
    """
    if not (folder / "head").is_dir():
        return None
    try:
        return HeadMotionNet.from_pretrained(folder / "head").eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"pipeline: '{folder}' is damaged or incomplete ({reason}); export it again") from error


def load_scheduler(folder: Path) -> Scheduler:
    """Load a scheduler of ours or of diffusers, whichever its config names."""
    name = json.loads((folder / "scheduler_config.json").read_text(encoding="utf-8"))["_class_name"]
    home = importlib.import_module("talkhead.schedulers")
    if not hasattr(home, name):
        home = importlib.import_module("diffusers")
    if not hasattr(home, name):
        raise ValueError(f"scheduler '{name}' is neither talkhead's nor diffusers'")
    return getattr(home, name).from_pretrained(folder)


def write_parts(
    folder: Path,
    landmark: LandmarkNet,
    emotion: ConformerClassifier | None,
    renderer: Renderer,
    scheduler: Scheduler,
    info: Mapping[str, Any],
    head: HeadMotionNet | None = None,
) -> None:
    """Write networks, scheduler and ``pipeline.json`` into an empty folder."""
    parts = {"landmark": landmark, "head": head, "emotion": emotion, "renderer": renderer, "scheduler": scheduler}
    for name, part in parts.items():
        if part is not None:
            part.save_pretrained(folder / name)
    facts = {**info, "talkhead": __version__, "size": renderer.config["size"]}
    (folder / "pipeline.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


@renamed_arguments(portrait_landmarks="reference_landmarks")
def export_pipeline(
    output: str | Path,
    *,
    landmark: str | Path,
    emotion: str | Path | None,
    video: str | Path,
    head: str | Path | None = None,
    portrait: str | Path | None = None,
    speech: str | Path | None = None,
    reference_landmarks: Tensor | None = None,
    detector: str = "auto",
    fps: float | Fraction = 25,
    crop_scale: float = 1.5,
    window: int = 16,
    overlap: int = 4,
    num_inference_steps: int = 4,
    name: str = "",
    data: str = "",
    licence: str = "",
    results: str = "",
) -> Path:
    """Put the three trained parts together into a pipeline's folder.

    Args:
        output: the folder to make; it must not exist yet, or be empty.
        landmark: checkpoint of `LandmarkGenerator`, or a folder of `LandmarkNet.save_pretrained`.
        emotion: checkpoint of `EmotionClassifier`, or a folder of `ConformerClassifier.save_pretrained`; None: none.
        video: checkpoint of `VideoDiffusion`, or a folder with ``renderer/`` and ``scheduler/``.
        head: checkpoint of `HeadMotionGenerator`, or a folder of `HeadMotionNet.save_pretrained`; None: the head sways.
        portrait: a picture of the speaker, for the demo.
        speech: a recording, for the demo.
        reference_landmarks: (68, 2) px of the portrait; None: detected.
        detector: see `load_detector`.
        fps: frames per second that the parts were trained at.
        crop_scale: size of the face crop relative to the landmarks' box, as in `preprocess`.
        window: frames painted together.
        overlap: frames shared by neighbouring windows.
        num_inference_steps: network evaluations per frame.
        name: of the speaker, for the card.
        data: what the parts were trained on, with attribution, for the card.
        licence: an SPDX id or a sentence, for the card.
        results: markdown for the card, such as the table of `talkhead evaluate`.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: if a checkpoint, picture or recording does not exist.
        ValueError: if one cannot be read, or no face is found in the portrait.
        FileExistsError: if there is something in ``output``.
    """
    parts = (load_landmark(landmark), None if emotion is None else load_emotion(emotion), *load_video(video))
    info: dict[str, Any] = {"fps": str(exact_fps(fps)), "crop_scale": crop_scale, "window": window}
    info |= {"overlap": overlap, "num_inference_steps": num_inference_steps}
    sound = None if speech is None else read_audio(speech)
    picture = None if portrait is None else read_image(portrait)
    if picture is not None and reference_landmarks is None:
        reference_landmarks = track_landmarks([picture], load_detector(detector))[0][0]
    if reference_landmarks is not None:
        info["reference_landmarks"] = check_landmarks(reference_landmarks[None], "reference_landmarks")[0].tolist()
    with new_folder(output) as folder:
        write_parts(folder, *parts, info, head=None if head is None else load_head(head))
        if picture is not None:
            write_image(folder / "portrait.png", picture)
        if sound is not None:
            write_audio(folder / "speech.flac", sound)
        card = model_card(name or Path(output).name, data, licence, results)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return Path(output)


def load_landmark(path: str | Path) -> LandmarkNet:
    """Load the landmark net from a folder or a checkpoint."""
    if Path(path).is_dir():
        return LandmarkNet.from_pretrained(path)
    from talkhead.modules.landmark import LandmarkGenerator

    return _checkpoint(LandmarkGenerator, path).net


def load_emotion(path: str | Path) -> ConformerClassifier:
    """Load the emotion net from a folder or a checkpoint."""
    if Path(path).is_dir():
        return check_emotions(ConformerClassifier.from_pretrained(path))
    from talkhead.modules.emotion import EmotionClassifier

    return check_emotions(_checkpoint(EmotionClassifier, path).net)


def load_head(path: str | Path) -> HeadMotionNet:
    """Load the net that draws the head's motion from a folder or a checkpoint."""
    if Path(path).is_dir():
        return HeadMotionNet.from_pretrained(path)
    from talkhead.modules.head_motion import HeadMotionGenerator

    return _checkpoint(HeadMotionGenerator, path).net


def check_emotions(net: ConformerClassifier) -> ConformerClassifier:
    """Return a net whose classes are the library's emotions, as a pipeline needs them; refuse any other."""
    if list(net.config["emotions"]) != list(EMOTIONS):
        raise ValueError(
            f"emotion: expected a classifier of {', '.join(EMOTIONS)}, in this order; got one of "
            f"{', '.join(net.config['emotions'])}; train it with `talkhead fit --config emotion`"
        )
    return net


def load_video(path: str | Path) -> tuple[Renderer, Scheduler]:
    """Load renderer and scheduler from a folder that holds both, or from a checkpoint."""
    if Path(path).is_dir():
        return Renderer.from_pretrained(Path(path) / "renderer"), load_scheduler(Path(path) / "scheduler")
    from talkhead.modules.video import VideoDiffusion

    module = _checkpoint(VideoDiffusion, path)
    return module.renderer, module.scheduler


def _checkpoint(module: type[Any], path: str | Path) -> Any:
    """Build a LightningModule as its run's ``config.yaml`` says, and give it the checkpoint's (averaged) weights."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{module.__name__}: no checkpoint or folder '{path}'")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        built = module(**run_config(path))
        built.on_load_checkpoint(checkpoint)
        built.load_state_dict(checkpoint["state_dict"])
    except (LookupError, RuntimeError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{module.__name__}: '{path}' is no checkpoint of it ({reason})") from error
    return built


def run_config(checkpoint: Path) -> dict[str, Any]:
    """Return the constructor's arguments of the module that a run trained, its networks built.

    Lightning writes a run's configuration into the folder of its logs, `talkhead fit` the checkpoints beside it:
    RUN/checkpoints/*.ckpt and RUN/logs/version_*/config.yaml, of which the newest not newer than the checkpoint counts.
    """
    found = [*checkpoint.parent.glob("config.yaml"), *checkpoint.parent.parent.glob("logs/*/config.yaml")]
    if not found:
        raise FileNotFoundError(
            f"checkpoint: beside '{checkpoint}' lies no config.yaml of its run; keep the run's folder together, "
            "or give a folder written by save_pretrained"
        )
    import yaml

    before = [file for file in found if file.stat().st_mtime <= checkpoint.stat().st_mtime]
    newest = max(before or found, key=lambda file: file.stat().st_mtime)
    return _built(yaml.safe_load(newest.read_text(encoding="utf-8"))["model"]["init_args"])


def _built(node: Any) -> Any:
    """Replace every {class_path, init_args} below ``node`` by an instance."""
    if not isinstance(node, dict):
        return node
    arguments = {name: _built(value) for name, value in node.get("init_args", node).items() if name != "class_path"}
    if "class_path" not in node:
        return arguments
    home, _, name = node["class_path"].rpartition(".")
    return getattr(importlib.import_module(home), name)(**arguments)


def model_card(name: str, data: str, licence: str, results: str) -> str:
    """Return a model card for a pipeline's README.md; what is not given is said to be missing."""
    missing = "Not stated by whoever exported this pipeline."
    return f"""---
library_name: talkhead
license: {licence if re.fullmatch(r"[A-Za-z0-9.-]+", licence) else "other"}
---

# {name}

A talking-head pipeline of `talkhead` {__version__}: one portrait and one speech recording in, a video out.

```python
import talkhead
talkhead.TalkingHeadPipeline.from_pretrained("PATH/TO/THIS/FOLDER")("portrait.png", "speech.wav").save("out.mp4")
```

## Training data and attribution

{data or missing}

## Licence

{licence or missing}

## Results

{results or "Not measured; `talkhead evaluate` makes the table."}

## Limits

Trained on the data named above. Other faces are moved rather than repainted, and show what their portrait shows:
teeth that are not in it are invented. How well the emotion shows in the video is not measured. Make videos only of
people who agree to it, and say that they are generated.
"""
