"""``evaluate``: a model on held-out clips, beside what costs nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from talkhead.data.datamodule import MEADDataModule
from talkhead.evaluate.bench import Bench, Part, make_bench, measure_each, window_options, write_strip
from talkhead.evaluate.motions import mean_motion
from talkhead.evaluate.report import ClipLog, Report, Scores, Table, average, named
from talkhead.evaluate.rows import (
    LANDMARK_COLUMNS,
    PICTURE_COLUMNS,
    REPEATED,
    TRUE_LANDMARKS,
    WARPED,
    ClipScorer,
)
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.tracking.track import LandmarkDetector

LOST = "left out of the mean motion"
"""A line of the protocol, and in the log, where no clip has a name with spaces, of the training clips and why."""
SHOWN = "shown in strip.png"
"""A line of the log, see ``strip_of``."""
STRIP = ("truth", TRUE_LANDMARKS, WARPED, REPEATED)


def evaluate(
    model: str | Path | TalkingHeadPipeline,
    root: str | Path | MEADDataModule,
    output: str | Path,
    *,
    part: Part = "test",
    detector: str | LandmarkDetector | None = "dlib",
    num_inference_steps: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    num_frames: int | None = None,
    device: str = "auto",
    verbose: bool = True,
    **options: Any,
) -> Report:
    """Measure a model on the clips of a cache.

    Writes ``evaluation.json``, ``evaluation.md``, ``strip.png`` and ``clips.jsonl``, from which a broken run goes on.
    A clip that cannot be measured is named and counted, and left out of the means.

    Args:
        model: a pipeline, its folder, or ``"bundled"``. A pipeline's ``landmark_net`` and ``emotion_net`` may be None.
        root: a cache, split as ``MEADDataModule`` does by default; or a data module with another split.
        output: folder for the results, made where it is missing.
        part: which part of the split; ``"all"``: every clip.
        detector: finds the landmarks again on painted frames: a name for ``load_detector``, a detector, or None to
            leave those columns empty (much faster).
        num_inference_steps: network evaluations per frame; None: the pipeline's.
        seed: of the mask noise.
        limit: take only the first clips, in order of name.
        num_frames: take only each clip's first frames, the reference included.
        device: where the networks go, if ``model`` has to be loaded; "auto": the GPU where there is one.
        verbose: show a progress bar and the tables.
        **options: window, overlap and start_timestep of ``render_windows``.

    Returns:
        The tables (``"pictures"``, ``"landmarks"``; where the clips are of people in and not in the training part
        also each with ``_seen`` and ``_unseen``), the protocol, each clip's scores, and why clips have none.

    Raises:
        FileNotFoundError: if the model or the cache does not exist.
        ValueError: if an argument is out of range, no clip can be measured, or frames are not of the renderer's size.
        OSError: if the output cannot be written.
    """
    bench = make_bench(
        model, root, output, part=part, limit=limit, num_frames=num_frames, detector=detector, device=device
    )
    own = bench.pipeline.info["num_inference_steps"]
    steps = own if num_inference_steps is None else num_inference_steps
    options = {"num_inference_steps": steps, "seed": seed, **options}
    report = make_report(bench, window_options(bench.pipeline, options), verbose)
    report.save(bench.folder, "evaluation")
    if verbose:
        report.print()
    return report


def make_report(bench: Bench, options: dict[str, Any], verbose: bool) -> Report:
    """Score the clips that the log does not hold yet, and average them all."""
    log = ClipLog(bench.folder / "clips.jsonl", {**bench.settings(), **options})
    strip = bench.folder / "strip.png"
    measured: list[str] = []

    def show(rows: dict[str, Tensor]) -> None:
        if not measured:  # the strip is of the first clip that can be measured
            write_strip(strip, [rows[row] for row in STRIP])

    def measure(name: str) -> dict[str, Scores]:
        anew = not measured and log.done.get(SHOWN) != strip_of(name, strip)
        if anew:
            log.done.pop(name, None)
        scores: dict[str, Scores] = log.get(name, lambda: scorer(bench.truth(name)))
        if anew:
            log.done.pop(SHOWN, None)
            log.get(SHOWN, lambda: strip_of(name, strip))
        measured.append(name)
        return scores

    mean = lost = None
    stale = log.done.get(SHOWN) != strip_of(bench.names[0], strip)
    if set(bench.names) - log.done.keys() or log.done.get(LOST) or stale:
        mean, lost = mean_of_training(bench, log)
    scorer = ClipScorer(bench.pipeline, bench.detector, options, mean, show)
    clips, failed = measure_each(bench.names, "evaluating", verbose, measure)
    shown = {"strip.png": f"{measured[0]}, from top to bottom: {'; '.join(STRIP)}"}
    if lost:
        shown[LOST] = f"{len(lost)} of {len(bench.train_names())} training clips: {named(lost, log.path.name)}"
    return Report(make_tables(bench, clips), bench.protocol(options) | shown, clips, failed)


def strip_of(name: str, strip: Path) -> list[str]:
    """Return whose strip it is, and its bytes' digest: a run with other settings may have written it anew."""
    return [name, hashlib.sha256(strip.read_bytes()).hexdigest()[:16] if strip.is_file() else ""]


def mean_of_training(bench: Bench, log: ClipLog) -> tuple[tuple[Tensor, Tensor] | None, dict[str, str]]:
    """Return the training clips' mean motion, and name -> why of those left out of it.

    Where these are others than those that the log holds, its scores were made with another mean, and are forgotten.
    """
    lost: dict[str, str] = {}
    mean = mean_motion(bench.train_clips(lost))
    if lost.keys() != log.done.get(LOST, {}).keys():
        log.done.clear()
        log.get(LOST, lambda: lost)
    return mean, lost


def make_tables(bench: Bench, clips: Mapping[str, Mapping[str, Scores]]) -> dict[str, Table]:
    """Average the clips' scores, over all of them and by acquaintance; a title counts those that are missing."""
    tables = {}
    for group, names in {"": bench.names, **by_acquaintance(bench)}.items():
        measured = [clips[name] for name in names if name in clips]
        said = f", {group} people" if group else ""
        if len(measured) < len(names):
            said += f" ({len(measured)} of {len(names)} clips)"
        elif group:
            said += f" ({len(names)} clips)"
        for key, title, columns in (
            ("pictures", "Pictures", PICTURE_COLUMNS),
            ("landmarks", "Landmarks", LANDMARK_COLUMNS),
        ):
            rows = average([scores[key] for scores in measured])
            tables[f"{key}_{group}" if group else key] = Table(f"{title}{said}", columns, rows)
    return tables


def by_acquaintance(bench: Bench) -> dict[str, list[str]]:
    """Return the clips of people of the training part, and of people of whom it has none; empty unless there are both.

    Whether the model was trained on that part is not known here: it was, where it was given the same split.
    """
    known = {bench.data.entries[name]["identity"] for name in bench.data.names("train")}
    groups: dict[str, list[str]] = {"seen": [], "unseen": []}
    for name in bench.names:
        groups["seen" if bench.data.entries[name]["identity"] in known else "unseen"].append(name)
    return groups if all(groups.values()) else {}
