"""Speakers on the Hugging Face hub: bring one there, and fetch one from there."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from talkhead.media.read import read_audio, read_image
from talkhead.one_line import one_line
from talkhead.speaker.folder import (
    EXTRAS,
    HUB_ID,
    NETWORKS,
    damaged,
    find_folder,
    load_drawn_head,
    load_fine_renderer,
    load_parts,
    model_card,
)
from talkhead.speaker.references import load_bank
from talkhead.speaker.schema import inside


def speaker_files(folder: Path) -> list[str]:
    """Return the files below a speaker's folder that are the speaker's, sorted; whatever else lies there is not.

    Raises:
        ValueError: if one of them leads out of the folder.
    """
    found = [folder / name for name in ("pipeline.json", *EXTRAS)]
    for name in NETWORKS:
        found += [*(folder / name).glob("*.json"), *(folder / name).glob("*.safetensors")]
    found = [path for path in found if path.is_file() and not path.name.startswith(".")]
    try:
        return sorted(inside(folder, path).relative_to(folder).as_posix() for path in found)
    except ValueError as error:
        raise damaged(folder, error) from error


def push(
    speaker: str | Path,
    name: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "",
    dry_run: bool = False,
) -> str:
    """Bring a speaker to the hub: its own files and a model card, nothing else that lies in its folder.

    The speaker is loaded first, with its mouths, portrait, speech and card where it has them, so that what cannot be
    read is not published. Files of an earlier speaker of the same
    name that this one lacks are deleted there, in the same commit.

    Args:
        speaker: as `from_pretrained` takes it.
        name: where to, "user/name"; made if it does not exist.
        private: make it visible to its owner alone; of one that exists nothing changes.
        revision: a branch, made if it does not exist; None: the main one.
        message: of the commit.
        dry_run: send nothing.

    Returns:
        The commit's address, or the names of the files that would be sent, one a line.

    Raises:
        ValueError: if the name is no hub id, or the speaker cannot be read.
        RuntimeError: if the hub refuses, or cannot be reached.
    """
    if not re.fullmatch(HUB_ID, name):
        raise ValueError(f"push: expected user/name; got '{name:.100}'")
    folder = find_folder(speaker)
    load_parts(folder)
    load_drawn_head(folder)
    load_fine_renderer(folder)
    _read_extras(folder)
    files = speaker_files(folder)
    if dry_run:
        return "\n".join(sorted({*files, "README.md"}))
    with tempfile.TemporaryDirectory() as place:
        for file in files:
            (Path(place) / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / file, Path(place) / file)
        (Path(place) / "README.md").write_text(_card(folder, name), encoding="utf-8")
        return _send(Path(place), name, private, revision, message)


def _read_extras(folder: Path) -> None:
    """Read what a speaker's folder may hold beside its networks, as whoever makes videos with it does.

    Raises:
        ValueError: if something cannot be read.
    """
    load_bank(folder)
    readers: dict[str, Callable[[Path], Any]] = {"portrait.png": read_image, "speech.flac": read_audio}
    readers["README.md"] = lambda path: path.read_text(encoding="utf-8")
    for name, read in readers.items():
        try:
            if (folder / name).is_file():
                read(folder / name)
        except (OSError, ValueError) as error:
            raise damaged(folder, ValueError(f"{name}: {error}")) from error


def _card(folder: Path, name: str) -> str:
    """Return the speaker's card, or one that says what is not known, with the name to load it by."""
    own = folder / "README.md"
    card = own.read_text(encoding="utf-8") if own.is_file() else model_card(name.split("/")[1], "", "", "")
    return card.replace("PATH/TO/THIS/FOLDER", name)


def _send(folder: Path, name: str, private: bool, revision: str | None, message: str) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    operations: list[Any] = [CommitOperationAdd(file, path) for file, path in sorted(files.items())]
    try:
        api.create_repo(name, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        there = api.list_repo_files(name, revision=revision)
        ours = {file for file in there if file in EXTRAS or file.split("/")[0] in NETWORKS}
        operations += [CommitOperationDelete(file) for file in sorted(ours - set(files))]
        said = message or f"The speaker {name.split('/')[1]}"
        done = api.create_commit(name, operations, commit_message=said, revision=revision)
    except Exception as error:  # hub and network: each has errors of its own, and each means the same here
        reason = one_line(error, 200)
        raise RuntimeError(
            f"push: '{name}' cannot be written on the Hugging Face hub ({type(error).__name__}: {reason}); sign in "
            "with `hf auth login` or HF_TOKEN, and check the name and the connection"
        ) from error
    return str(done.commit_url)
