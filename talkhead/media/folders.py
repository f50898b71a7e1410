"""What there is below a folder: pictures, sound and video by their endings, without what is hidden."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

VIDEO = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .wmv .flv .ogv .3gp".split())
SOUND = frozenset(".wav .flac .mp3 .ogg .oga .opus .m4a .aac .wma .aif .aiff".split())
PICTURES = frozenset(".jpg .jpeg .png .webp .bmp .tif .tiff .heic .heif .avif".split())

# Copies and remains that macOS, Synology and Windows leave in folders without hiding them.
_KEPT_BY_SYSTEMS = frozenset(["__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found"])


def media_files(root: Path, endings: Set[str]) -> list[Path]:
    """Return the files at or below a folder that have one of some endings, sorted, without hidden ones.

    Args:
        root: the folder, or one file.
        endings: in small letters, with the dot.
    """
    paths = [root] if root.is_file() else root.rglob("*")
    fitting = (p for p in paths if p.suffix.lower() in endings and not is_hidden(p, root))
    return sorted(p for p in fitting if p.is_file())


def is_hidden(path: Path, root: Path) -> bool:
    """Whether a file, or a folder between ``root`` and it, is hidden, in a bin, or what a system keeps for itself."""
    parts = path.relative_to(root if root.is_dir() else root.parent).parts
    return any(part[0] == "." or part in _KEPT_BY_SYSTEMS for part in parts)
