"""Read a file of videos to make: one JSON object a line, each checked on its own."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

from talkhead.media.formats import SUFFIXES
from talkhead.media.write import exact_fps

RESULTS = "results.jsonl"
FILES = ("image", "audio", "landmarks")
"""Options that name one file each; `references` names several."""

_NUMBER, _WHOLE, _TEXT, _FLAG = (int, float), (int,), (str,), (bool,)
KINDS: dict[str, tuple[type, ...]] = {
    "image": _TEXT, "audio": _TEXT, "output": _TEXT, "speaker": _TEXT, "landmarks": _TEXT, "references": (str, list),
    "reference_landmarks": (list,), "emotion": (str, dict, list), "emotion_strength": _NUMBER, "fps": (int, float, str),
    "frame": _TEXT, "size": _WHOLE, "transparent": _FLAG, "detector": _TEXT, "face": (str, int), "mouth": _NUMBER,
    "pose": _NUMBER, "brow": _NUMBER, "blink": _NUMBER, "idle": _NUMBER, "num_inference_steps": _WHOLE, "seed": _WHOLE,
    "guidance_scale": _NUMBER, "start_timestep": _WHOLE, "window": _WHOLE, "overlap": _WHOLE,
    "windows_per_call": _WHOLE, "preset": _TEXT, "teeth": _NUMBER,
}  # fmt: skip
"""What a line may say, and the JSON types of its value; null everywhere stands for the default."""
_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
_TYPED = {"steps": "num_inference_steps", "reference": "references"}  # as the command line calls them
_STEM = 200  # bytes of an output's name; file systems allow 255, with a number and the suffix
_OF_THE_RUN = ("device", "compile", "workers", "at_once", "engine", "address", "gpus_per_worker", "jobs", "progress")


@dataclass(frozen=True)
class VideoJob:
    """One video to make.

    Attributes:
        line: its number in the file, from 1 on.
        output: its name below the output folder; None where the line does not even say that.
        options: what `TalkingHeadPipeline.generate_file` is called with, and ``speaker``; files are absolute.
        said: the line's own words, for the results.
        fault: why it cannot be done, or empty.
    """

    line: int
    output: str | None
    options: dict[str, Any] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    fault: str = ""

    @property
    def reads(self) -> list[str]:
        """The files that it reads, without its speaker's."""
        references = self.options.get("references")
        further = references if isinstance(references, list) else []
        return [*(self.options[name] for name in FILES if self.options.get(name)), *further]


