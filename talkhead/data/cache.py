"""One recording becomes one or several cached clips, and lines of the manifest that say what came of it."""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE
from talkhead.data.dataset import num_samples
from talkhead.data.frame_store import Store, pack_frames
from talkhead.data.index import Source
from talkhead.data.manifest import Entry, checksum, clip_file, legible
from talkhead.data.stills import cut_stills
from talkhead.face.crop import crop_frames, face_crop, to_crop
from talkhead.media.files import write_whole
from talkhead.media.read import MediaInfo, MediaWarning, iter_frames, probe, read_audio
from talkhead.one_line import one_line
from talkhead.tracking.track import LandmarkDetector, MissingFaceError, TrackedShot, load_detector, track_shots

Missing = Literal["error", "interpolate", "skip"]


@dataclass(frozen=True)
class Job:
    """What a worker must know to turn a source into clips."""

    root: Path
    output: Path
    size: int
    scale: float
    detector: str | LandmarkDetector
    missing: Missing
    max_gap: int
    face: str | int
    segment_seconds: float | None
    versions: dict[str, str]
    device: str = "auto"
    fps: Fraction | None = None
    store: Store = "raw"
    quality: int = 95


def process_source(source: Source, job: Job, stopped: Callable[[], bool]) -> list[Entry]:
    """Turn one source into clips and return their entries; whatever is wrong with it becomes an entry, no exception."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MediaWarning)
        try:
            if source.stills:
                entries = _cache_stills(source, job)
            else:
                entries = _cache_video(source, job, stopped) if source.has_video else _cache_sound(source, job)
        except _Unwritable as error:
            raise OSError(str(error)) from error
        except Exception as error:
            entries = [_failure(job, source, error)]
    remarks = dict.fromkeys(_text(job, source, w.message) for w in caught if issubclass(w.category, MediaWarning))
    return [e | {"reason": "; ".join(remarks)} if e["status"] == "ok" else e for e in entries]


def _cache_sound(source: Source, job: Job) -> list[Entry]:
    audio = read_audio(source.audio_path or source.path, strict=True)
    return [new_entry(job, source, samples=len(audio), sha256=_save(job, source.name, {"audio": audio}))]


def _cache_stills(source: Source, job: Job) -> list[Entry]:
    """Cut the face out of each picture; they have no sound, and the rate of clips that they may be mixed with."""
    detector = detector_named(job.detector, job.device)
    frames, landmarks = cut_stills(source.stills, detector, job.face, job.scale, job.size)
    tensors = pack_frames(frames, job.store, job.quality)
    tensors |= {"landmarks": landmarks, "confidence": torch.ones(len(frames)), "audio": torch.zeros(0)}
    fps = str(job.fps or 25)
    facts: Entry = {
        "sha256": _save(job, source.name, tensors),
        "frames": len(frames),
        "size": job.size,
        "detector": detector.name,
        "stills": True,
    }
    return [new_entry(job, source, fps=fps, **facts)]


def _cache_video(source: Source, job: Job, stopped: Callable[[], bool]) -> list[Entry]:
    """Track the face, then read the frames a second time to cut it out: no video is ever whole in memory."""
    info = probe(source.path)
    if info.fps is None:
        warnings.warn("has no picture that can be decoded: its sound alone is kept", MediaWarning, stacklevel=2)
        return _cache_sound(source, job)
    fps = info.fps if job.fps is None else job.fps
    audio = read_audio(source.audio_path or source.path, strict=True)
    lengths = _segment_lengths(source.path, info, fps, job, stopped)
    shots = list(_track(source.path, lengths, fps, job, stopped))
    frames = _until(stopped, iter_frames(source.path, job.fps))
    entries, start = [], 0
    for index, shot in enumerate(shots):
        several = {"index": index, "count": len(shots), "start": start} if len(shots) > 1 else None
        part = itertools.islice(frames, shot.length)
        try:
            if shot.landmarks is None:
                start += sum(1 for _ in part)
                entries.append(_unusable(job, source, shot, several))
            else:
                entries.append(_cache_segment(source, job, fps, several, start, part, shot, audio))
                start += shot.length
        except _ShortSoundError as error:
            entries.append(_failure(job, source, error, several))
    return entries


def _unusable(job: Job, source: Source, shot: TrackedShot, segment: Entry | None) -> Entry:
    """Return the entry of a shot without landmarks: what lies between two cuts is left out on purpose."""
    if isinstance(shot, _FacelessSegment):
        return _failure(job, source, MissingFaceError(shot.reason), segment)
    return new_entry(job, source, segment, status="skipped", reason=shot.reason)


def _segment_lengths(
    path: Path, info: MediaInfo, fps: Fraction, job: Job, stopped: Callable[[], bool]
) -> list[int | None]:
    """Return the frames of each segment, as equal as can be; ``[None]``: the video is short enough to stay whole."""
    longest = math.inf if job.segment_seconds is None else job.segment_seconds * fps
    # The header of a fragmented file counts its first frames alone; frames of a phone are repeated to keep time.
    announced = max(info.duration, (info.num_frames or 0) / info.fps if info.fps else 0)
    if longest == math.inf or 0 < announced * fps <= longest:
        return [None]
    # Headers are not to be relied on where it matters, and that of a live recording says nothing (0): count.
    total = sum(1 for _ in _until(stopped, iter_frames(path, job.fps)))
    count = max(math.ceil(total / longest), 1)
    return [(i + 1) * total // count - i * total // count for i in range(count)]


class _FacelessSegment(TrackedShot):
    """A segment whose face is missing where no cut says why."""


def _track(
    path: Path, lengths: list[int | None], fps: Fraction, job: Job, stopped: Callable[[], bool]
) -> Iterator[TrackedShot]:
    """Yield the shots of each segment; one without a face has the reason in place of landmarks."""
    frames = _until(stopped, iter_frames(path, job.fps))
    start = 0
    for length in lengths:
        count = itertools.count()  # asked after the frames: where they end it has been asked as often as one came
        counted = (frame for frame, _ in zip(itertools.islice(frames, length), count, strict=False))
        try:
            shots = track_shots(
                counted,
                detector_named(job.detector, job.device),
                face=job.face,
                missing=job.missing,
                max_gap=job.max_gap,
            )
        except MissingFaceError as error:
            for _ in counted:
                pass
            shots = [_FacelessSegment(next(count), reason=str(error))]
        borders = itertools.accumulate((shot.length for shot in shots[:-1]), initial=start)
        if cuts := [f"{float(border / fps):.2f} s" for border in borders][1:]:
            warnings.warn(f"{path}: cut at {', '.join(cuts)}, and split there", MediaWarning, stacklevel=2)
        yield from shots
        start += sum(shot.length for shot in shots)


def _cache_segment(
    source: Source,
    job: Job,
    fps: Fraction,
    segment: Entry | None,
    start: int,
    frames: Iterable[Tensor],
    shot: TrackedShot,
    audio: Tensor,
) -> Entry:
    landmarks, confidence = shot.landmarks, shot.confidence
    assert landmarks is not None and confidence is not None
    crop = face_crop(landmarks, job.scale)
    painted, shape = [], (0, 0)
    for frame in frames:
        painted.append(crop_frames(frame[None], crop, job.size)[0])
        shape = (frame.shape[-1], frame.shape[-2])
    if len(painted) != len(landmarks):
        raise ValueError(f"gave {len(landmarks)} frames when first read and {len(painted)} when read again")
    name = source.name if segment is None else f"{source.name}@{segment['index']:03d}"
    sound = _stretch(audio, num_samples(start, fps), num_samples(len(painted), fps))
    tensors = pack_frames(torch.stack(painted), job.store, job.quality) | {
        "landmarks": to_crop(landmarks, crop, job.size),
        "confidence": confidence,
        "audio": sound,
    }
    return new_entry(
        job, source, segment, sha256=_save(job, name, tensors),
        fps=str(fps), frames=len(painted), samples=len(sound), size=job.size, crop=[crop.x, crop.y, crop.side],
        source_size=list(shape), detector=detector_named(job.detector, job.device).name,
    )  # fmt: skip


def _stretch(audio: Tensor, first: int, length: int) -> Tensor:
    """Cut out ``length`` samples; containers may end the sound a little early, more than half a second is a fault."""
    sound = audio[first : first + length]
    if (lack := first + length - len(audio)) > SAMPLE_RATE // 2:
        raise _ShortSoundError(f"its sound ends {lack / SAMPLE_RATE:.2f} s before its picture")
    return torch.nn.functional.pad(sound, (0, length - len(sound)))


class _ShortSoundError(ValueError):
    """The sound ends long before the picture."""


class _Unwritable(OSError):
    """The cache cannot be written: no fault of the source, and no use going on."""


_loaded = functools.cache(load_detector)


def detector_named(detector: str | LandmarkDetector, device: str = "auto") -> LandmarkDetector:
    """Return this process's detector of that name on ``device`` (or the one given), loaded once."""
    return _loaded(detector, device) if isinstance(detector, str) else detector


