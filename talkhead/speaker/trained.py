"""Trained parts, from the checkpoints of runs or the folders of networks: what they are, and what data they are of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from talkhead.data.clip import EMOTIONS
from talkhead.modules.checkpoint import read_checkpoint
from talkhead.nets.conformer import ConformerClassifier
from talkhead.nets.head_motion import HeadMotionNet
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.nets.sync import SyncNet
from talkhead.one_line import one_line
from talkhead.speaker.schema import (
    check_arguments,
    check_finite,
    check_info,
    known_class,
    load_net,
    load_scheduler,
    make_scheduler,
)

MODULES = ("LandmarkGenerator", "EmotionClassifier", "VideoDiffusion", "HeadMotionGenerator", "SyncExpert")
"""The library's own modules; a run may have trained one of the user's, made of the same networks."""


@dataclass(frozen=True)
class Trained:
    """What a run has made.

    Attributes:
        name: what it is called in an error.
        parts: networks and scheduler by name.
        facts: what the data have in common: size, fps, crop_scale, detector; empty where nothing is told.
    """

    name: str
    parts: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def load_landmark(path: str | Path) -> Trained:
    """Load the landmark net from a folder or a checkpoint."""
    return _load(path, "LandmarkGenerator", "landmark", net=LandmarkNet)


def load_emotion(path: str | Path | None) -> Trained:
    """Load the emotion net from a folder or a checkpoint; None: there is none."""
    if path is None:
        return Trained("emotion")
    loaded = _load(path, "EmotionClassifier", "emotion", net=ConformerClassifier)
    check_emotions(loaded.parts["net"])
    return loaded


def load_head(path: str | Path) -> Trained:
    """Load the net that draws the head's motion from a folder or a checkpoint."""
    loaded = _load(path, "HeadMotionGenerator", "head", net=HeadMotionNet)
    net = loaded.parts["net"]
    if net.spread.any() and not net.blink_rate and bool((net.gain == 1).all()):
        raise ValueError(
            f"head: the run of '{path}' has not come to its end, where the size of the motion and the rate of the "
            "blinks are set: go on with it (--ckpt_path=last), with a shorter trainer.max_epochs where you like"
        )
    return loaded


def load_sync(path: str | Path) -> Trained:
    """Load the judge of synchrony from a folder or a checkpoint."""
    return _load(path, "SyncExpert", "sync", net=SyncNet)


def load_video(path: str | Path) -> Trained:
    """Load renderer and scheduler from a folder that holds both, or from a checkpoint."""
    folder = Path(path)
    if folder.is_dir():
        with _named(folder, "video", "renderer and scheduler"):
            renderer, scheduler = load_net(Renderer, folder, "renderer"), load_scheduler(folder / "scheduler")
        return Trained("video", {"renderer": renderer, "scheduler": scheduler})
    return _load(path, "VideoDiffusion", "video", renderer=Renderer, scheduler=None)


def check_emotions(net: ConformerClassifier) -> ConformerClassifier:
    """Return a net whose classes are the library's emotions, as a pipeline needs them; refuse any other."""
    if list(net.config["emotions"]) != list(EMOTIONS):
        raise ValueError(
            f"emotion: expected a classifier of {', '.join(EMOTIONS)}, in this order; got one of "
            f"{', '.join(net.config['emotions'])}; train it with `talkhead fit --config emotion`"
        )
    return net


def agreed(fact: str, given: Any, default: Any, *trained: Trained, within: float = 0.0) -> Any:
    """Return what the trained parts say of their data, or what is given where they do not say it.

    Args:
        fact: its name.
        given: by the user; None: nothing.
        default: where nobody says.
        trained: the parts.
        within: what is given may differ by this share: a portrait's box is smaller than that of a whole clip.

    Raises:
        ValueError: if they contradict each other and nothing is given, or all of them contradict what is given.
    """
    said = {part.name: part.facts[fact] for part in trained if fact in part.facts}
    if not said:
        return default if given is None else given
    if given is None and len(set(said.values())) == 1:
        return next(iter(said.values()))
    near = [value for value in said.values() if value == given or (within and abs(value - given) <= within * value)]
    if given is None or not near:
        theirs = ", ".join(f"{value} of the {name} checkpoint" for name, value in said.items())
        but = "" if given is None else f", not {given}"
        raise ValueError(
            f"{fact}: the data of the parts had {theirs}{but}; give parts trained on the same kind of data"
        )
    return given


@contextmanager
def _named(folder: Path, name: str, what: str) -> Iterator[None]:
    """Say in one sentence which folder cannot be read as what."""
    try:
        yield
    except Exception as error:  # json, diffusers, safetensors and torch have errors of their own; each means the same
        missing = isinstance(error, FileNotFoundError) and error.filename
        reason = f"it has no {Path(missing).name}" if missing else one_line(error, 300)
        raise ValueError(
            f"{name}: the folder '{folder}' is no trained {what} ({reason}); give the checkpoint of a run, or a folder "
            "that `save_pretrained` wrote"
        ) from error


def _load(path: str | Path, module: str, name: str, **parts: Any) -> Trained:
    """Build a module's parts as its checkpoint, or a network as its folder describes it."""
    path = Path(path)
    if path.is_dir():
        with _named(path, name, " and ".join(made.__name__ for made in parts.values())):
            return Trained(name, {part: load_net(made, path, ".") for part, made in parts.items()})
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no checkpoint or folder '{path}'")
    checkpoint = read_checkpoint(path)
    described = checkpoint.get("hyper_parameters")
    described = described if isinstance(described, dict) else {}
    theirs = str(described.get("_class_path", module)).rpartition(".")[2]
    try:
        if theirs != module and theirs in MODULES:  # what is made of its networks a module of the user's own may say
            raise ValueError(f"it is of {theirs:.60}")
        built = {part: _built(part, made, described.get(part), checkpoint) for part, made in parts.items()}
        return Trained(name, built, check_info(_facts(checkpoint)))
    except (ValueError, RuntimeError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        reason = one_line(error, 300)
        raise ValueError(f"{module}: '{path}' is no checkpoint of it ({reason})") from error


def _built(part: str, made: Any, described: Any, checkpoint: dict[str, Any]) -> Any:
    """Build one part and give it its (averaged) weights; ``made`` is its class, None for a scheduler."""
    if not isinstance(described, dict) or not isinstance(described.get("init_args", {}), dict):
        raise ValueError(f"it does not say what {part} is made of: train it again, or give a folder of save_pretrained")
    arguments, kind = described.get("init_args", {}), str(described.get("class_path")).rpartition(".")[2]
    if made is None:
        return make_scheduler(kind, arguments)
    made = known_class(made, kind, part)
    net = made(**(taken := check_arguments(made, arguments, part)))
    net.register_to_config(**{key: value for key, value in arguments.items() if key not in taken})  # as diffusers does
    weights = {
        key.removeprefix(f"{part}."): w for key, w in checkpoint["state_dict"].items() if key.startswith(f"{part}.")
    }
    net.load_state_dict(weights)
    return check_finite(net.eval(), part)


def _facts(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint says of the cache that it was trained on."""
    state = checkpoint.get("MEADDataModule")
    cache = state.get("cache") if isinstance(state, dict) else None
    return dict(cache) if isinstance(cache, dict) else {}
