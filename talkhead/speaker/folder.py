"""A pipeline as a folder: find, load, save, export.

pipeline.json      version, fps, size, crop_scale, window, overlap, num_inference_steps, reference_landmarks
landmark/          LandmarkNet          (config.json, safetensors)
head/              HeadMotionNet        (may be absent: the head then sways by rule)
emotion/           ConformerClassifier  (may be absent: the emotion is then always given)
renderer/          Renderer
scheduler/         scheduler_config.json
portrait.png       the speaker's own face and
speech.flac        something to say, for the demo (both may be absent)
bank.safetensors   further pictures of the speaker with their landmarks, for their mouths (may be absent)
README.md          the model card
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from talkhead import __version__
from talkhead.face.landmarks import check_landmarks
from talkhead.face.mouth_bank import Bank
from talkhead.media.files import new_folder
from talkhead.media.read import exact_fps, read_audio, read_image, write_audio, write_image
from talkhead.nets.conformer import ConformerClassifier
from talkhead.nets.head_motion import HeadMotionNet
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.one_line import one_line
from talkhead.renamed import renamed_arguments
from talkhead.schedulers import Scheduler
from talkhead.speaker.references import BANK, read_references
from talkhead.speaker.schema import check_info, check_windows, inside, load_net, load_scheduler, read_json
from talkhead.speaker.trained import agreed, load_emotion, load_head, load_landmark, load_video
from talkhead.tracking.portrait import find_face
from talkhead.tracking.track import load_detector

BUNDLED = Path(__file__).parents[1] / "assets" / "speaker"
HUB_ID = r"[\w-][\w.-]*/[\w-][\w.-]*"
"""The form of a name on the Hugging Face hub."""
FINE = "renderer_fine"
"""Folder of the renderer for large faces."""
EXTRAS = ("portrait.png", "speech.flac", BANK, "README.md")
NETWORKS = ("landmark", "emotion", "head", "renderer", FINE, "scheduler")


def find_folder(name: str | Path) -> Path:
    """Return the folder of a pipeline.

    Args:
        name: "bundled" for the speaker inside the package; a folder; or a Hugging Face hub id, "someone/speaker", also
            with a branch, tag or commit: "someone/speaker@v1".

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
        at_hub = re.fullmatch(f"({HUB_ID})(?:@([\\w./-]+))?", str(name))
        if not at_hub:
            raise FileNotFoundError(f"pipeline: no folder '{name}'; give 'bundled', a pipeline's folder or a hub id")
        folder = _download(at_hub[1], at_hub[2])
    if not (folder / "pipeline.json").is_file():
        raise ValueError(f"pipeline: '{name}' has no pipeline.json; give a folder written by `talkhead export`")
    return folder


def own_portrait(folder: Path | None, info: Mapping[str, Any]) -> tuple[Path, Tensor]:
    """Return the picture that lies in a pipeline's folder, and its (68, 2) px landmarks.

    Raises:
        ValueError: if there is none.
    """
    portrait = None if folder is None else folder / "portrait.png"
    if portrait is None or not portrait.is_file() or "reference_landmarks" not in info:
        raise ValueError(f"pipeline: '{folder}' has no portrait of its own; give a picture")
    return portrait, torch.tensor(info["reference_landmarks"])


def own_references(folder: Path | None) -> str | None:
    """Return what `TalkingHeadPipeline.stream` takes for a folder's further pictures; None where it has none."""
    return "speaker" if folder is not None and (folder / BANK).is_file() else None


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    place = f" at '{revision}'" if revision else ""
    try:
        # Whatever else lies there, however large, is none of a speaker's.
        own = ["pipeline.json", *EXTRAS, *(f"{part}/*.{kind}" for part in NETWORKS for kind in ("json", "safetensors"))]
        return Path(snapshot_download(name, revision=revision, allow_patterns=own))
    except Exception as error:  # hub, network, cache: each has errors of its own, and each means the same here
        raise FileNotFoundError(
            f"pipeline: '{name}' is no folder here, and cannot be had from the Hugging Face hub "
            f"({type(error).__name__}{place}); check the name and the connection, or give a folder"
        ) from error


