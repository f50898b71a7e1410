"""Decode every recording once: face crops, landmarks and 16 kHz sound into a cache that training reads.

The cache is a folder: ``clips/<name>.safetensors`` (tensors), ``manifest.jsonl`` (one line per clip),
``preprocess.json`` (the settings it was made with) and ``contact_sheet.png`` (to see at a glance whether faces and
landmarks are right).

Every file appears whole or not at all, and a clip's line follows its file. So a run that is killed at any moment is
continued by the next one, and ends with the manifest that an unbroken run writes, byte for byte.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from importlib import metadata
from numbers import Integral, Real
from pathlib import Path
from typing import Literal, Protocol, get_args

import torch

from talkhead import __version__
from talkhead.data.cache import Job, Missing, detector_named, new_entry, place_of, process_source, write_to_cache
from talkhead.data.contact_sheet import clips_to_show, contact_sheet
from talkhead.data.frame_store import Store
from talkhead.data.index import Layout, Source, View, list_sources
from talkhead.data.manifest import Entry, clip_damage, clip_file, json_lines, read_manifest
from talkhead.data.record import recorded_work
from talkhead.data.shards import check_shard, in_shard
from talkhead.data.workers import Mapper, map_sources
from talkhead.media.files import check_apart, sweep
from talkhead.media.read import exact_fps, write_image
from talkhead.tracking.detectors import check_face
from talkhead.tracking.track import LandmarkDetector


class Elsewhere(Protocol):
    """Where a cache's clips lie if not in its folder, see `talkhead.scale.url_cache`."""

    def missing(self) -> Callable[[Entry], str]:
        """Return what says what is wrong with an entry's clip; nothing where it is there."""
        ...

    def fetch(self, entries: list[Entry], folder: Path) -> None:
        """Bring clips into a cache's folder."""
        ...


@dataclass(frozen=True)
class Summary:
    """What a run left in the cache.

    Attributes:
        ok: number of usable clips.
        failed: (name, reason) of what could not be read; a further run tries these again.
        skipped: (name, reason) of what was left out on purpose.
        warned: number of usable clips with a remark in the manifest's ``reason``.
    """

    ok: int
    failed: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    warned: int = 0

    def __str__(self) -> str:
        """Return one line such as ``240 ok, 1 failed: s1 (no face found), 12 skipped: calm has no MEAD label (12)``."""
        parts = [f"{self.ok} ok" + (f" ({self.warned} with remarks in the manifest)" if self.warned else "")]
        if self.failed:
            shown = "; ".join(f"{name} ({reason})" for name, reason in self.failed[:10])
            more = f"; and {len(self.failed) - 10} more in the manifest" if len(self.failed) > 10 else ""
            parts.append(f"{len(self.failed)} failed: {shown}{more}")
        if self.skipped:
            reasons = Counter(reason for _, reason in self.skipped)
            parts.append(f"{len(self.skipped)} skipped: " + "; ".join(f"{r} ({n})" for r, n in sorted(reasons.items())))
        return ", ".join(parts)