def read_jobs(path: str | Path, defaults: Mapping[str, Any]) -> list[VideoJob]:
    """Read a file of jobs.

    Args:
        path: a text file, one JSON object a line (empty lines are passed over). Keys are the options of
            ``talkhead generate``; files are named as seen from the folder that the text file lies in.
        defaults: options for the lines that do not say otherwise.

    Returns:
        The jobs in the file's order. What is wrong with a line becomes its ``fault``: one sentence that names line
        and key. No two jobs without a fault have the same output, and none of them writes over what another reads.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no text, or has no line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"jobs: there is no file {str(path)!r}; give a text file with one JSON object a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"jobs: {str(path)!r} is no text in UTF-8; write one JSON object a line") from None
    jobs = [_read_line(n, line, path.parent, defaults) for n, line in enumerate(lines, 1) if line.strip()]
    if not jobs:
        raise ValueError(f"jobs: {str(path)!r} has no line; write one JSON object a line")
    return _named_once(jobs)


def _read_line(number: int, line: str, folder: Path, defaults: Mapping[str, Any]) -> VideoJob:
    try:
        said = _object(line)
    except ValueError as error:
        return VideoJob(number, None, fault=f"line {number}: {error}")
    output = said.get("output") if isinstance(said.get("output"), str) else None
    try:
        given: dict[str, Any] = {}
        for name, value in said.items():
            if value is not None and (key := _key(name)) in given:
                raise ValueError(f"key {key!r} stands there twice, as {name!r} too; keep one")
            if value is not None:
                given[key] = _checked(key, value)
        options = {**defaults, **absolute(given, folder)}
        _check_whole(options)
        if output is not None:
            _check_output(output)
        options.pop("output", None)
        return VideoJob(number, output, options, said)
    except ValueError as error:
        return VideoJob(number, output, {}, said, f"line {number}: {error}")


def _object(line: str) -> dict[str, Any]:
    """Parse a line; one key twice is a slip that JSON's own reader passes over."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"key {twice[0]!r} stands there twice; keep one")
        return dict(pairs)

    try:
        said = json.loads(line, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error.msg} at character {error.pos + 1}); write one object a line") from None
    except RecursionError:
        raise ValueError("no JSON that can be read, it is nested too deep; write one object a line") from None
    try:
        json.dumps(said, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text in it has half a character (a lone surrogate); write the whole one") from None
    if not isinstance(said, dict):
        raise ValueError(f'expected an object such as {{"image": "me.png", "audio": "hello.wav"}}; got {line:.40}')
    return said


def _key(name: str) -> str:
    """Return an option's name, however it is written; refuse what is none."""
    plain = name.replace("-", "_")
    plain = _TYPED.get(plain, plain)
    if plain in KINDS:
        return plain
    if plain in _OF_THE_RUN:
        raise ValueError(f"key {name!r} holds for the whole run; leave it out here and give it with the run")
    near = difflib.get_close_matches(plain, [*KINDS, *_TYPED], 1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(KINDS)}"
    raise ValueError(f"unknown key {name!r}; {hint}")


def _checked(name: str, value: Any) -> Any:
    """Hold a value to its option's JSON type, and return what the pipeline takes."""
    kinds = KINDS[name]
    if not isinstance(value, kinds) or isinstance(value, bool) is not (kinds is _FLAG):
        words = " or ".join(_WORDS[kind] for kind in kinds if not (kind is int and float in kinds))
        raise ValueError(f"key {name!r} must be {words}; got {json.dumps(value, default=repr)[:60]}")
    if name == "references" and isinstance(value, list) and not all(isinstance(v, str) for v in value):
        raise ValueError(f"key 'references' must name files; got {json.dumps(value, default=repr)[:60]}")
    if name == "reference_landmarks" and not _are_points(value):
        raise ValueError(f"key 'reference_landmarks' must be 68 pairs of numbers; got {json.dumps(value)[:60]}")
    if name == "fps" and isinstance(value, str):
        try:
            return rate_of(value)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"key 'fps' must be such as 25, 29.97 or '30000/1001'; got {value!r}") from None
    return value


def rate_of(text: str) -> Fraction:
    """Return the frame rate that a text says: a whole number, a fraction, or a decimal; 29.97 means 30000/1001.

    Raises:
        ValueError: if it says none, or one that `exact_fps` refuses.
        ZeroDivisionError: if it is a fraction of 0.
    """
    # Fraction would count out the digits of 1e999999999.
    return exact_fps(float(text) if {*".eE"} & {*text} else Fraction(text))


