"""Many videos in one run: the networks are loaded once, one bad job stops no other, and what is done stays done."""

from __future__ import annotations

import copy
import errno
import os
import shutil
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from talkhead.data.manifest import Entry, json_lines
from talkhead.data.record import recorded_work
from talkhead.data.workers import Mapper, map_sources
from talkhead.devices import chosen_device
from talkhead.media.files import (
    check_writable,
    is_temporary,
    picture_number,
    refuse_url,
    row_number,
    sweep,
    write_whole,
)
from talkhead.media.read import MediaWarning, probe
from talkhead.one_line import one_line
from talkhead.scale.jobs import KINDS, RESULTS, VideoJob, absolute, as_said, read_jobs, why
from talkhead.scale.results import (
    earlier_videos,
    failed_line,
    is_as_written,
    job_key,
    job_line,
    output_checksum,
    speaker_checksum,
)
from talkhead.scale.shared_calls import SharedRenderer, caught_by_thread, take_turns

_SPEAKERS = 4  # pipelines that a worker keeps in memory
_AT_ONCE = 8  # jobs that a graphics card works on side by side
_ALIKE = ("speaker", "num_inference_steps", "guidance_scale", "start_timestep", "window", "overlap")
"""Options that jobs must have in common for their windows to share a network call."""

Outcome = tuple[str, str, str | None]
"""A job's status, the reason or remarks, and its video's checksum."""


@dataclass(frozen=True)
class Tally:
    """What came of a run.

    Attributes:
        ok: videos that are there.
        passed: how many of them an earlier run had made.
        failed: (line, output or None, reason) of the others; a further run tries them again.
    """

    ok: int
    passed: int
    failed: list[tuple[int, str | None, str]] = field(default_factory=list)

    def __str__(self) -> str:
        """Return one line such as ``45 videos (12 of them made before), 5 failed: see results.jsonl``."""
        before = f" ({self.passed} of them made before)" if self.passed else ""
        return f"{self.ok} videos{before}, {len(self.failed)} failed" + (f": see {RESULTS}" if self.failed else "")


@dataclass(frozen=True)
class _Run:
    """What a worker must know to make videos."""

    folder: Path
    home: Path
    device: str
    compile: bool
    threads: int | None
    speakers: dict[str, str]  # their checksums


