"""A cache's manifest and its clips' files: read, held to their checksums, and never followed out of the cache."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from talkhead.data.clip import EMOTIONS
from talkhead.media.files import refuse_url

Entry = dict[str, Any]

_NAME = re.compile(r"[\w@-][\w.@-]*")
_sound: set[tuple[str, int, int]] = set()  # clips that this process has found whole: path, size, time of change


def read_manifest(root: str | Path) -> list[Entry]:
    """Read a cache's manifest, one entry per clip; a last line torn by a killed run is left out.

    Args:
        root: the cache folder that ``talkhead preprocess`` wrote.

    Returns:
        The entries in the file's order. Keys: name, source, bytes (of the source's files), status (ok, failed,
        skipped), reason, identity, emotion, sentence, and where status is ok also fps (a fraction as a string; null
        without picture), frames, samples, size, crop, source_size, detector, versions, and sha256 of the clip's file.
        Older caches have neither bytes nor sha256.

    Raises:
        FileNotFoundError: if the folder is no cache.
        ValueError: if an entry is none that `preprocess` writes, its name leads out of the cache, or that is a URL.
    """
    refuse_url("the cache", root)
    path = Path(root) / "manifest.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"data.root: {str(root)!r} has no manifest.jsonl; run `talkhead preprocess` first")
    entries = read_json_lines(path, {"name", "status"})
    for entry in entries:
        if fault := _fault(entry):
            raise ValueError(f"data.root: {str(path)!r} has an entry {fault}; make the cache anew")
    return entries


def read_json_lines(path: Path, keys: set[str]) -> list[Entry]:
    """Read what `json_lines` wrote; lines that are no object with these keys, such as one torn by a kill, are left out.

    A text may hold characters that `str.splitlines` takes for the end of a line.
    """
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(entry, dict) and keys <= entry.keys():
            entries.append(entry)
    return entries


def json_lines(entries: Iterable[Entry]) -> bytes:
    r"""Return entries as a manifest, or any file of results, holds them: one JSON object a line.

    What is no UTF-8 in the name of a file is a surrogate in Python, and ``\udce9`` in JSON, which is read as it was.
    """
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    return text.encode(errors="backslashreplace")


def legible(name: str) -> str:
    r"""Return a file's name for people to read and programs to print: bytes that are no UTF-8 as ``\udce9``."""
    return name.encode(errors="backslashreplace").decode()


def _fault(entry: Entry) -> str:
    """Return what is wrong with an entry; empty where nothing is."""
    name = entry["name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"whose name {name!r:.80} is no name of a clip"
    if entry["status"] not in ("ok", "failed", "skipped"):
        return f"{name!r} whose status is {entry['status']!r:.80}, not ok, failed or skipped"
    if entry["status"] != "ok":
        return ""
    for key in ("frames", "samples"):
        value = entry.get(key)
        if not isinstance(value, int) or value < 0:
            return f"{name!r} whose {key} are {value!r:.80}, no whole number"
    for key in ("identity", "emotion", "sentence"):
        if not isinstance(entry.get(key), str):
            return f"{name!r} whose {key} is {entry.get(key)!r:.80}, no text"
    if entry["emotion"] not in EMOTIONS:
        return f"{name!r} whose emotion is {entry['emotion']!r:.80}, none of {', '.join(EMOTIONS)}"
    fps: Any = entry.get("fps")
    try:
        rate = Fraction(fps) if entry["frames"] or fps is not None else 1
    except (ValueError, TypeError, ZeroDivisionError):
        rate = 0
    return "" if rate > 0 else f"{name!r} whose fps is {fps!r:.80}, no rate"


def clip_file(root: str | Path, name: str) -> Path:
    """Return where a clip of a cache lies."""
    return Path(root) / "clips" / f"{name}.safetensors"


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a clip's file, as the manifest holds it."""
    return hashlib.sha256(content).hexdigest()


def clip_damage(root: str | Path, entry: Entry) -> str:
    """Return what is wrong with a clip's file, read whole; empty where it is as it was written.

    Args:
        root: the cache folder.
        entry: the clip's entry in the manifest. Without a checksum only the file's header is checked.
    """
    path = clip_file(root, entry["name"])
    if not path.is_file():
        return "its file is missing"
    if "sha256" in entry:
        with path.open("rb") as file:
            return "" if hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"] else "its file is damaged"
    try:
        with safe_open(path, framework="pt"):
            return ""
    except (SafetensorError, OSError) as error:
        return f"its file is damaged ({error})"


@contextmanager
def open_clip(root: str | Path, entry: Entry) -> Iterator[Any]:
    """Open a clip's tensors; the first time a process does so, the file is held to its checksum.

    Raises:
        ValueError: if the file is missing or damaged; the message names the clip.
    """
    path = clip_file(root, entry["name"])
    fault, state = "its file is missing", None
    if path.is_file():
        state = (str(path), path.stat().st_size, path.stat().st_mtime_ns)
        fault = "" if state in _sound else clip_damage(root, entry)
    if fault or state is None:
        remedy = "run the `talkhead preprocess` that made the cache again, which makes it anew"
        raise ValueError(f"data.root: the clip {entry['name']!r} of {str(root)!r} cannot be used, {fault}; {remedy}")
    _sound.add(state)
    with safe_open(path, framework="pt") as file:
        yield file


def damaged_clips(root: str | Path) -> list[tuple[str, str]]:
    """Check every clip of a cache.

    Args:
        root: the cache folder.

    Returns:
        (name, what is wrong) of the damaged ones.

    Raises:
        FileNotFoundError: if the folder is no cache.
        ValueError: if its manifest is none.
    """
    usable = [entry for entry in read_manifest(root) if entry["status"] == "ok"]
    return [(entry["name"], fault) for entry in usable if (fault := clip_damage(root, entry))]