def as_said(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of `TalkingHeadPipeline.generate_file` as a line would say them; tensors and arrays become lists.

    Args:
        options: by the names that Python knows; none of them is None.

    Raises:
        ValueError: if a line could not say one.
    """
    return {name: _checked(name, _plain(value)) for name, value in options.items()}


def _plain(value: Any) -> Any:
    """Return a value of Python's in JSON's types, where there are such."""
    if isinstance(value, Path | Fraction):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _are_points(value: Any) -> bool:
    """Tell whether a list holds 68 pairs of numbers."""
    pairs = [p for p in value if isinstance(p, list) and len(p) == 2 and all(isinstance(v, _NUMBER) for v in p)]
    return len(value) == len(pairs) == 68


def absolute(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return options whose files, and speaker where it is a folder, are named from the root.

    Args:
        given: options; none of them is None.
        folder: what the names are relative to.

    Raises:
        ValueError: if a name can be no file's, or cannot be looked up.
    """
    found = dict(given)
    names = {name: [given[name]] for name in FILES if name in given}
    references = given.get("references")
    if references is not None and references != "speaker":
        names["references"] = [references] if isinstance(references, str | Path) else references
    for key, files in names.items():
        found[key] = [str(_named(key, folder / file)) for file in files]
        if key in FILES:
            (found[key],) = found[key]
    if "speaker" in given and (place := _named("speaker", folder / given["speaker"])).is_dir():
        found["speaker"] = str(place)
    return found


def _named(key: str, path: Path) -> Path:
    """Return a file's name from the root; there need be no such file, but one must be able to ask for it."""
    if "\0" in str(path):
        raise ValueError(f"key {key!r} has a null character, which no file's name may hold")
    path = path.absolute()
    try:
        path.resolve()
        path.is_file()
    except (OSError, RuntimeError) as error:  # too long a name, a closed folder; a loop of links
        raise ValueError(f"key {key!r} names what cannot be looked up ({why(error)}); give another name") from None
    return path


def why(error: Exception) -> str:
    """Return what a path's error says, without the path, which may be as long as what is wrong with it."""
    return "a loop of links" if isinstance(error, RuntimeError) else str(getattr(error, "strerror", None) or error)


def _check_whole(options: Mapping[str, Any]) -> None:
    if not options.get("image"):
        raise ValueError("key 'image' is missing; name the portrait")
    if not options.get("audio") and not options.get("landmarks"):
        raise ValueError("key 'audio' is missing; name the speech (or 'landmarks')")


def _check_output(output: str) -> None:
    place = PurePosixPath(output)
    if place.is_absolute() or ".." in place.parts or "\\" in output or "\0" in output or not place.name:
        raise ValueError(f"key 'output' must lie in the output folder; got {output!r}: give a name such as a/b.mp4")
    if any(part.startswith(".") for part in place.parts):
        raise ValueError(f"key 'output' must not be hidden; got {output!r}: give a name without a dot before it")
    if place.suffix.lower() not in SUFFIXES:
        raise ValueError(f"key 'output' must end in one of {', '.join(SUFFIXES)}; got {output!r}")


def _named_once(jobs: list[VideoJob]) -> list[VideoJob]:
    """Give every job a name that no other has; the names that lines ask for come first."""
    owners: dict[str, int] = {}
    named: dict[int, VideoJob] = {}
    for job in (job for job in jobs if job.output is not None and not job.fault):
        assert job.output is not None
        owner = owners.setdefault(_place(job.output), job.line)
        if owner != job.line:
            fault = f"line {job.line}: key 'output' names {job.output!r}, which is line {owner}'s; give another name"
            job = replace(job, fault=fault)
        named[job.line] = job
    for job in (job for job in jobs if job.output is None and not job.fault):
        stems = [Path(str(job.options[key])).stem for key in ("image", "audio") if job.options.get(key)]
        stem, suffix = _short("-".join(stems).lstrip(".")), ".webm" if job.options.get("transparent") else ".mp4"
        number, output = 1, f"{stem}{suffix}"
        while owners.setdefault(_place(output), job.line) != job.line:
            number += 1
            output = f"{stem}-{number}{suffix}"
        named[job.line] = replace(job, output=output)
    return [named.get(job.line, job) for job in jobs]


def _short(stem: str) -> str:
    """Return a stem that fits into a file's name; of a longer one the beginning, and a checksum of the whole."""
    whole = os.fsencode(stem)
    if len(whole) <= _STEM:
        return stem
    while len(os.fsencode(stem)) > _STEM - 9:
        stem = stem[:-1]
    return f"{stem}-{hashlib.sha256(whole).hexdigest()[:8]}"


def _place(output: str) -> str:
    """Return what two outputs must not share: the file, or the folder of pictures; case does not count."""
    path = PurePosixPath(output)
    return str(path.parent / "*.png" if path.suffix.lower() == ".png" else path).casefold()
