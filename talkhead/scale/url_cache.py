"""A cache that lies at a URL: its clips go there one by one, from whoever made them, and come back to a disk whole."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from talkhead.data.dataset import read_settings
from talkhead.data.index import Layout
from talkhead.data.manifest import Entry, clip_damage, clip_file, read_manifest
from talkhead.data.preprocess import Summary, preprocess
from talkhead.data.workers import Mapper, map_sources
from talkhead.media.files import refuse_url, replacing, without_password, write_whole
from talkhead.progress import work_bar

_MANIFEST = "manifest.jsonl"
_SETTINGS = "preprocess.json"
_SMALL = ("contact_sheet.png", _SETTINGS, _MANIFEST)  # in the order in which they are brought
_TRIES = 3
_EVERY = 20.0  # s between two copies of the manifest


def preprocess_to_url(
    layout: Layout, input: str | Path, url: str, *, engine: Mapper = map_sources, **options: Any
) -> Summary:
    """Do as `talkhead.data.preprocess.preprocess` does, into a cache at any URL that fsspec knows.

    Whoever makes a clip brings it to the URL: nodes need no common folder for the cache. Each file has another name
    until all of it is there. Settings, manifest and contact sheet are brought every 20 seconds, and at the end,
    whatever that is. A run that goes on looks whether a clip is there, not at its content. One run at a time writes to
    a URL.

    Args:
        layout: see `preprocess`.
        input: the recordings, a folder.
        url: the cache, such as ``s3://bucket/cache`` or ``file:///mnt/lab/cache``; its kind may need a package (s3fs).
        engine: see `preprocess`.
        options: the others of `preprocess`.

    Returns:
        The summary.

    Raises:
        ImportError: if fsspec needs a package for such a URL.
        OSError: if the URL cannot be reached or written.
        ValueError, FileNotFoundError, KeyboardInterrupt: as `preprocess`.
    """
    remote = UrlCache(url.rstrip("/"))
    with tempfile.TemporaryDirectory(prefix="talkhead-cache-") as name:
        folder = Path(name)
        (folder / "clips").mkdir()
        remote.prepare()
        remote.pull(folder)
        try:
            return preprocess(
                layout, input, folder, engine=_Uploads(engine, remote, folder), elsewhere=remote, **options
            )
        except ValueError as error:
            raise ValueError(str(error).replace(str(folder), remote.shown)) from None
        finally:
            remote.push(folder)


def fetch_cache(url: str, folder: str | Path, progress: bool = True) -> int:
    """Bring a cache from a URL to a folder, which training reads; what is there and sound is not brought again.

    Args:
        url: of the cache.
        folder: where to; made where it is missing. Its manifest comes last. A cache that lies there must be this one.
        progress: show a bar on stderr.

    Returns:
        The number of usable clips.

    Raises:
        FileNotFoundError: if there is no cache at the URL.
        ValueError: if a clip is damaged there, the folder holds another cache, or it is a URL.
        OSError: if the URL cannot be reached, or the folder written.
    """
    refuse_url("output", folder)
    remote, folder = UrlCache(url.rstrip("/"), "url"), Path(folder)
    with tempfile.TemporaryDirectory(prefix="talkhead-cache-") as name:
        small = Path(name)
        remote.pull(small)
        if not (small / _MANIFEST).is_file():
            raise FileNotFoundError(
                f"url: there is no manifest at {remote.shown}; run `talkhead preprocess` to its end"
            )
        _refuse_another(folder, small, remote.shown)
        entries = [entry for entry in read_manifest(small) if entry["status"] == "ok"]
        (folder / "clips").mkdir(parents=True, exist_ok=True)
        with work_bar("fetch", "clips", len(entries), progress) as bar:
            for entry in entries:
                if clip_damage(folder, entry):
                    remote.fetch([entry], folder)
                    if fault := clip_damage(folder, entry):
                        raise ValueError(f"cache: the clip {entry['name']!r} of {remote.shown}: {fault}; make it anew")
                bar.advance()
        for file in (file for file in _SMALL if (small / file).is_file()):
            write_whole(folder / file, (small / file).read_bytes())
    return len(entries)


def _refuse_another(folder: Path, small: Path, shown: str) -> None:
    """Refuse a folder whose cache has other settings than the one at the URL, or clips that are not in that one.

    Args:
        folder: where the cache is to come.
        small: where the small files from the URL are.
        shown: the URL.

    Raises:
        ValueError: if it is another cache, or one that cannot be read.
    """
    if (folder / _SETTINGS).is_file():
        here, there = read_settings(folder), read_settings(small)
        for key in dict.fromkeys((*there, *here)):
            settled = key != "detector" or here.get(key) is not None  # it is, with the first face
            if here.get(key) != there.get(key) and settled:
                raise ValueError(
                    f"output: the cache in '{folder}' was made with {key}={here.get(key)!r}, and that at {shown} with "
                    f"{there.get(key)!r}; choose a new folder"
                )
    if (folder / _MANIFEST).is_file():
        names = {entry["name"] for entry in read_manifest(small)}
        others = [e["name"] for e in read_manifest(folder) if e["status"] == "ok" and e["name"] not in names]
        if others:
            raise ValueError(
                f"output: the cache in '{folder}' has {len(others)} clips that {shown} has not, such as {others[0]!r}; "
                "choose a new folder"
            )


@dataclass(frozen=True)
class UrlCache:
    """The files of a cache at a URL; picklable, so that every worker can write there itself.

    Attributes:
        url: the URL.
        argument: what it was given as, for messages.
    """

    url: str
    argument: str = "output"

    @property
    def shown(self) -> str:
        """The URL without a password."""
        return without_password(self.url)

    def prepare(self) -> None:
        """Make the folders where they are missing; take away what a killed run left half-written. For who writes."""
        files, root = self._files()
        self._do(lambda: files.makedirs(f"{root}/clips", exist_ok=True))
        for path in (path for place in (root, f"{root}/clips") for path in self._names(files, place)):
            if _is_part(path.rpartition("/")[2]):
                self._do(partial(files.rm_file, path))

    def pull(self, folder: Path) -> None:
        """Bring the small files into a folder, those that there are; nothing at the URL changes."""
        files, root = self._files()
        for path in self._names(files, root):
            last = path.rpartition("/")[2]
            if last in _SMALL:
                self._do(partial(files.get_file, path, str(folder / last)))

    def push(self, folder: Path) -> None:
        """Bring the small files back."""
        for name in _SMALL:
            if (folder / name).is_file():
                self.put(folder / name, name)

    def put(self, path: Path, name: str) -> None:
        """Copy a file to ``name`` below the URL: under another name first, so that it appears whole or not at all."""
        files, root = self._files()
        target = f"{root}/{name}"
        place, _, last = target.rpartition("/")

        def copy() -> None:
            files.put_file(str(path), f"{place}/.{last}.tmp")  # `_is_part` knows the name
            files.mv(f"{place}/.{last}.tmp", target)

        self._do(copy)

    def fetch(self, entries: list[Entry], folder: Path) -> None:
        """Bring clips into a cache's folder."""
        files, root = self._files()
        for entry in entries:
            with replacing(clip_file(folder, entry["name"])) as part:
                place = f"{root}/clips/{entry['name']}.safetensors"
                self._do(partial(files.get_file, place, str(part)))

    def missing(self) -> Callable[[Entry], str]:
        """Return a function that says what is wrong with an entry's clip; it only looks whether the file is there."""
        files, root = self._files()
        there = {path.rpartition("/")[2] for path in self._names(files, f"{root}/clips")}
        return lambda entry: "" if f"{entry['name']}.safetensors" in there else "its file is missing"

    def _names(self, files: Any, place: str) -> list[str]:
        """Return what a folder holds; nothing where there is none, and buckets have none before the first file."""

        def listed() -> list[str]:
            with suppress(FileNotFoundError):
                return [str(path) for path in files.ls(place, detail=False)]
            return []

        return list(self._do(listed))

    def _files(self) -> tuple[Any, str]:
        """Return the file system, which forgets what it has seen before, and the cache's place in it."""
        import fsspec

        files, root = self._do(lambda: fsspec.core.url_to_fs(self.url, use_listings_cache=False))
        return files, root.rstrip("/")

    def _do(self, action: Callable[[], Any]) -> Any:
        """Try a few times, for networks fail; then say in one sentence what cannot be."""
        for attempt in range(1, _TRIES + 1):
            try:
                return action()
            except (ImportError, ValueError) as error:  # a package is missing, or no such kind of URL
                raise type(error)(f"{self.argument}: {self.shown}: {error}") from None
            except Exception as error:
                if attempt == _TRIES:
                    raise OSError(
                        f"{self.argument}: cannot use {self.shown} ({error}); run the command again to continue"
                    ) from error
                time.sleep(0.2 * attempt)
        return None


