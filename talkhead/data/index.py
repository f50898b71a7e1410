"""Dataset layouts: a folder on disk becomes a sorted list of sources, each with speaker, emotion and sentence."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from talkhead.data.clip import EMOTIONS
from talkhead.data.manifest import legible
from talkhead.data.stills import people_of
from talkhead.media.folders import PICTURES, SOUND, VIDEO, is_hidden, media_files

Layout = Literal["mead", "ravdess", "emodb", "crema-d", "folder", "stills"]
View = Literal["front", "down", "top", "left_30", "left_60", "right_30", "right_60", "all"]

# The other datasets' emotion codes in MEAD's words; RAVDESS 02 (calm) and EMO-DB L (bored) have no MEAD label.
_RAVDESS = {
    "01": "neutral",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fear",
    "07": "disgusted",
    "08": "surprised",
}
_CREMA = {"ANG": "angry", "DIS": "disgusted", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
_CREMA_LEVELS = {"LO": 1, "MD": 2, "HI": 3, "XX": 0, "X": 0}
_LONGEST = 200  # bytes of a clip's name
_EMODB = {"W": "angry", "E": "disgusted", "A": "fear", "F": "happy", "N": "neutral", "T": "sad"}


@dataclass(frozen=True)
class Source:
    """One recording of a dataset, before anything of it has been read.

    Attributes:
        path: the video, or the sound file where there is no picture.
        name: unique, safe as a file name.
        identity: the speaker.
        emotion: a name from ``EMOTIONS``; empty where the dataset's label has no such name.
        sentence: what is said; recordings that may share their words share this key.
        audio_path: the sound where it lies in a file of its own; None: the sound is in ``path``.
        has_video: whether ``path`` has a picture.
        skip: why the recording cannot be used (it is listed to be counted), or None.
        level: how strong the emotion is meant to be, 1, 2, 3; 0: the dataset does not say.
        stills: the person's pictures, of which ``path`` is the first, where the source is no recording.
        view: the camera it was taken by, such as MEAD's ``left_30``; empty where there is one alone.
    """

    path: Path
    name: str
    identity: str
    emotion: str
    sentence: str
    audio_path: Path | None = None
    has_video: bool = True
    skip: str | None = None
    level: int = 0
    stills: tuple[Path, ...] = ()
    view: str = ""

    @property
    def bytes(self) -> int:
        """Bytes of its files together; by them a recording is told from another that took its place."""
        files = {self.path, self.audio_path or self.path, *self.stills}
        return sum(file.stat().st_size for file in files if file.is_file())


def list_sources(
    layout: Layout, root: str | Path, identity: str | None = None, emotion: str | None = None, view: View = "front"
) -> list[Source]:
    """List a dataset's recordings.

    - ``mead``: ``<ID>/video/<view>/<emotion>/level_<k>/<nnn>.mp4`` with ``<ID>/audio/<emotion>/level_<k>/<nnn>.m4a``
      (Wang et al., MEAD, 2020); ``root`` holds the IDs or is one of them. The sentence is the number nnn: the
      coarsest key, since levels and emotions repeat sentences under one number.
    - ``ravdess``: ``MM-VC-EE-II-SS-RR-AA.*`` anywhere below ``root`` (Livingstone & Russo, 2018).
    - ``crema-d``: ``<actor>_<sentence>_<emotion>_<level>.*`` anywhere below ``root`` (Cao et al., 2014); of a take that
      lies there with and without its picture, the picture counts.
    - ``emodb``: ``<speaker><text><emotion><version>.wav`` anywhere below ``root`` (Burkhardt et al., 2005).
    - ``folder``: every video and sound file below ``root``, which may also be one file. The speaker is the name of
      the folder the file lies in ("speaker" directly in ``root``), the emotion neutral, the sentence the file's name.
      A sound file beside a video of the same name is that video's sound.
    - ``stills``: pictures of people, those of each together: in a folder of the person's name, or with the person's
      name before the first underscore (``001_neutral.jpg``).

    Args:
        layout: which of the six.
        root: the dataset's folder.
        identity: ``folder``: the speaker's name for every file; otherwise: keep this speaker alone.
        emotion: ``folder``: the emotion of every file; otherwise: keep this emotion alone.
        view: MEAD's camera; ``all``: every one that is there.

    Returns:
        The sources, sorted by name. Those with ``skip`` set are unusable and only there to be counted.

    Raises:
        FileNotFoundError: if ``root`` does not exist.
        ValueError: if an argument is none of its values, or nothing under ``root`` fits the layout or the filters.
    """
    root = Path(root)
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be one of {', '.join(get_args(Layout))}; got {layout!r}")
    if view not in get_args(View):
        raise ValueError(f"view must be one of {', '.join(get_args(View))}; got {view!r}")
    if emotion is not None and emotion not in EMOTIONS:
        raise ValueError(f"emotion must be one of {', '.join(EMOTIONS)}; got {emotion!r}")
    if not root.exists():
        raise FileNotFoundError(f"input: {str(root)!r} does not exist; give the folder that holds the recordings")
    if layout == "folder":
        sources = _legible(_list_folder(root, identity or None, emotion or "neutral"))
    else:
        listing: dict[str, Callable[[Path], list[Source]]] = {
            "mead": lambda r: _list_mead(r, view),
            "ravdess": _list_ravdess,
            "emodb": _list_emodb,
            "crema-d": _list_crema,
            "stills": lambda r: _list_stills(r, emotion or "neutral"),
        }
        sources = _keep(_legible(listing[layout](root)), root, identity and legible(identity), emotion)
    return sorted(_unique(sources, root, drop=layout != "folder"), key=lambda s: s.name)


def _list_mead(root: Path, view: str) -> list[Source]:
    people = (
        [root]
        if (root / "video").is_dir()
        else sorted(p for p in root.glob("*") if (p / "video").is_dir() and not is_hidden(p, root))
    )
    sources = []
    for person in people:
        speaker = (person.resolve() if person == root else person).name  # a link is called as the link is
        cameras = get_args(View)[:-1] if view == "all" else (view,)
        for path in sorted(p for v in cameras for p in (person / "video" / v).glob("*/level_*/*")):
            if path.suffix.lower() != ".mp4" or is_hidden(path, root) or not path.is_file():
                continue
            camera, emotion, level = path.parts[-4:-1]
            number = path.stem
            sound = person / "audio" / emotion / level / f"{number}.m4a"
            known = emotion in EMOTIONS
            sources.append(
                Source(
                    path=path,
                    name=_safe(f"{speaker}-{camera}-{emotion}-{level}-{number}"),
                    identity=speaker,
                    emotion=emotion if known else "",
                    sentence=number,
                    audio_path=sound if sound.is_file() else None,
                    skip=None if known else f"the folder {emotion!r} is no emotion of MEAD",
                    level=int(level[6:]) if level[6:].isdigit() else 0,
                    view=camera,
                )
            )
    return sources or _nothing(
        root,
        f"<ID>/video/{'<view>' if view == 'all' else view}/<emotion>/level_<k>/<nnn>.mp4",
        "extract MEAD's video.tar and audio.tar inside each <ID>",
    )


def _list_ravdess(root: Path) -> list[Source]:
    pattern = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)")
    matches = [(path, m) for path in media_files(root, VIDEO | SOUND) if (m := pattern.fullmatch(path.stem))]
    # RAVDESS gives most takes three times: 01 picture and sound, 02 picture alone, 03 sound alone.
    complete = {m[0][2:] for _, m in matches if m[1] == "01"}
    sources = []
    for path, m in matches:
        emotion = _RAVDESS.get(m[3], "")
        skip = None if emotion else ("calm has no MEAD label" if m[3] == "02" else f"emotion code {m[3]} is unknown")
        if m[1] == "02":
            skip = "picture without sound (RAVDESS modality 02)"
        elif m[1] == "03" and m[0][2:] in complete:
            skip = "the same take is there with picture and sound (RAVDESS modality 01)"
        video = path.suffix.lower() in VIDEO
        statement = f"statement_{m[5]}"
        person, level = f"Actor_{m[7]}", int(m[4])
        sources.append(Source(path, path.stem, person, emotion, statement, has_video=video, skip=skip, level=level))
    return sources or _nothing(root, "MM-VC-EE-II-SS-RR-AA.wav, .flac or .mp4 (RAVDESS's names)")


def _list_crema(root: Path) -> list[Source]:
    pattern = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{1,2})")
    matches = [(path, m) for path in media_files(root, VIDEO | SOUND) if (m := pattern.fullmatch(path.stem))]
    seen = {path.stem for path, _ in matches if path.suffix.lower() in VIDEO}
    sources = []
    for path, m in matches:
        video, emotion = path.suffix.lower() in VIDEO, _CREMA.get(m[3], "")
        skip = None if emotion else f"emotion code {m[3]} is unknown"
        if not video and path.stem in seen:
            skip = "the same take is there with picture and sound"
        level = _CREMA_LEVELS.get(m[4], 0)
        sources.append(Source(path, path.stem, m[1], emotion, m[2], has_video=video, skip=skip, level=level))
    return sources or _nothing(root, "<actor>_<sentence>_<emotion>_<level>.flv, .mp4, .wav or .mp3 (CREMA-D's names)")


def _list_emodb(root: Path) -> list[Source]:
    sources = []
    for path in media_files(root, VIDEO | SOUND):
        if not (m := re.fullmatch(r"(\d\d)([ab]\d\d)([A-Z])([a-z]?)", path.stem)):
            continue
        emotion = _EMODB.get(m[3], "")
        label = "bored (L)" if m[3] == "L" else f"emotion letter {m[3]}"
        skip = None if emotion else f"{label} has no MEAD label"
        sources.append(Source(path, path.stem, m[1], emotion, m[2], has_video=False, skip=skip))
    return sources or _nothing(root, "<speaker><text><emotion><version>.wav, such as 03a01Fa.wav (EMO-DB's names)")


def _list_folder(root: Path, identity: str | None, emotion: str) -> list[Source]:
    base = root if root.is_dir() else root.parent
    by_stem: dict[Path, list[Path]] = {}
    for path in media_files(root, VIDEO | SOUND):
        by_stem.setdefault(path.with_suffix(""), []).append(path)
    sources = []
    for stem, paths in by_stem.items():
        videos = [p for p in paths if p.suffix.lower() in VIDEO]
        sounds = [p for p in paths if p.suffix.lower() in SOUND]
        paired = sounds[0] if len(videos) == len(sounds) == 1 else None
        relative = stem.relative_to(base)
        parent = relative.parent.name or "speaker"
        for path in videos if paired else paths:
            sources.append(
                Source(
                    path=path,
                    name=_safe("-".join(relative.parts)),
                    identity=identity or parent,
                    emotion=emotion,
                    sentence=stem.name,
                    audio_path=paired,
                    has_video=path.suffix.lower() in VIDEO,
                )
            )
    return sources or _nothing(root, f"video ({' '.join(sorted(VIDEO))}) or sound ({' '.join(sorted(SOUND))}) files")


def _list_stills(root: Path, emotion: str) -> list[Source]:
    sources = [
        Source(
            path=paths[0], name=_safe(person), identity=person, emotion=emotion, sentence=person, stills=tuple(paths)
        )
        for person, paths in people_of(root).items()
    ]
    return sources or _nothing(root, f"pictures ({' '.join(sorted(PICTURES))})")


def _nothing(root: Path, wanted: str, remedy: str = "check --layout and --input") -> list[Source]:
    raise ValueError(f"input: found nothing to read in {str(root)!r}, looked for {wanted}; {remedy}")


def _legible(sources: list[Source]) -> list[Source]:
    """Call people and sentences what can be printed and published, where folders or files have names of other codes."""
    return [replace(s, identity=legible(s.identity), sentence=legible(s.sentence)) for s in sources]


def _keep(sources: list[Source], root: Path, identity: str | None, emotion: str | None) -> list[Source]:
    """Apply the filters; one that leaves nothing is an error that says what there is."""
    for argument, value in (("identity", identity), ("emotion", emotion)):
        if value is None:
            continue
        found = sorted({getattr(s, argument) for s in sources} - {""})
        sources = [s for s in sources if getattr(s, argument) == value]
        if not sources:
            raise ValueError(
                f"{argument}: {value!r} is not in {str(root)!r}, which has {', '.join(found)}; choose of these"
            )
    return sources


def _unique(sources: list[Source], root: Path, drop: bool) -> list[Source]:
    """Give sources of one name different names, by a hash of their place below ``root``.

    In the coded layouts (``drop``) one name is one recording, so all but the first path that is not skipped already are
    copies to be skipped.
    """
    # Compared without case: some file systems know no other way.
    count = Counter(s.name.lower() for s in sources)
    seen: dict[str, Path] = {}
    result = []
    for source in sorted(sources, key=lambda s: (drop and s.skip is not None, s.path.as_posix())):
        key = source.name.lower()
        first = seen.setdefault(key, source.path)
        if count[key] == 1 or (drop and first == source.path):
            result.append(source)
            continue
        place = source.path.relative_to(root if root.is_dir() else root.parent).as_posix()
        name = f"{source.name}-{hashlib.sha256(legible(place).encode()).hexdigest()[:8]}"
        result.append(replace(source, name=name, skip="a copy of another file of this name" if drop else source.skip))
    return result


def _safe(name: str) -> str:
    """Return ``name`` fit for a file name: letters, digits, dots, dashes and underscores, no leading dot.

    File systems hold names of 255 bytes, and the hash of `_unique`, ``@000`` and ``.safetensors`` come behind this one:
    what is too long is cut, and told from others by a hash of the whole.
    """
    safe = re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "clip"
    if len(safe.encode()) <= _LONGEST:
        return safe
    digest = hashlib.sha256(legible(name).encode()).hexdigest()[:8]
    return f"{safe.encode()[: _LONGEST - 10].decode(errors='ignore')}-{digest}"