def generate_jobs(
    jobs: str | Path,
    output: str | Path,
    *,
    speaker: str = "bundled",
    device: str = "auto",
    compile: bool = False,
    workers: int = 1,
    at_once: int | None = None,
    isolate: bool = False,
    engine: Mapper = map_sources,
    progress: bool = True,
    **options: Any,
) -> Tally:
    """Make a video of each line of a file; go on where an earlier run stopped.

    ``results.jsonl`` in ``output`` gets a line as each job ends: its output, whether it is ok, the reason if not. A job
    whose files, options and speaker are unchanged, and whose video is there as it was written, is passed over, also by
    a run after one in which it failed: its line keeps what is known of the video. When all is done, the lines stand in
    the order of the jobs, and are, byte for byte, those of a run that was never stopped. A video whose job has gone
    from the file stays, with its line (``line`` is null).

    Args:
        jobs: see `read_jobs`.
        output: the folder of the videos; made where it is missing.
        speaker: of the lines that name no other, see `TalkingHeadPipeline.from_pretrained`.
        device: where every worker's networks go.
        compile: see `TalkingHeadPipeline.from_pretrained`.
        workers: processes; each loads the networks once. With more than one, a script must start from
            ``if __name__ == "__main__"``.
        at_once: jobs that a worker does side by side, so that their windows share network calls: where videos are
            short, one alone does not fill a card. None: 8 on a GPU, else 1. With more than one, a video's rounding
            depends on the jobs beside it, and a run that was stopped need not end with the bytes of one that was not.
        isolate: work in a process of its own even with one worker, so that a crash in a codec costs one video, and not
            the run.
        engine: what spreads the jobs, see `talkhead.scale.ray_engine`.
        progress: show a bar on stderr, with the time that is left.
        options: of `TalkingHeadPipeline.generate_file`, for the lines that do not say otherwise, such as a line can
            say; files as seen from here.

    Returns:
        How many videos there are, and what failed and why.

    Raises:
        FileNotFoundError, ValueError: if there is no such file of jobs or no such speaker, an option is none that many
            videos can share, ``workers`` is below 1, or ``output`` is a URL.
        OSError: if ``output`` cannot be written, or its disk is full.
        KeyboardInterrupt: passed on; what is done stays done.
    """
    import torch

    if workers < 1:
        raise ValueError(f"workers must be at least 1; got {workers}")
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once must be at least 1, or None; got {at_once}")
    refuse_url("output", output)
    folder, path = Path(output).absolute(), Path(jobs)
    common = {name: value for name, value in options.items() if value is not None}
    if strange := [name for name in common if name not in KINDS]:
        raise ValueError(f"{strange[0]} is no option that many videos can share; leave it out")
    asked = read_jobs(path, {"speaker": speaker, **absolute(as_said(common), Path.cwd())})
    folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder / RESULTS)
    threads = max(torch.get_num_threads() // workers, 1) if isolate or workers > 1 else None
    if engine is not map_sources:
        threads = 1  # its tasks ask for a core each, whatever a node's environment says
    speakers = _speakers_of(asked, speaker)
    run = _Run(folder, path.parent.absolute(), device, compile, threads, speakers)
    keys = {job.line: job_key(job, speakers) for job in asked if not job.fault}
    asked = _unread(asked, folder)
    kept, todo, earlier = _resume(folder, asked, keys)
    together = at_once or (_AT_ONCE if _on_cards(engine, device) else 1)
    processes = 0 if isolate and workers == 1 else workers
    made = _work(run, todo, keys, earlier, len(asked), engine, processes, together, progress)
    entries = sorted(kept + made, key=lambda e: (e["line"] is None, e["line"] or 0, e["output"] or ""))
    write_whole(folder / RESULTS, json_lines(entries))
    own = [entry for entry in entries if entry["line"] is not None]
    failed = [(e["line"], e["output"], e["reason"]) for e in own if e["status"] != "ok"]
    passed = sum(entry["line"] is not None and entry["status"] == "ok" for entry in kept)
    tally = Tally(len(own) - len(failed), passed, failed)
    if progress:
        print(tally)
    return tally


def _on_cards(engine: Mapper, device: str) -> bool:
    """Tell whether the workers have graphics cards."""
    share = getattr(engine, "gpus_per_worker", None)
    return chosen_device(device).type == "cuda" if share is None else share > 0


def _speakers_of(jobs: list[VideoJob], common: str) -> dict[str, str]:
    """Return the checksum of each speaker that the jobs name; what is none is left out, unless it is ``common``."""
    found = {}
    for name in dict.fromkeys(job.options["speaker"] for job in jobs if not job.fault):
        try:
            found[name] = speaker_checksum(name)
        except (OSError, RuntimeError, ValueError):
            if name == common:  # nothing would come of most lines: one error now
                raise
    return found


def _unread(jobs: list[VideoJob], folder: Path) -> list[VideoJob]:
    """Refuse the jobs whose video would be written over a file that a job reads, or can have no such name."""
    readers: dict[Path, dict[str, int]] = {}  # by folder and name, of a link and of the file that it stands for
    for job in jobs:
        for file in map(Path, job.reads):
            for place in (file.parent.resolve() / file.name, file.resolve()):
                readers.setdefault(place.parent, {}).setdefault(place.name, job.line)

    def checked(job: VideoJob) -> VideoJob:
        fault = "" if job.fault else _fault(job.output, folder / str(job.output), readers)
        return replace(job, fault=f"line {job.line}: key 'output' names {fault}") if fault else job

    return [checked(job) for job in jobs]


def _fault(output: str | None, target: Path, readers: dict[Path, dict[str, int]]) -> str:
    """Return why nothing can be written at ``target``, or an empty text."""
    try:
        reader = _reader(target, readers)
    except (OSError, RuntimeError) as error:  # too long a name, a closed folder; a loop of links
        return f"what cannot be written ({why(error)}); give another name"
    return f"{output!r}, which line {reader} reads; give another name" if reader else ""


def _reader(target: Path, readers: dict[Path, dict[str, int]]) -> int | None:
    """Return a line that reads the file at ``target``, or one of the pictures that it stands for."""
    if target.exists():
        target = target.resolve()
        return readers.get(target.parent, {}).get(target.name)
    others = readers.get(target.parent.resolve(), {}) if picture_number(target) else {}
    return next((line for name, line in others.items() if row_number(target, name)), None)


def _resume(
    folder: Path, jobs: list[VideoJob], keys: dict[int, str | None]
) -> tuple[list[Entry], list[VideoJob], dict[int, Entry]]:
    """Return the lines that stand, the jobs still to do, and the lines of their earlier videos that lie there.

    Leaves clean results and no scraps.
    """
    for place in {folder, *((folder / job.output).parent for job in jobs if job.output and not job.fault)}:
        sweep(place)
        for scrap in place.glob(".frames.*"):  # of rows of pictures
            if is_temporary(scrap.name):
                shutil.rmtree(scrap, ignore_errors=True)
    before = earlier_videos(folder)
    kept: list[Entry] = []
    todo: list[VideoJob] = []
    earlier: dict[int, Entry] = {}
    for job in jobs:
        if job.fault:
            kept.append(job_line(job, None, "failed", job.fault))
            continue
        entry = before.pop(str(job.output), None)
        there = entry is not None and is_as_written(entry, folder)
        if entry is not None and there and keys[job.line] is not None and entry["key"] == keys[job.line]:
            kept.append(entry | {"line": job.line, "job": job.said})
            continue
        todo.append(job)
        if entry is not None and there:
            earlier[job.line] = entry
    kept += [entry | {"line": None} for output, entry in before.items() if output_checksum(folder / output)]
    # A run that is stopped before a job's turn must not forget its video either.
    said = "not tried by a run that was stopped"
    waiting = [failed_line(job, None, said, earlier[job.line]) for job in todo if job.line in earlier]
    write_whole(folder / RESULTS, json_lines(kept + waiting))
    return kept, todo, earlier


def _work(
    run: _Run,
    todo: list[VideoJob],
    keys: dict[int, str | None],
    earlier: dict[int, Entry],
    total: int,
    engine: Mapper,
    workers: int,
    together: int,
    show: bool,
) -> list[Entry]:
    """Make the videos that are to be made, and append each one's line as it ends."""
    weights = {job.line: _seconds(job) for job in todo}
    results, note = _made(engine, _groups(todo, weights, together), run, workers), getattr(engine, "note", str)
    passed, weight = total - len(todo), sum(weights.values()) or 1
    lines = run.folder / RESULTS
    with recorded_work(lines, "generate", "videos", total, passed, show, weight) as record, closing(results):
        for job, result in results:
            status, reason, sha256 = ("failed", result, None) if isinstance(result, str) else result
            entry = job_line(job, keys[job.line], status, reason, sha256)
            if status != "ok":
                entry = failed_line(job, keys[job.line], reason, earlier.get(job.line))
            record.add([(f"{job.output} (line {job.line})", entry)], weights[job.line], note())
    return record.entries


def _seconds(job: VideoJob) -> float:
    """Return how long a video will be, as its sound's header says; 1 where it does not."""
    try:
        return probe(job.options["audio"]).duration or 1.0
    except Exception:  # whatever is wrong with it is said when its turn comes
        return 1.0


def _groups(todo: list[VideoJob], weights: dict[int, float], together: int) -> list[tuple[VideoJob, ...]]:
    """Return the jobs by those that are done side by side: alike in what a network call has once, and in length."""
    if together == 1:
        return [(job,) for job in todo]
    kinds: dict[str, list[VideoJob]] = {}
    for job in todo:
        kinds.setdefault(repr([job.options.get(name) for name in _ALIKE]), []).append(job)
    alike = [sorted(jobs, key=lambda job: weights[job.line]) for jobs in kinds.values()]
    return [tuple(jobs[n : n + together]) for jobs in alike for n in range(0, len(jobs), together)]


def _made(
    engine: Mapper, groups: list[tuple[VideoJob, ...]], run: _Run, workers: int
) -> Generator[tuple[VideoJob, Outcome | str], None, None]:
    """Yield each job with what came of it; of several that their worker died of, each is tried again alone."""
    again: list[tuple[VideoJob, ...]] = []
    with closing(engine(make_videos, groups, run, workers)) as results:
        for group, result in results:
            if isinstance(result, str) and len(group) > 1:
                again += [(job,) for job in group]
            elif isinstance(result, str):
                yield group[0], result
            else:
                yield from zip(group, result, strict=True)
    if again:
        yield from _made(engine, again, run, workers)


def make_videos(jobs: tuple[VideoJob, ...], run: _Run, stopped: Callable[[], bool]) -> list[Outcome]:
    """Make videos side by side, or one; return what came of each. What is wrong becomes a reason."""
    with caught_by_thread() as caught:
        warnings.simplefilter("always", MediaWarning)

        def task(job: VideoJob) -> Callable[[Any], Outcome]:
            return lambda ask: _make_video(job, run, stopped, caught[threading.current_thread()], ask)

        if len(jobs) == 1:
            return [task(jobs[0])(None)]
        return take_turns([task(job) for job in jobs])


def _make_video(
    job: VideoJob, run: _Run, stopped: Callable[[], bool], caught: list[Warning], ask: Callable[[Any], Any] | None
) -> Outcome:
    import torch

    if run.threads is not None:
        torch.set_num_threads(run.threads)
    options = dict(job.options)
    target = run.folder / str(job.output)

    def count(done: int, total: int) -> None:
        if stopped():
            raise KeyboardInterrupt

    try:
        _make_place(target, run.folder)
        if options.get("reference_landmarks") is not None:
            options["reference_landmarks"] = torch.tensor(options["reference_landmarks"], dtype=torch.float32)
        pipeline = _loaded(options.pop("speaker"), run)
        if ask is not None:
            pipeline = copy.copy(pipeline)
            pipeline.renderer = SharedRenderer(pipeline.renderer, ask)
            if pipeline.fine_renderer is not None:
                pipeline.fine_renderer = SharedRenderer(pipeline.fine_renderer, ask)
        pipeline.generate_file(options.pop("image"), options.pop("audio", None), target, progress=count, **options)
    except Exception as error:
        code = getattr(error, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise OSError(f"output: cannot write {str(target)!r} ({os.strerror(code)}); make room") from error
        return "failed", _said(run, error), None
    remarks = dict.fromkeys(_said(run, warning) for warning in caught if isinstance(warning, MediaWarning))
    return "ok", "; ".join(remarks), output_checksum(target)


def _make_place(target: Path, folder: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise ValueError("output: a link leads out of the output folder; give another name")


_pipelines: OrderedDict[tuple[str, str | None, str, bool], Any] = OrderedDict()


def _loaded(speaker: str, run: _Run) -> Any:
    """Return this process's pipeline of a speaker, loaded once; those not used for long go."""
    from talkhead.pipeline import TalkingHeadPipeline

    # All speakers without a checksum have the same one, None: the name alone tells them apart.
    key = (speaker, run.speakers.get(speaker), run.device, run.compile)
    if key not in _pipelines:
        while len(_pipelines) >= _SPEAKERS:
            _pipelines.popitem(last=False)
        _pipelines[key] = TalkingHeadPipeline.from_pretrained(speaker, device=run.device, compile=run.compile)
    _pipelines.move_to_end(key)
    return _pipelines[key]


def _said(run: _Run, error: Any) -> str:
    """Return a message on one line, with files named as the jobs name them."""
    text = one_line(error)
    for folder in (run.folder, run.home):
        text = text.replace(f"{folder}{os.sep}", "")
    return text