def preprocess(
    layout: Layout,
    input: str | Path,
    output: str | Path,
    *,
    size: int = 128,
    scale: float = 1.5,
    detector: str | LandmarkDetector = "auto",
    workers: int = 1,
    identity: str | None = None,
    emotion: str | None = None,
    view: View = "front",
    missing: Missing = "interpolate",
    max_gap: int = 5,
    face: Literal["largest", "center"] | int = "largest",
    segment_seconds: float | None = 10.0,
    device: str = "auto",
    fps: Fraction | float | None = None,
    store: Store = "raw",
    quality: int = 95,
    isolate: bool = False,
    shard: tuple[int, int] | None = None,
    engine: Mapper = map_sources,
    elsewhere: Elsewhere | None = None,
    progress: bool = True,
) -> Summary:
    """Turn a folder of recordings into a cache, in parallel, continuing what an earlier run left.

    Per source: landmarks are tracked on the full frames, one square around the face, fixed over the clip, is cut out
    and resized, the landmarks are mapped into it, the sound is resampled. Sources are only ever read. A source that
    cannot be used is reported and leaves the others alone.

    Args:
        layout: how ``input`` is arranged; see ``list_sources``.
        input: the recordings.
        output: the cache folder; new, empty, or a cache made with the same settings.
        size: side of the cached frames, px.
        scale: side of the crop over that of the landmarks' box.
        detector: ``auto``, ``face-alignment``, ``dlib``, or an object that follows ``LandmarkDetector``.
        workers: processes. With more than one, a script must start from ``if __name__ == "__main__"``.
        identity: ``folder``: the speaker's name; other layouts: only this speaker.
        emotion: ``folder``: the emotion; other layouts: only this emotion.
        view: MEAD's camera; ``all``: every one that is there.
        missing: what to do about frames without a face: ``error`` fails the clip, ``interpolate`` bridges gaps of up to
            ``max_gap`` frames, ``skip`` leaves the clip out.
        max_gap: frames.
        face: which face where there are several: ``largest``, ``center``, or its place from the left.
        segment_seconds: videos longer than this become several clips ``<name>@000``, ``<name>@001``, ... of equal
            length, each with a crop of its own; None: one clip per video.
        device: where face-alignment runs, see ``load_detector``; every worker loads it there.
        fps: frames per second to which every video is brought, by its nearest frames; None: each keeps its own.
        store: ``raw`` keeps every pixel as it is; ``jpeg`` takes a fraction of the room, and costs time to read.
        quality: of ``jpeg``, 1 to 95.
        isolate: work in a process of its own even with one worker, so that a crash in a codec costs one recording and
            not the run; as `talkhead preprocess` does. A script must then start from ``if __name__ == "__main__"``.
        shard: (i, n), i from 1 to n: take only the i-th of n parts of the recordings. A recording's part depends on its
            place below ``input`` alone. Each part has an ``output`` of its own; `merge_caches` joins them to what one
            run over everything makes.
        engine: what spreads the recordings over workers, see `talkhead.scale.ray_engine`.
        elsewhere: where the engine brings the clips, if not to ``output``; see `talkhead.scale.url_cache`.
        progress: show a progress bar on stderr, and print the summary at the end.

    Returns:
        The summary; ``str(summary)`` is one line.

    Raises:
        FileNotFoundError: if ``input`` does not exist.
        ValueError: if an argument is out of range, nothing under ``input`` fits, or ``output`` is something else.
        ImportError: if no detector can be had.
        OSError: if ``output`` cannot be written.
        KeyboardInterrupt: passed on; what is done stays done.
    """
    _check(size, scale, workers, max_gap, segment_seconds)
    check_shard(shard)
    check_apart(output, input=input)
    for name, value, choices in (("store", store, Store), ("missing", missing, Missing)):
        if value not in get_args(choices):
            raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}")
    check_face(face)
    if not 1 <= quality <= 95:
        raise ValueError(f"quality must lie in 1..95; got {quality}")
    root, output = Path(input), Path(output)
    rate = None if fps is None else exact_fps(fps)
    sources = list_sources(layout, root, identity, emotion, view)
    _make_folder(output)
    settings: Entry = {
        "layout": layout, "input": str(root.resolve()), "identity": identity, "emotion": emotion, "view": view,
        "size": size, "scale": scale, "missing": missing, "max_gap": max_gap, "face": face,
        "segment_seconds": segment_seconds, "fps": None if rate is None else str(rate),
    }  # fmt: skip
    if store != "raw":  # caches that are older than the choice say nothing
        settings |= {"store": store, "quality": quality}
    if shard is not None:
        settings["shard"] = list(shard)
    detector = _settle(output, settings, detector, device, any(s.has_video and not s.skip for s in sources))
    job = Job(
        root, output, size, scale, detector, missing, max_gap, face, segment_seconds,
        versions=_versions(detector if isinstance(detector, str) else detector.name, store), device=device, fps=rate,
        store=store, quality=quality,
    )  # fmt: skip
    sources = [source for source in sources if in_shard(place_of(job, source), shard)]
    kept, todo = _resume(job, sources, partial(clip_damage, output) if elsewhere is None else elsewhere.missing())
    if any(s.has_video for s in todo):
        # Loaded here so that a missing package is one error now, not one failure per clip.
        detector_named(detector, device)
    processes = 0 if isolate and workers == 1 else workers
    entries = _finish(output, kept + _work(job, todo, len(sources), processes, engine, progress), elsewhere)
    summary = _summarise(entries)
    if progress:
        print(summary)
    return summary


def _check(size: int, scale: float, workers: int, max_gap: int, segment_seconds: float | None) -> None:
    given: dict[str, tuple[float, int]] = {"size": (size, 8), "workers": (workers, 1), "max_gap": (max_gap, 0)}
    given |= {"scale": (scale, 1), "segment_seconds": (1 if segment_seconds is None else segment_seconds, 1)}
    for name, (value, least) in given.items():
        whole = name in ("size", "workers", "max_gap")
        if not isinstance(value, Integral if whole else Real) or not value >= least:
            kind = "whole number" if whole else "number"
            raise ValueError(f"{name} must be a {kind} of at least {least}; got {value!r}")


def _make_folder(output: Path) -> None:
    try:
        (output / "clips").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"output: cannot make the folder {str(output)!r} ({error.strerror}); choose another") from None


def _finish(output: Path, entries: list[Entry], elsewhere: Elsewhere | None) -> list[Entry]:
    """Write the sorted manifest and the contact sheet."""
    entries = sorted(entries, key=lambda e: e["name"])
    write_to_cache(output / "manifest.jsonl", json_lines(entries))
    if elsewhere is not None:
        elsewhere.fetch(clips_to_show(entries), output)
    if (sheet := contact_sheet(output, entries)) is not None:
        write_image(output / "contact_sheet.png", sheet)
    return entries