def _is_part(name: str) -> bool:
    """Tell the name that `UrlCache.put` gives a file on its way from all others."""
    whole = name.removeprefix(".").removesuffix(".tmp")
    return name == f".{whole}.tmp" and (whole in _SMALL or whole.endswith(".safetensors"))


@dataclass(frozen=True)
class _Uploading:
    """A task whose clips are written to a folder of the worker's own, and go to the URL from there."""

    task: Callable[..., Any]
    remote: UrlCache

    def __call__(self, source: Any, job: Any, stopped: Callable[[], bool]) -> Any:
        with tempfile.TemporaryDirectory(prefix="talkhead-clips-") as name:
            (Path(name) / "clips").mkdir()
            result = self.task(source, replace(job, output=Path(name)), stopped)
            for clip in sorted((Path(name) / "clips").glob("*.safetensors")):
                self.remote.put(clip, f"clips/{clip.name}")
        return result


class _Uploads:
    """An engine whose tasks bring their clips to a URL, and that brings the manifest there now and then."""

    def __init__(self, engine: Mapper, remote: UrlCache, folder: Path) -> None:
        self._engine, self._remote, self._folder = engine, remote, folder
        self.note: Callable[[], str] = getattr(engine, "note", str)

    def __call__(self, task: Any, sources: Any, job: Any, workers: int) -> Generator[tuple[Any, Any], None, None]:
        """Yield what the engine yields; see `map_sources`."""
        last = time.monotonic()
        with closing(self._engine(_Uploading(task, self._remote), sources, job, workers)) as results:
            for result in results:
                yield result
                if time.monotonic() - last > _EVERY:
                    self._remote.push(self._folder)
                    last = time.monotonic()
