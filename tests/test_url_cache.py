"""A cache at a URL: the bytes of one in a folder, wherever its clips were made."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import tiny_entry
from test_preprocess import SkinDetector
from test_shards import files, talks  # noqa: F401

from talkhead.cli import main
from talkhead.data.manifest import checksum, json_lines
from talkhead.data.preprocess import preprocess
from talkhead.data.workers import map_sources
from talkhead.media.files import is_url
from talkhead.scale.url_cache import UrlCache, fetch_cache, preprocess_to_url

OPTIONS: dict[str, Any] = {"size": 16, "segment_seconds": 1, "progress": False}
URL = "memory://lab/cache"


def in_memory() -> dict[str, bytes]:
    """Return the files of the cache at `URL`."""
    held = fsspec.filesystem("memory")
    return {path.removeprefix("/lab/cache/"): held.cat_file(path) for path in held.find("/lab/cache")}


@pytest.fixture(autouse=True)
def clean() -> Generator[None, None, None]:
    yield
    fsspec.filesystem("memory").store.clear()


def test_a_url_has_the_files_of_a_folder_and_gives_them_back(talks: Path, tmp_path: Path) -> None:  # noqa: F811
    here = preprocess("folder", talks, tmp_path / "here", detector=SkinDetector(), **OPTIONS)
    there = preprocess_to_url("folder", talks, URL, detector=SkinDetector(), **OPTIONS)
    assert there == here and there.ok == 4 and len(there.failed) == 2
    assert in_memory() == files(tmp_path / "here")
    assert main(["cache", "fetch", URL, "--output", str(tmp_path / "back")]) == 0
    assert files(tmp_path / "back") == files(tmp_path / "here")


def test_a_run_that_was_stopped_goes_on_at_the_url(talks: Path, tmp_path: Path) -> None:  # noqa: F811
    """Ctrl-C after two recordings, and a clip half-brought: only the others are made again."""
    made: list[str] = []

    def stopping(limit: int) -> Any:
        def engine(task: Any, sources: Any, job: Any, workers: int) -> Any:
            for number, (source, result) in enumerate(map_sources(task, sources, job, workers)):
                made.append(source.path.name)
                yield source, result
                if number + 1 == limit:
                    raise KeyboardInterrupt

        return engine

    with pytest.raises(KeyboardInterrupt):
        preprocess_to_url("folder", talks, URL, detector=SkinDetector(), engine=stopping(2), **OPTIONS)
    held = fsspec.filesystem("memory")
    held.pipe_file("/lab/cache/clips/.wall.safetensors.tmp", b"half")
    held.pipe_file("/lab/cache/.preprocess.json.tmp", b"half")
    held.pipe_file("/lab/cache/clips/.notes.tmp", b"somebody's own")
    assert {"preprocess.json", "manifest.jsonl"} < set(in_memory())
    done = {Path(json.loads(line)["source"]).name for line in in_memory()["manifest.jsonl"].splitlines()}
    assert done == set(made)
    failed = {"broken.mp4", "wall.mp4"} & done  # these are tried again
    made.clear()
    preprocess_to_url("folder", talks, URL, detector=SkinDetector(), engine=stopping(99), **OPTIONS)
    assert set(made) == {path.name for path in talks.iterdir()} - done | failed
    preprocess("folder", talks, tmp_path / "here", detector=SkinDetector(), **OPTIONS)
    assert in_memory() == files(tmp_path / "here") | {"clips/.notes.tmp": b"somebody's own"}
    with pytest.raises(ValueError, match="output: 'memory://lab/cache' was made with size=16, not 24"):
        preprocess_to_url("folder", talks, URL, detector=SkinDetector(), **OPTIONS | {"size": 24})


def test_a_clip_that_is_gone_from_the_url_is_made_again(talks: Path) -> None:  # noqa: F811
    preprocess_to_url("folder", talks, URL, detector=SkinDetector(), **OPTIONS)
    whole = in_memory()
    fsspec.filesystem("memory").rm_file("/lab/cache/clips/a.safetensors")
    preprocess_to_url("folder", talks, URL, detector=SkinDetector(), **OPTIONS)
    assert in_memory() == whole


def test_who_reads_changes_nothing_at_the_url(
    talks: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not what a run beside it is bringing there, and no folder where there is no cache."""
    preprocess_to_url("folder", talks, URL, detector=SkinDetector(), **OPTIONS)
    held = fsspec.filesystem("memory")
    held.pipe_file("/lab/cache/clips/.z.safetensors.tmp", b"half")
    before = in_memory()
    for name in ("makedirs", "mkdir", "rm_file", "rm", "mv", "put_file"):
        monkeypatch.setattr(type(held), name, lambda *_, **__: pytest.fail("writes"))
    assert fetch_cache(URL, tmp_path / "back", progress=False) == 4 and in_memory() == before
    for url in ("memory://lab/cahce", (tmp_path / "cahce").as_uri()):
        with pytest.raises(FileNotFoundError, match="there is no manifest at .*cahce"):
            fetch_cache(url, tmp_path / "none", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["back"] and not held.exists("/lab/cahce")


def test_what_came_is_not_fetched_again_and_damage_is_named(
    talks: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preprocess_to_url("folder", talks, URL, detector=SkinDetector(), **OPTIONS)
    fetch_cache(URL, tmp_path, progress=False)
    (tmp_path / "clips" / "a.safetensors").write_bytes(b"damaged")
    fetched: list[str] = []
    original = UrlCache.fetch

    def noting(self: UrlCache, entries: list[Any], folder: Path) -> None:
        fetched.extend(entry["name"] for entry in entries)
        original(self, entries, folder)

    monkeypatch.setattr(UrlCache, "fetch", noting)
    assert fetch_cache(URL, tmp_path, progress=False) == 4
    assert fetched == ["a"]
    fsspec.filesystem("memory").pipe_file("/lab/cache/clips/b.safetensors", b"damaged")
    (tmp_path / "clips" / "b.safetensors").unlink()
    with pytest.raises(ValueError, match="the clip 'b' of memory://lab/cache: its file is damaged"):
        fetch_cache(URL, tmp_path, progress=False)


def hand_made(folder: Path, clips: str, **settings: Any) -> Path:
    """Make a cache whose clips, one of each letter, are so only by their checksum."""
    (folder / "clips").mkdir(parents=True)
    sums = {name: checksum(name.encode()) for name in clips}
    for name in clips:
        (folder / "clips" / f"{name}.safetensors").write_bytes(name.encode())
    lines = [tiny_entry(0) | {"name": name, "sha256": value} for name, value in sums.items()]
    (folder / "manifest.jsonl").write_bytes(json_lines(lines))
    (folder / "preprocess.json").write_text(json.dumps({"input": "talks", "size": 64, "detector": "dlib"} | settings))
    return folder


@pytest.mark.parametrize(
    ("clips", "settings", "words"),
    [
        ("ab", {"size": 128}, "was made with size=128, and that at file://.*/there with 64; choose a new folder"),
        ("ab", {"input": "others"}, "was made with input='others', and that at .* with 'talks'; choose"),
        ("ab", {"shard": [1, 2]}, "was made with shard=.1, 2., and that at .* with None; choose"),
        ("xay", {}, "has 2 clips that file://.*/there has not, such as 'x'; choose a new folder"),
        ("a", {"detector": None}, ""),  # the same at an earlier time
    ],
)
def test_another_cache_in_the_folder_is_not_replaced(
    clips: str, settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    there = hand_made(tmp_path / "there", "abc")
    here = hand_made(tmp_path / "here", clips, **settings)
    before = files(here)
    if not words:
        assert fetch_cache(there.as_uri(), here, progress=False) == 3 and files(here) == files(there)
        return
    with pytest.raises(ValueError, match=words):
        fetch_cache(there.as_uri(), here, progress=False)
    assert files(here) == before


def test_workers_bring_their_clips_themselves(talks: Path, tmp_path: Path) -> None:  # noqa: F811
    preprocess("folder", talks, tmp_path / "here", detector=SkinDetector(), **OPTIONS)
    url = (tmp_path / "there").as_uri()
    preprocess_to_url("folder", talks, url, detector=SkinDetector(), workers=2, **OPTIONS)
    assert files(tmp_path / "there") == files(tmp_path / "here")


def test_what_is_no_url_and_what_cannot_be_reached(talks: Path, tmp_path: Path) -> None:  # noqa: F811
    assert is_url("s3://bucket/cache") and not is_url("C:/cache") and not is_url(tmp_path)
    with pytest.raises(ValueError, match="output: nowhere://x/y: Protocol not known: nowhere"):
        preprocess_to_url("folder", talks, "nowhere://me:secret@x/y", detector=SkinDetector(), **OPTIONS)
    with pytest.raises(FileNotFoundError, match="there is no manifest at memory://lab/none"):
        fetch_cache("memory://lab/none", tmp_path / "none")
    with pytest.raises(ValueError, match="^url: nowhere://x/y: Protocol not known: nowhere"):
        fetch_cache("nowhere://x/y", tmp_path / "none")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="output: cannot use file://.*run the command again"):
        preprocess_to_url("folder", talks, f"file://{tmp_path}/file/cache", detector=SkinDetector(), **OPTIONS)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("the cache", ["preprocess", "--verify", "--output", URL]),
        ("the cache", ["cache", "info", URL]),
        ("the cache", ["merge", URL, "--output", "whole"]),
        ("output", ["merge", "--output", URL]),
        ("output", ["cache", "fetch", "memory://lab/other", "--output", URL]),
        ("output", ["adapt", "clips", "--output", URL]),
        ("output", ["generate", "--jobs", "jobs.jsonl", "--output", URL]),
        ("the cache", ["evaluate", "--root", URL, "--output", "results"]),
    ],
)
def test_what_reads_folders_refuses_a_url(
    what: str, words: list[str], tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentence: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word.replace("lab", "me:secret@lab") for word in words]
    words[1:1] = [str(tiny_cache)] if words[0] == "merge" and what == "output" else []
    said = sentence(*words)
    assert f"{what} must be a folder; got the URL {URL}; `talkhead cache fetch URL" in said
    assert not list(tmp_path.iterdir())