def load_parts(folder: Path) -> tuple[LandmarkNet, ConformerClassifier | None, Renderer, Scheduler, dict[str, Any]]:
    """Load what a pipeline's folder holds: landmark net, emotion net, renderer, scheduler, info.

    Raises:
        ValueError: if a part is missing or cannot be read.
    """
    try:
        info = read_json(inside(folder, folder / "pipeline.json"))
        if "portrait_landmarks" in info:  # their name in folders written before 0.1.0
            info["reference_landmarks"] = info.pop("portrait_landmarks")
        info = check_info(info)
        landmark = load_net(LandmarkNet, folder, "landmark")
        emotion = load_net(ConformerClassifier, folder, "emotion") if (folder / "emotion").is_dir() else None
        renderer = load_net(Renderer, folder, "renderer")
        scheduler = load_scheduler(folder / "scheduler", folder)
        if info.get("size", renderer.config.size) != renderer.config.size:
            raise ValueError(f"pipeline.json: size is {info['size']}, and the renderer's {renderer.config.size}")
        for name in EXTRAS:
            inside(folder, folder / name)
    except Exception as error:  # json, diffusers, safetensors and torch have errors of their own; each means the same
        raise damaged(folder, error) from error
    return landmark, emotion, renderer, scheduler, info


def load_drawn_head(folder: Path) -> HeadMotionNet | None:
    """Load the net that draws the head's motion; None where the folder has none, as older ones have.

    Raises:
        ValueError: if it cannot be read.
    """
    if not (folder / "head").is_dir():
        return None
    try:
        return load_net(HeadMotionNet, folder, "head").eval()
    except Exception as error:  # as in load_parts
        raise damaged(folder, error) from error


def load_fine_renderer(folder: Path) -> Renderer | None:
    """Load the renderer for large faces; None where the folder has none. Kept in half precision, it becomes float32.

    Raises:
        ValueError: if it cannot be read.
    """
    if not (folder / FINE).is_dir():
        return None
    try:
        return load_net(Renderer, folder, FINE).float().eval()
    except Exception as error:  # as in load_parts
        raise damaged(folder, error) from error


def damaged(folder: Path, error: Exception) -> ValueError:
    """Return what is said of a folder in which one thing or another cannot be read."""
    reason = one_line(error, 300)
    return ValueError(f"pipeline: '{folder}' is damaged or incomplete ({reason}); export it again")