def _until(stopped: Callable[[], bool], frames: Iterable[Tensor]) -> Iterator[Tensor]:
    """Pass frames on until the run is stopped: a long video must not hold up Ctrl-C."""
    for frame in frames:
        if stopped():
            raise KeyboardInterrupt
        yield frame


def new_entry(job: Job, source: Source, segment: Entry | None = None, **values: Any) -> Entry:
    """Return a manifest entry: nothing in it may differ between two runs over the same source."""
    mark = "" if segment is None else f"@{segment['index']:03d}"
    return {
        "name": source.name + mark,
        "source": place_of(job, source),
        "bytes": source.bytes,
        "status": "ok",
        "reason": "",
        "identity": source.identity,
        "emotion": source.emotion,
        "level": source.level,
        "view": source.view,
        "sentence": source.sentence + mark,
        "segment": segment,
        "fps": None,
        "frames": 0,
        "samples": 0,
        "size": None,
        "crop": None,
        "source_size": None,
        "detector": None,
        "versions": job.versions,
    } | values


def _failure(job: Job, source: Source, error: Exception, segment: Entry | None = None) -> Entry:
    skipped = isinstance(error, MissingFaceError) and job.missing == "skip"
    return new_entry(job, source, segment, status="skipped" if skipped else "failed", reason=_text(job, source, error))


def _text(job: Job, source: Source, error: Any) -> str:
    """Return a message on one line, with paths as the manifest names them."""
    text = one_line(error)
    for path in (source.path, source.audio_path):
        if path is not None:
            whole = str(path.absolute())  # and as messages quote a name that is no UTF-8
            for written in (whole, repr(whole)[1:-1], str(path)):
                text = text.replace(written, path.name)
    return legible(text)


def place_of(job: Job, source: Source) -> str:
    """Return where a source lies below the input folder."""
    return legible(source.path.relative_to(job.root if job.root.is_dir() else job.root.parent).as_posix())


def _save(job: Job, name: str, tensors: dict[str, Tensor]) -> str:
    """Write a clip's file and return its checksum."""
    content = save({k: v.contiguous() for k, v in tensors.items()})
    write_to_cache(clip_file(job.output, name), content)
    return checksum(content)


def write_to_cache(path: Path, content: bytes) -> None:
    """Write a file of the cache whole or not at all."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise _Unwritable(
            f"output: cannot write {str(path)!r} ({error.strerror or error}); make room or choose another folder"
        ) from error
