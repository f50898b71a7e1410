"""``evaluate``: a model on held-out clips, beside what costs nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from talkhead.data.datamodule import MEADDataModule
from talkhead.evaluate.bench import Bench, Part, make_bench, tracked, window_options, write_strip
from talkhead.evaluate.motions import mean_motion
from talkhead.evaluate.report import ClipLog, Report, Scores, Table, average
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
        also each with ``_seen`` and ``_unseen``), the protocol, and each clip's scores.

    Raises:
        FileNotFoundError: if the model or the cache does not exist.
        ValueError: if an argument is out of range, there is no clip, or its frames are not of the renderer's size.
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
    if not strip.is_file() or bench.names[0] not in log.done:
        strip.unlink(missing_ok=True)
        log.done.pop(bench.names[0], None)

    def show(rows: dict[str, Tensor]) -> None:
        if not strip.is_file():  # of the first clip
            write_strip(strip, [rows[row] for row in STRIP])

    mean = mean_motion(bench.train_clips()) if set(bench.names) - set(log.done) else None
    scorer = ClipScorer(bench.pipeline, bench.detector, options, mean, show)
    clips: dict[str, dict[str, Scores]] = {}
    for name in tracked(bench.names, "evaluating", verbose):
        clips[name] = log.get(name, partial(_score, bench, scorer, name))
    tables = {}
    for group, names in {"": list(clips), **by_acquaintance(bench)}.items():
        said = f", {group} people ({len(names)} clips)" if group else ""
        for key, title, columns in (
            ("pictures", "Pictures", PICTURE_COLUMNS),
            ("landmarks", "Landmarks", LANDMARK_COLUMNS),
        ):
            rows = average([clips[name][key] for name in names])
            tables[f"{key}_{group}" if group else key] = Table(f"{title}{said}", columns, rows)
    shown = {"strip.png": f"{bench.names[0]}, from top to bottom: {'; '.join(STRIP)}"}
    return Report(tables, bench.protocol(options) | shown, clips)


def by_acquaintance(bench: Bench) -> dict[str, list[str]]:
    """Return the clips of people of the training part, and of people of whom it has none; empty unless there are both.

    Whether the model was trained on that part is not known here: it was, where it was given the same split.
    """
    known = {bench.data.entries[name]["identity"] for name in bench.data.names("train")}
    groups: dict[str, list[str]] = {"seen": [], "unseen": []}
    for name in bench.names:
        groups["seen" if bench.data.entries[name]["identity"] in known else "unseen"].append(name)
    return groups if all(groups.values()) else {}


def _score(bench: Bench, scorer: ClipScorer, name: str) -> dict[str, Scores]:
    return scorer(bench.clip(name))
