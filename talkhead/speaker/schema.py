"""What the files of a speaker's folder and of a checkpoint may say: everything is checked here, once, at the door.

Files come from anywhere. Nothing in them decides what code runs, but which of this library's networks and which of its
or diffusers' schedulers are built, or of the classes below them that whoever runs this has imported; the arguments have
the types that the constructors name, and sizes have bounds.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import types
import typing
from collections.abc import Mapping
from fractions import Fraction
from numbers import Integral
from pathlib import Path
from typing import Any

from diffusers import ConfigMixin, SchedulerMixin

from talkhead.data.clip import EMOTIONS
from talkhead.logs.silence import only_errors
from talkhead.media.write import exact_fps
from talkhead.schedulers import check_scheduler

BOUNDS = {
    "size": (8, 1024), "width": (1, 2048), "layers": (1, 32), "attention_layers": (0, 32), "heads": (1, 64),
    "habits": (1, 64), "blocks": (0, 16), "patch": (1, 64), "kernel_size": (1, 255), "attention_levels": (0, 8),
    "num_train_timesteps": (1, 100_000), "frames_per_second": (1, 100), "window_seconds": (0.1, 3600.0),
    "rate": (1.0, 1000.0), "encoder_seconds": (0.02, 30.0), "widths": (1, 2048),
    "num_hidden_layers": (1, 64), "encoder_layers": (1, 64), "decoder_layers": (0, 64),
}  # fmt: skip
"""The least and the most of the arguments that decide how large a network is; other numbers: up to a million."""

ENCODERS = (
    "wav2vec2", "wav2vec2-conformer", "wav2vec2-bert", "hubert", "wavlm", "whisper", "unispeech", "unispeech-sat",
    "data2vec-audio", "sew", "sew-d",
)  # fmt: skip
"""The kinds of pretrained speech encoder that a network may have inside."""

_MOST, _LONGEST, _FILE = 1e6, 200, 2**20


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON file that holds one object.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it holds anything else, or is larger than a mebibyte.
    """
    if path.stat().st_size > _FILE:
        raise ValueError(f"{path.name} is larger than 1 MiB")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} must hold an object; got {type(content).__name__}")
    return content


def inside(root: Path, path: Path) -> Path:
    """Return ``path``, which must lead to something within ``root``, or within the hub's copy that ``root`` is of."""
    home = root.resolve()
    # The hub's cache keeps SNAPSHOTS/REVISION/FILE as links to blobs beside SNAPSHOTS.
    home = home.parents[1] if home.parent.name == "snapshots" else home
    if not path.resolve().is_relative_to(home):
        raise ValueError(f"{path.name} leads out of the folder")
    return path


