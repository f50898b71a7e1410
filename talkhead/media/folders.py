"""What there is below a folder: pictures, sound and video by their endings, without what is hidden."""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from pathlib import Path

VIDEO = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .vob .ts .mts .m2ts .wmv .flv .ogv .3gp .3g2 .mxf".split())
SOUND = frozenset(".wav .w64 .flac .mp3 .ogg .oga .opus .m4a .mka .aac .wma .aif .aiff .caf .au .amr".split())
PICTURES = frozenset(".jpg .jpeg .jfif .png .webp .bmp .tif .tiff .heic .heif .avif".split())

# Copies and remains that macOS, Synology and Windows leave in folders without hiding them.
_KEPT_BY_SYSTEMS = frozenset(["__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found"])
# What `preprocess` writes into a cache, beside a picture that shows its clips and is none of anybody's.
_OF_A_CACHE = frozenset(["manifest.jsonl", "preprocess.json"])


def media_files(root: Path, endings: Set[str]) -> list[Path]:
    """Return the files at or below a folder that have one of some endings, sorted, without hidden ones.

    Links to folders are entered, as data sets lie on other disks; a folder to which several ways lead is listed once,
    by its own name where it lies below ``root``. Caches that were made below it are passed over.

    Args:
        root: the folder, or one file.
        endings: in small letters, with the dot.
    """
    paths = [root] if root.is_file() else _below(root)
    fitting = (p for p in paths if p.suffix.lower() in endings and not is_hidden(p, root))
    return sorted(p for p in fitting if p.is_file())


def _below(root: Path) -> Iterator[Path]:
    """Yield what lies in a folder and in those below it, each entered once: links may lead round in circles."""
    starts, seen = [root], set[Path]()
    for start in starts:  # grows by the links that are met: what lies below ``root`` itself comes before them
        for place, folders, files in os.walk(start):
            if (own := Path(place).resolve()) in seen or _OF_A_CACHE.issubset(files):
                folders.clear()
                continue
            seen.add(own)
            folders[:] = sorted(name for name in folders if not _is_kept_back(name))
            starts += [path for path in map(Path(place).joinpath, folders) if path.is_symlink()]
            yield from map(Path(place).joinpath, files)


def is_hidden(path: Path, root: Path) -> bool:
    """Whether a file, or a folder between ``root`` and it, is hidden, in a bin, or what a system keeps for itself."""
    parts = path.relative_to(root if root.is_dir() else root.parent).parts
    return any(map(_is_kept_back, parts))


def _is_kept_back(name: str) -> bool:
    return name[0] == "." or name in _KEPT_BY_SYSTEMS
