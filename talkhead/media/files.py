"""The one way to write a file: under a temporary name beside it, renamed when it is complete."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit


def is_url(place: str | Path) -> bool:
    """Tell a URL such as ``s3://bucket/cache`` from a folder."""
    return isinstance(place, str) and re.match(r"[a-z][a-z0-9+.-]+://", place) is not None


def without_password(url: str) -> str:
    """Return a URL as it may be shown."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def refuse_url(name: str, place: str | Path) -> None:
    """Raise where a folder is wanted and a URL was given, which would be taken for a folder of a strange name.

    Raises:
        ValueError: if ``place``, the argument ``name``, is a URL.
    """
    if is_url(place):
        raise ValueError(
            f"{name} must be a folder; got the URL {without_password(str(place))}; "
            "`talkhead cache fetch URL --output FOLDER` brings a cache to one"
        )


class FullError(OSError):
    """There is no room for a file or folder; its message names that, where the writers name a temporary one or none."""

    def __str__(self) -> str:
        """Return one sentence."""
        return f"output: '{self.filename}' cannot be written ({self.strerror}); make room or choose another folder"


@contextmanager
def telling_of_full(path: Path, temporary: Path) -> Iterator[None]:
    """Raise a FullError for ``path`` where there was no room for ``temporary``, or for what is in it."""
    try:
        yield
    except Exception as error:
        code, named = getattr(error, "errno", None), getattr(error, "filename", None)
        if type(error).__name__ == "SafetensorError":  # which keeps the system's number in its words alone
            found = re.search(r"os error ([0-9]+)", str(error))
            code = int(found[1]) if found else None
        ours = not isinstance(named, str) or Path(named).is_relative_to(temporary)
        if code in (errno.ENOSPC, errno.EDQUOT) and ours:
            raise FullError(code, os.strerror(code), str(path)) from error
        raise


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` for a file that becomes ``path`` when all has gone well, and goes when not.

    What was at ``path`` stays whole until the very end; readers, other threads and other processes see the old file
    or the new one, never a part. The name is hidden, has ``path``'s suffix, and belongs to this call alone. The
    content is on the disk before the name changes, so that a crash of the machine leaves no empty file either.

    Args:
        path: the file to be.

    Yields:
        The temporary path; nothing is there yet.

    Raises:
        FullError: if there is no room for it.
        OSError: if the file cannot be renamed.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        with telling_of_full(path, temporary):
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | Path, content: bytes | Callable[[BinaryIO], Any]) -> None:
    """Write a file whole or not at all; see `replacing`.

    Args:
        path: the file to write; its folder exists.
        content: the bytes, or a function that writes them to the binary file that it is given.

    Raises:
        OSError: if the file cannot be written.
    """
    with replacing(path) as temporary, open(temporary, "xb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content)


def check_writable(path: str | Path, name: str = "output") -> None:
    """Raise if a file cannot be written at ``path``, the argument ``name``; leaves nothing. Call it before long work.

    Raises:
        OSError: if the folder is missing or refuses files, or ``path`` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{name} {str(path)!r} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{name} {str(path)!r} cannot be written: its folder does not exist; make it first")
    temporary = temporary_name(path)
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        reason = error.strerror or error
        raise type(error)(f"{name} {str(path)!r} cannot be written ({reason}); choose another folder") from None
    temporary.unlink()


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Give a temporary folder that becomes ``folder`` when all has gone well, and vanishes when not.

    Raises:
        FileExistsError: if there is something at ``folder``.
        FullError: if there is no room for it, or for what is written in it.
        OSError: if it cannot be made, or is the current folder or the top of a disk, whose place none can take.
        ValueError: if it is a URL.
    """
    refuse_url("output", folder)
    folder, place = Path(folder), Path(folder).resolve()  # a link stays, and what it leads to is made
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"output: '{folder}' exists and is not an empty folder; choose another or delete it")
    if folder.exists() and (place == Path.cwd() or place.is_mount()):
        raise OSError(f"output: '{folder}' is the current folder or the top of a disk; give the name of a folder in it")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(place)
        temporary.mkdir()  # with the rights that whoever runs this gives to new folders
    except OSError as error:
        raise type(error)(f"output: '{folder}' cannot be made ({error.strerror}); choose another folder") from error
    try:
        with telling_of_full(folder, temporary):
            yield temporary
            os.replace(temporary, place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sweep(folder: str | Path) -> None:
    """Delete the temporary files that killed processes left in ``folder``; none may be writing there.

    What has another name than `temporary_name` gives, and what is no file, is the user's own and stays.
    """
    for scrap in Path(folder).glob(".*.tmp*"):
        if is_temporary(scrap.name) and scrap.is_file() and not scrap.is_symlink():
            scrap.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """Return a name that no other call gets: two threads of one process may write the same file."""
    return path.with_name(f".{path.stem[:40]}.{os.getpid()}-{secrets.token_hex(6)}.tmp{path.suffix}")


def is_temporary(name: str) -> bool:
    """Tell the names that `temporary_name` gives from all others."""
    return re.fullmatch(r"\..{0,40}\.[0-9]+-[0-9a-f]{12}\.tmp(\.[^.]*)?", name, re.DOTALL) is not None


def check_apart(output: str | Path, **sources: Any) -> None:
    """Raise a ValueError where a file to write is one of those to read, by whatever name.

    Args:
        output: the file; a name such as ``frames/%05d.png`` stands for every picture that it can number.
        sources: one or several of what is read, by the argument's name; what is no file's name is passed over.
    """
    for name, many in sources.items():
        for source in many if isinstance(many, list | tuple) else [many]:
            if isinstance(source, str | Path) and _writes_over(Path(output), Path(source)):
                raise ValueError(f"output: '{output}' is the {name} and would be written over; give another name")


def _writes_over(output: Path, source: Path) -> bool:
    """Tell whether writing ``output``, one file or numbered pictures, would take a file's place."""
    same = output.exists() and source.exists() and output.samefile(source)
    if same or output.resolve() == source.resolve():
        return True
    places = (source, source.resolve())  # of a link, the link and the file that it stands for
    return any(row_number(output, p.name) and p.parent.resolve() == output.parent.resolve() for p in places)


def row_number(output: Path, name: str) -> int | None:
    """Return which of the pictures that ``output``, such as ``frames/%05d.png``, stands for has a name; None: none."""
    number = picture_number(output)
    if number is None:
        return None
    before, after = re.escape(output.name[: number.start()]), re.escape(output.name[number.end() :])
    found = re.fullmatch(f"{before} *([0-9]+){after}", name)
    count = int(found[1]) if found else 0
    return count if count and output.name % count == name else None  # the first is 1


def picture_number(path: str | Path) -> re.Match[str] | None:
    """Return where a name such as ``frames/%05d.png`` has its number; None where it names one file alone."""
    name = Path(path).name
    return re.search(r"%0?\d*d", name) if name.lower().endswith(".png") and name.count("%") == 1 else None