def write_parts(
    folder: Path,
    landmark: LandmarkNet,
    emotion: ConformerClassifier | None,
    renderer: Renderer,
    scheduler: Scheduler,
    info: Mapping[str, Any],
    head: HeadMotionNet | None = None,
    fine: Renderer | None = None,
) -> None:
    """Write networks, scheduler and ``pipeline.json`` into an empty folder."""
    parts = {"landmark": landmark, "head": head, "emotion": emotion, "renderer": renderer, "scheduler": scheduler}
    parts[FINE] = None if fine is None else _as_small(fine)
    for name, part in parts.items():
        if part is not None:
            save_part(part, folder / name)
    facts = {**info, "talkhead": __version__, "size": renderer.config["size"]}
    (folder / "pipeline.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _as_small(net: Renderer) -> Renderer:
    """Return a copy in half precision where that holds each weight exactly, as of one that was kept so; else itself."""
    weights = (weight for weight in net.state_dict().values() if weight.is_floating_point())
    exact = all(torch.equal(weight.half().to(weight.dtype), weight) for weight in weights)
    return deepcopy(net).half() if exact else net


def save_part(part: Any, folder: str | Path) -> None:
    """Write a network or a scheduler, without where on this machine it was loaded from, which diffusers would tell.

    Args:
        part: what has diffusers' ``save_pretrained``.
        folder: where to.
    """
    part.save_pretrained(folder)
    for path in Path(folder).glob("*config.json"):
        config = read_json(path)
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for weights in path.parent.glob("*.safetensors"):  # which only their owner could read, whatever the umask says
            weights.chmod(path.stat().st_mode & 0o777)


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
    references: Any = None,
    bank: Bank | None = None,
    reference_landmarks: Tensor | None = None,
    detector: str | None = None,
    fps: float | Fraction | None = None,
    crop_scale: float | None = None,
    window: int = 16,
    overlap: int = 4,
    num_inference_steps: int = 4,
    name: str = "",
    data: str = "",
    licence: str = "",
    results: str = "",
) -> Path:
    """Put the three trained parts together into a pipeline's folder.

    Each part may be ``"bundled"``: the bundled speaker's.

    Args:
        output: the folder to make; it must not exist yet, or be empty.
        landmark: checkpoint of `LandmarkGenerator`, or a folder of `LandmarkNet.save_pretrained`.
        emotion: checkpoint of `EmotionClassifier`, or a folder of `ConformerClassifier.save_pretrained`; None: none.
        video: checkpoint of `VideoDiffusion`, or a folder with ``renderer/`` and ``scheduler/``.
        head: checkpoint of `HeadMotionGenerator`, or a folder of `HeadMotionNet.save_pretrained`; None: the head sways.
        portrait: a picture of the speaker, for the demo.
        speech: a recording, for the demo.
        references: further pictures or a video of the speaker, kept as a bank of mouths; see `read_references`.
        bank: the same already cut, (R, 3, size, size) uint8 with their landmarks (R, 68, 2) px, R at most 64.
        reference_landmarks: (68, 2) px of the portrait; None: detected.
        detector: of the landmarks trained on, and of the portrait's; see `load_detector`. None: what the checkpoints
            say, else "auto".
        fps: frames per second that the parts were trained at; None: what the checkpoints say, else 25.
        crop_scale: size of the face crop relative to the landmarks' box, as in `preprocess`; None: what the renderer's
            checkpoint says, else 1.5.
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
        ValueError: if one cannot be read, no face is found in the portrait, windows cannot overlap so, the renderer
            takes no further pictures, or what the checkpoints say of their data contradicts itself or an argument.
        FileExistsError: if there is something in ``output``.
    """
    check_windows(window, overlap, num_inference_steps)
    landmark, emotion, head = _part(landmark, "landmark"), _part(emotion, "emotion"), _part(head, "head")
    motion, ears, sight = load_landmark(landmark), load_emotion(emotion), load_video(_part(video))
    parts = (motion.parts["net"], ears.parts.get("net"), sight.parts["renderer"], sight.parts["scheduler"])
    if not (references is None and bank is None) and not parts[2].config.bank:
        raise ValueError("references: this renderer looks at one portrait alone; leave them out")
    rate = None if fps is None else str(exact_fps(fps))
    told = {
        "fps": agreed("fps", rate, "25", motion, sight),
        "crop_scale": agreed("crop_scale", crop_scale, 1.5, sight, within=0.1),
    }
    detector = agreed("detector", None if detector == "auto" else detector, "auto", motion, sight)
    info: dict[str, Any] = {**told, "window": window, "overlap": overlap, "num_inference_steps": num_inference_steps}
    info |= {} if detector == "auto" else {"detector": detector}
    check_info(info)
    sound = None if speech is None else _read("speech", read_audio, speech)
    picture = None if portrait is None else _read("portrait", read_image, portrait)
    if picture is not None and reference_landmarks is None:
        reference_landmarks = _face_in(picture, detector, portrait)
    if reference_landmarks is not None:
        info["reference_landmarks"] = check_landmarks(reference_landmarks[None], "reference_landmarks")[0].tolist()
    if references is not None:
        scale, size = told["crop_scale"], parts[2].config.size
        bank = read_references(references, load_detector(detector), "largest", scale, size)
    with new_folder(output) as folder:
        write_parts(folder, *parts, info, head=None if head is None else load_head(head).parts["net"])
        if picture is not None:
            write_image(folder / "portrait.png", picture)
        if sound is not None:
            write_audio(folder / "speech.flac", sound)
        if bank is not None:
            (folder / BANK).write_bytes(save({"pictures": bank[0], "landmarks": bank[1]}))
        card = model_card(name or Path(output).name, data, licence, results)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return Path(output)


def _part(given: Any, name: str = ".") -> Any:
    """Return where a part lies: the bundled speaker's by its name, any other where it was given."""
    return BUNDLED / name if str(given) == "bundled" else given


def _read(argument: str, read: Callable[[str | Path], Tensor], path: str | Path) -> Tensor:
    """Read a file to export; what is said of it names the argument that it was given as."""
    try:
        return read(path)
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(re.sub("^(image|audio)", argument, str(error))) from error


def _face_in(picture: Tensor, detector: str, portrait: str | Path | None) -> Tensor:
    """Return the landmarks of a portrait to export."""
    try:
        return find_face(picture, load_detector(detector), "largest", portrait)
    except ValueError as error:
        raise ValueError(str(error).replace("image:", "portrait:", 1)) from error


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