def _settle(
    output: Path, settings: Entry, detector: str | LandmarkDetector, device: str, needed: bool
) -> str | LandmarkDetector:
    """Hold the cache to one set of settings; return the detector to use (``auto`` settled on one name)."""
    path = output / "preprocess.json"
    try:
        recorded: Entry | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError:
        raise ValueError(f"output: {str(path)!r} is damaged, it holds no settings; choose a new folder") from None
    if recorded is None and (output / "manifest.jsonl").exists():
        raise ValueError(f"output: {str(output)!r} has a manifest but no preprocess.json; choose a new folder")
    before = (recorded or {}).get("detector")
    if detector == "auto" and before:
        detector = before
    if detector == "auto" and needed:
        detector = detector_named(detector, device).name
    name = before if not needed else detector if isinstance(detector, str) else detector.name
    settings = settings | {"detector": name}
    if recorded is not None and (before is not None or recorded != settings | {"detector": None}):
        for key in dict.fromkeys((*settings, "shard", "store", "quality")):
            if recorded.get(key) != settings.get(key):
                raise ValueError(
                    f"output: {str(output)!r} was made with {key}={recorded.get(key)!r}, not {settings.get(key)!r}; "
                    "use the same settings to continue it, or choose a new folder"
                )
    if recorded != settings:
        write_to_cache(path, (json.dumps(settings, indent=2) + "\n").encode())
    return detector


def _versions(detector: str, store: Store) -> dict[str, str]:
    packages = {"dlib": ["dlib-bin", "dlib"], "face-alignment": ["face-alignment"]}.get(detector, [])
    packages += ["pillow"] if store == "jpeg" else []
    versions = {"talkhead": __version__, "torch": torch.__version__}
    for package in ["av", *packages]:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _resume(job: Job, sources: list[Source], damage: Callable[[Entry], str]) -> tuple[list[Entry], list[Source]]:
    """Return the entries that an earlier run finished, and the sources still to do; leave a clean manifest."""
    sweep(job.output)
    sweep(job.output / "clips")
    manifest = job.output / "manifest.jsonl"
    by_source: dict[str, dict[str, Entry]] = {}
    for entry in read_manifest(job.output) if manifest.exists() else []:
        by_source.setdefault(entry.get("source", ""), {})[entry["name"]] = entry
    kept = [new_entry(job, s, status="skipped", reason=s.skip) for s in sources if s.skip]
    todo: list[Source] = []
    for source in sources:
        done = list(by_source.pop(place_of(job, source), {}).values())
        if not source.skip and _finished(source, done, damage):
            kept += done
        elif not source.skip:
            todo.append(source)
    # A recording that is gone from the input (moved to save space) keeps its clips.
    names = {e["name"] for e in kept} | {s.name for s in todo}
    for entry in (e for done in by_source.values() for e in done.values()):
        if entry["status"] != "ok" or entry["name"] in names:
            continue
        if not (fault := damage(entry)):
            kept.append(entry)
        elif clip_file(job.output, entry["name"]).is_file():
            kept.append(entry | {"status": "failed", "reason": f"{fault}, and its recording is gone"})
    write_to_cache(manifest, json_lines(sorted(kept, key=lambda e: e["name"])))
    return kept, todo


def _finished(source: Source, done: list[Entry], damage: Callable[[Entry], str]) -> bool:
    """Whether the entries are all that becomes of ``source``, with their files, none of them failed."""
    if not done or len(done) != (done[0].get("segment") or {"count": 1})["count"]:
        return False
    if any(e["name"].split("@")[0] != source.name or e["status"] == "failed" for e in done):
        return False
    if source.stills and done[0]["frames"] != len(source.stills):
        return False
    fault = "its recording is another" if done[0].get("bytes", source.bytes) != source.bytes else ""  # old ones: none
    faults = {e["name"]: fault or damage(e) for e in done if fault or e["status"] == "ok"}
    for name, fault in faults.items():
        if fault:
            print(f"made again: {name}: {fault}", file=sys.stderr)
    return not any(faults.values())


def _work(job: Job, todo: list[Source], total: int, workers: int, engine: Mapper, show: bool) -> list[Entry]:
    """Do what is to do, and append each source's lines to the manifest as they come."""
    results, note = engine(process_source, todo, job, workers), getattr(engine, "note", str)
    passed = total - len(todo)
    lines = job.output / "manifest.jsonl"
    with recorded_work(lines, "preprocess", "recordings", total, passed, show) as record, closing(results):
        for source, result in results:
            new = result if isinstance(result, list) else [new_entry(job, source, status="failed", reason=result)]
            record.add([(entry["name"], entry) for entry in new], note=note())
    return record.entries


def _summarise(entries: list[Entry]) -> Summary:
    def listed(status: str) -> list[tuple[str, str]]:
        return [(e["name"], e["reason"]) for e in entries if e["status"] == status]

    ok = listed("ok")
    return Summary(len(ok), listed("failed"), listed("skipped"), sum(bool(reason) for _, reason in ok))