def check_arguments(made: type[Any], arguments: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the arguments of a constructor that came from a file, after checking types and bounds.

    Args:
        made: the class.
        arguments: as JSON or a checkpoint gives them; names that begin with ``_`` are left out, and so are, after the
            check, those that a class of the user's own chooses for the class below which it is: diffusers keeps both.
        name: what to call it in an error.

    Raises:
        ValueError: if a name is unknown, or a value has another type or is out of its bounds.
    """
    own = inspect.signature(made.__init__).parameters
    known, hints = _known_arguments(made)
    found = {key: value for key, value in arguments.items() if not str(key).startswith("_")}
    for key, value in found.items():
        if key not in known or key == "self":
            raise ValueError(f"{name} has no argument '{key:.60}'")
        default = known[key].default
        if not fits(value, hints.get(key, Any), key) and not (type(value) is type(default) and value == default):
            raise ValueError(f"{name}.{key} must be {_named(hints.get(key, Any), key)}; got {value!r:.80}")
    if "encoder" in known and found.get("encoder", "logmel") != "logmel":
        _check_encoder(found.get("encoder_config"), name)
    if "emotions" not in known:  # a classifier has names of its own, and looks itself
        _check_emotions(found.get("trained_on"), name)
    return {key: value for key, value in found.items() if key in own}


def _known_arguments(made: type[Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Return what the constructors of a class, and of those below which it is, take and keep, and of what types."""
    known: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    kinds: list[type[Any]] = list(made.__mro__)
    for kind in reversed(kinds):
        constructor = inspect.unwrap(kind.__init__)
        if kind is made or hasattr(vars(kind).get("__init__"), "__wrapped__"):  # by diffusers' register_to_config
            known |= inspect.signature(constructor).parameters
            hints |= typing.get_type_hints(constructor)
    return known, hints


def fits(value: Any, hint: Any, key: str = "") -> bool:
    """Tell whether a value from a file has a constructor's type and stays in the bounds of its name."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one, key) for one in inner)
    if origin is typing.Literal:
        return value in inner
    if hint is None or hint is types.NoneType:
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return (whole or (hint is float and isinstance(value, float))) and _bounded(value, key)
    if hint is str:
        return isinstance(value, str) and len(value) <= _LONGEST
    if hint is dict or origin is dict:
        return isinstance(value, dict) and _plain(value)
    if hint in (list, tuple) or (isinstance(origin, type) and issubclass(origin, typing.Collection)):
        one = next((kind for kind in inner if kind is not Ellipsis), Any)
        return isinstance(value, list | tuple) and len(value) <= 1000 and all(fits(v, one, key) for v in value)
    return hint is Any and _plain(value, key)


def check_info(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``pipeline.json`` says, after checking it; names that this version does not know stay.

    Raises:
        ValueError: if a value has another type or is out of its bounds.
    """
    checks = {
        "fps": _is_rate,
        "size": lambda v: fits(v, int, "size"),
        "crop_scale": lambda v: fits(v, float) and 1 <= v <= 10,
        "window": lambda v: fits(v, int) and 1 <= v <= 256,
        "overlap": lambda v: fits(v, int) and 0 <= v <= 128,
        "num_inference_steps": lambda v: fits(v, int) and 1 <= v <= 1000,
        "reference_landmarks": lambda v: fits(v, list[list[float]]) and [len(p) for p in v] == [2] * 68,
        "detector": lambda v: fits(v, str),
        "talkhead": lambda v: fits(v, str),
    }
    for key, value in info.items():
        if not checks.get(key, _plain)(value):  # type: ignore[operator]
            raise ValueError(f"pipeline.json: {key:.60} has a value that cannot be; got {value!r:.80}")
    return dict(info)


def check_windows(window: int, overlap: int, num_inference_steps: int, windows_per_call: int | None = None) -> None:
    """Raise a ValueError where the numbers of `render_windows` make no windows or no steps."""
    steps = num_inference_steps
    check_whole(window=window, overlap=overlap, num_inference_steps=steps, windows_per_call=windows_per_call)
    if window < 1:
        raise ValueError(f"window must be at least 1 frame; got {window}")
    if not 0 <= overlap <= window // 2:
        raise ValueError(f"overlap must lie in 0..window // 2 = {window // 2}; got {overlap} with window {window}")
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps must be at least 1; got {num_inference_steps}")
    if windows_per_call is not None and windows_per_call < 1:
        raise ValueError(f"windows_per_call must be at least 1, or None; got {windows_per_call}")


def check_whole(**numbers: Any) -> None:
    """Raise a ValueError where one of the named numbers is not whole; None passes."""
    for name, number in numbers.items():
        if number is not None and (isinstance(number, bool) or not isinstance(number, Integral)):
            raise ValueError(f"{name} must be a whole number; got {number!r}")


def load_net(made: type[Any], root: Path, name: str) -> Any:
    """Load a network from ``root/name``: its ``config.json`` and its safetensors, nothing else.

    Raises:
        OSError, ValueError: if a file is missing or leads elsewhere, or says or holds what cannot be.
    """
    folder = root / name
    config = read_json(inside(root, folder / "config.json"))
    made = known_class(made, config.get("_class_name", made.__name__), name)
    check_arguments(made, config, name)
    for file in folder.iterdir():
        inside(root, file)
        if file.name.endswith(".index.json"):  # it would name further files
            raise ValueError(f"{name}: weights in several files are not read")
    with only_errors("diffusers.configuration_utils"):  # it calls a base class' arguments, checked above, unexpected
        net = made.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    if any(weight.is_meta for weight in net.state_dict().values()):
        raise ValueError(f"{name}: its weights file lacks some of the network's weights")
    return check_finite(net, name)


def known_class(made: type[Any], named: Any, part: str) -> type[Any]:
    """Return ``made``, or that class of a user's own below it which this process has imported and a file names.

    Raises:
        ValueError: if it is neither: what a file names is never imported; or if its arguments cannot be known.
    """
    if found := _below(made, named):
        if any(taken.kind is taken.VAR_KEYWORD for taken in inspect.signature(found.__init__).parameters.values()):
            raise ValueError(
                f"{part}: {named} takes arguments that it does not name, and diffusers keeps none; name each"
            )
        return found
    raise ValueError(
        f"{part} is a {named!s:.60}, not a {made.__name__}; a class of your own, below {made.__name__}, must have been "
        "imported, in Python"
    )


def _below(made: type[Any], named: Any) -> type[Any] | None:
    """Return the class of a name among ``made`` and all that this process has derived from it."""
    kinds = [made]
    for kind in kinds:
        if kind.__name__ == named:
            return kind
        kinds += kind.__subclasses__()
    return None


def check_finite(net: Any, name: str) -> Any:
    """Return a network whose weights are all finite; refuse any other."""
    for key, weight in net.state_dict().items():
        if weight.is_floating_point() and not weight.isfinite().all():
            raise ValueError(f"{name}: its weights are not finite ({key})")
    return net


def load_scheduler(folder: str | Path, root: Path | None = None) -> Any:
    """Load a scheduler of ours or of diffusers, whichever its config names.

    Raises:
        OSError, ValueError: if the file is missing, names no scheduler or none that windows can share, or its arguments
            cannot be.
    """
    config = read_json(inside(root or Path(folder), Path(folder) / "scheduler_config.json"))
    return make_scheduler(config.get("_class_name"), config)


def make_scheduler(name: Any, arguments: Mapping[str, Any]) -> Any:
    """Build a scheduler by its class's name; see ``load_scheduler``."""
    made = None
    if isinstance(name, str) and name.isidentifier():
        homes = (importlib.import_module(home) for home in ("talkhead.schedulers", "diffusers"))
        made = next((getattr(home, name) for home in homes if hasattr(home, name)), None) or _below(
            SchedulerMixin, name
        )
    if not (isinstance(made, type) and issubclass(made, SchedulerMixin) and issubclass(made, ConfigMixin)):
        raise ValueError(f"scheduler {name!r:.60} is neither talkhead's nor diffusers', nor one that has been imported")
    known = inspect.signature(made).parameters
    arguments = check_arguments(made, {k: v for k, v in arguments.items() if k in known}, "scheduler")
    return check_scheduler(made(**arguments))


def _check_emotions(trained_on: Any, name: str) -> None:
    """Refuse a network that was trained on what is no emotion: of none that there is, it would be told nothing."""
    if unknown := [one for one in trained_on or () if one not in EMOTIONS]:
        raise ValueError(f"{name}.trained_on must name emotions among {', '.join(EMOTIONS)}; got {unknown!r:.80}")


def _check_encoder(config: Any, name: str) -> None:
    """Refuse a network whose speech encoder would have to be looked up, or would bring code of its own."""
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in ENCODERS:
        raise ValueError(f"{name}.encoder_config must describe one of {', '.join(ENCODERS)}; got {kind!r:.60}")
    foreign = ("auto_map", "quantization_config", "attn_implementation", "_attn_implementation")
    if any(config.get(key) not in (None, "eager", "sdpa") for key in foreign):
        raise ValueError(f"{name}.encoder_config names code of its own ({', '.join(foreign)})")


def _is_rate(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(value) < 32 and bool(exact_fps(Fraction(value)))
    except (ValueError, ZeroDivisionError):
        return False


def _bounded(value: float, key: str) -> bool:
    low, high = BOUNDS.get(key, (-_MOST, _MOST))
    return math.isfinite(value) and low <= value <= high


def _plain(value: Any, key: str = "", depth: int = 8) -> bool:
    """Tell whether a value is made of short texts, bounded numbers, lists and dictionaries."""
    if isinstance(value, dict):
        return depth > 0 and len(value) <= 1000 and all(_plain(v, str(k), depth - 1) for k, v in value.items())
    if isinstance(value, list | tuple):
        return depth > 0 and len(value) <= 100_000 and all(_plain(v, key, depth - 1) for v in value)
    if isinstance(value, bool) or value is None:
        return True
    return len(value) <= 2000 if isinstance(value, str) else isinstance(value, int | float) and _bounded(value, key)


def _named(hint: Any, key: str) -> str:
    low, high = BOUNDS.get(key, (None, None))
    kind = getattr(hint, "__name__", str(hint)) if typing.get_origin(hint) is None else str(hint).replace("typing.", "")
    return kind if low is None else f"{kind} in {low}..{high}"
