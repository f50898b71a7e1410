"""What became of each job: the lines of results.jsonl, and whether a job must be done again."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from talkhead import __version__
from talkhead.data.manifest import Entry, read_json_lines
from talkhead.media.files import row_number
from talkhead.scale.jobs import FILES, RESULTS, VideoJob
from talkhead.speaker.folder import find_folder
from talkhead.speaker.hub import speaker_files


def read_results(folder: Path) -> list[Entry]:
    """Return what an earlier run left in a folder; a last line torn by a killed run is left out."""
    path = folder / RESULTS
    return read_json_lines(path, {"output", "status", "key", "sha256"}) if path.is_file() else []


def job_line(job: VideoJob, key: str | None, status: str, reason: str = "", sha256: str | None = None) -> Entry:
    """Return a job's line: nothing in it may differ between two runs of the same job."""
    return {
        "output": job.output, "line": job.line, "status": status, "reason": reason, "job": job.said, "key": key,
        "sha256": sha256, "version": __version__,
    }  # fmt: skip


def failed_line(job: VideoJob, key: str | None, reason: str, video: Entry | None) -> Entry:
    """Return the line of a job that failed; where its earlier video lies there, with what `earlier_videos` told of it.

    Args:
        job: the job.
        key: its `job_key`.
        reason: why it failed.
        video: the line of that video, which a job that fails leaves as it is; None: there is none.
    """
    entry = job_line(job, key, "failed", reason)
    if video is None:
        return entry
    known = {name: video[name] for name in ("key", "sha256", "version") if name in video}
    said = f"{reason}; the video of an earlier run lies there"
    return entry | known | {"reason": said, "remarks": video.get("reason", "")}


def earlier_videos(folder: Path) -> dict[str, Entry]:
    """Return the lines of the videos that earlier runs made, by output, as they were before a later run failed."""
    found = {}
    for entry in read_results(folder):
        if entry["status"] != "ok" and entry["sha256"]:
            remarks = entry.pop("remarks", "")
            entry |= {"status": "ok", "reason": remarks}
        if entry["status"] == "ok" and entry["output"]:
            found[entry["output"]] = entry
    return found


def is_as_written(video: Entry, folder: Path) -> bool:
    """Tell whether the video of a line that `earlier_videos` gave lies in its folder, and is the one of then."""
    try:
        return bool(video["sha256"] == output_checksum(folder / video["output"]))
    except OSError:  # what cannot be read cannot be known
        return False


def job_key(job: VideoJob, speakers: Mapping[str, str]) -> str | None:
    """Return a checksum of all that a job's video depends on: its files, its speaker, its options; None: not to be had.

    Args:
        job: a job without a fault.
        speakers: each speaker's `speaker_checksum` by its name; those that are none are not among them.
    """
    options = dict(job.options)
    if options["speaker"] not in speakers:  # the pipeline says it better
        return None
    options["speaker"] = speakers[options["speaker"]]
    try:
        for name in FILES:
            if options.get(name):
                options[name] = file_checksum(options[name])
        if isinstance(options.get("references"), list):
            options["references"] = [file_checksum(name) for name in options["references"]]
    except OSError:  # likewise
        return None
    said = {name: str(value) if isinstance(value, Fraction) else value for name, value in options.items()}
    # What is left out, what is null and what is said as it is anyway mean the same.
    usual = _defaults()
    said = {name: value for name, value in said.items() if value is not None and value != usual.get(name)}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@cache
def _defaults() -> dict[str, Any]:
    from talkhead.pipeline import TalkingHeadPipeline

    calls = (TalkingHeadPipeline.generate_file, TalkingHeadPipeline.stream)
    parameters = [p for call in calls for p in inspect.signature(call).parameters.values()]
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def file_checksum(path: str | Path) -> str:
    """Return the SHA-256 of a file, read once as long as it does not change.

    Raises:
        OSError: if it cannot be read.
    """
    state = Path(path).stat()
    return _checksum(str(path), state.st_size, state.st_mtime_ns)


@cache
def _checksum(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def speaker_checksum(name: str) -> str:
    """Return a checksum of the files of a speaker's folder that are the speaker's; of others that lie there, nothing.

    Raises:
        FileNotFoundError, ValueError: if there is no such speaker, or one of its files leads out of the folder.
        OSError: if one of them cannot be read.
    """
    folder = find_folder(name)
    parts = [f"{file} {file_checksum(folder / file)}" for file in speaker_files(folder)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def output_checksum(path: Path) -> str | None:
    """Return the SHA-256 of a video, or of a row of pictures (``%05d.png``); None where there is none."""
    if path.suffix.lower() != ".png":
        return file_checksum(path) if path.is_file() else None
    pictures = sorted(p for p in path.parent.glob("*.*") if row_number(path, p.name) and p.is_file())
    parts = [f"{picture.name} {file_checksum(picture)}" for picture in pictures]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest() if parts else None
