"""Whose videos are judged, and which files are one clip: by their place below their folder, without the ending."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from talkhead.data.manifest import legible
from talkhead.evaluate.video_scores import STILL, TRUTH
from talkhead.media.folders import SOUND, VIDEO, media_files


def name_methods(
    videos: Mapping[str, str | Path] | Sequence[str | Path | tuple[str, str | Path]],
) -> dict[str, Path]:
    """Return name -> folder; one that is not named is called as its folder is.

    Raises:
        ValueError: if a name is given twice or is one of the tables' own, or one folder is given in place of a list.
    """
    if isinstance(videos, str | Path):  # whose letters would be taken for folders
        raise ValueError(f"videos must be a list of folders, or name -> folder; got {str(videos)!r}: put it in a list")
    given = list(videos.items()) if isinstance(videos, Mapping) else videos
    pairs = [pair if isinstance(pair, tuple) else (Path(os.path.abspath(pair)).name, pair) for pair in given]
    pairs = [(legible(str(name)), folder) for name, folder in pairs]
    names = [name for name, _ in pairs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"videos: the name {sorted(twice)[0]!r} is given twice; name each method with --name")
    if own := set(names) & {TRUTH, STILL}:
        raise ValueError(f"videos: {sorted(own)[0]!r} is a row of the tables already; choose another name with --name")
    if not pairs:
        raise ValueError("videos: give at least one folder")
    return {name: Path(folder) for name, folder in pairs}


def find_media(
    methods: Mapping[str, Path], truth: str | Path | None, audio: str | Path | None
) -> tuple[dict[str, dict[str, Path]], dict[str, Path], dict[str, Path]]:
    """Return each method's videos, the true ones and the speech, each by the names that `list_media` gives.

    Raises:
        FileNotFoundError: if a folder does not exist.
        ValueError: if one holds nothing, or a method nothing that is named like a true video.
    """
    given = [*methods.values(), *(Path(folder) for folder in (truth, audio) if folder is not None)]
    files = {name: list_media("videos", folder, VIDEO, given) for name, folder in methods.items()}
    truths = {} if truth is None else list_media("truth", truth, VIDEO, given)
    sounds = {} if audio is None else list_media("audio", audio, SOUND | VIDEO, given)
    for name, found in files.items() if truths else ():
        if not found.keys() & truths.keys():
            raise ValueError(
                f"videos: none of {name!r} is named like a true one, such as {min(found)!r} beside {min(truths)!r}; "
                "give files the same place below both folders"
            )
    return files, truths, sounds


def list_media(argument: str, folder: str | Path, endings: Set[str], given: Sequence[Path] = ()) -> dict[str, Path]:
    """Return the files at and below a folder by their paths in it without the ending, such as ``happy/level_1/001``.

    Args:
        argument: what the folder was given as, for errors.
        folder: hidden files and folders in it are passed over.
        endings: of the files, in small letters, with the dot; of a sound and a video of one name the sound is taken.
        given: the folders of all arguments; what lies in one of them below ``folder`` is that one's.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds none, or two of one name.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{argument}: no folder '{folder}'")
    whole = root.resolve()
    inner = [other for other in (folder.resolve() for folder in given) if whole in other.parents]
    found: dict[str, Path] = {}
    for path in media_files(root, endings):
        place = path.relative_to(root)
        if any(other in (whole / place).parents for other in inner):
            continue
        # One letter may be written in two ways, and files that went through a Mac are named in the other.
        name = legible(unicodedata.normalize("NFC", place.with_suffix("").as_posix()))
        if name in found:
            sounds = [one for one in (found[name], path) if one.suffix.lower() in SOUND]
            if len(sounds) == 1:  # of a recording beside its video
                found[name] = sounds[0]
                continue
            raise ValueError(
                f"{argument}: '{folder}' holds {found[name].name!r} and {path.name!r}, which would be one clip "
                f"{name!r}; keep one of them"
            )
        found[name] = path
    if not found:
        raise ValueError(f"{argument}: '{folder}' holds no file ending in {' '.join(sorted(endings))}")
    return found
