"""``ablate``: the paper's Table 2, in both readings of its "timesteps"."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from talkhead.data.clip import emotion_probabilities
from talkhead.data.datamodule import MEADDataModule
from talkhead.evaluate.bench import Bench, Part, make_bench, measure_each, window_options
from talkhead.evaluate.report import ClipLog, Report, Scores, Table, average
from talkhead.evaluate.rows import (
    PICTURE_COLUMNS,
    REPEATED,
    WARPED,
    Model,
    Painting,
    Truth,
    detect,
    paint_model,
    paint_repeated,
    paint_warped,
    score_pictures,
)
from talkhead.media.files import write_whole
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.schedulers import PaperProcess, Scheduler, Spacing
from talkhead.tracking.track import LandmarkDetector

Noise = Literal["ancestral", "deterministic"]

PAPER_STEPS = (100, 200, 300, 400, 500, 1000)
PAPER_PSNR = (19.27, 21.13, 24.69, 20.26, 17.12, 12.62)
PAPER_SSIM = (0.728, 0.8023, 0.854, 0.817, 0.748, 0.061)

READINGS = {
    "start at t": "the carrier with the share of mask noise that step t has, then every step down to 0",
    "t steps": "from the noise end, t steps spread over all of them (`leading`: the last ones are left out)",
    "ancestral": "each step adds fresh Gaussian noise, as DDPM does",
    "deterministic": "each step keeps the noise that is there (DDIM, eta = 0); nothing is added",
    "paper": "Table 2 of the paper, on MEAD M030: other data, to compare the course and not the values",
}


@dataclass(frozen=True)
class Setting:
    """One point of the sweep: a row of the table.

    Attributes:
        reading: ``"start at t"`` or ``"t steps"``.
        t: the paper's number.
        steps: network evaluations.
        spacing: of the steps; "even" for a process that knows no other.
        noise: ``"ancestral"`` or ``"deterministic"``.
    """

    reading: str
    t: int
    steps: int
    spacing: str
    noise: str

    @property
    def curve(self) -> str:
        """The line of the plot that the point belongs to."""
        return ", ".join([self.reading, *([self.spacing] if self.reading == "t steps" else []), self.noise])

    @property
    def row(self) -> str:
        """The row's name in the table."""
        return f"{self.curve}, t = {self.t}"


def ablate(
    model: str | Path | TalkingHeadPipeline,
    root: str | Path | MEADDataModule,
    output: str | Path,
    *,
    start_timesteps: Sequence[int] | None = None,
    num_inference_steps: Sequence[int] | None = None,
    spacings: Sequence[Spacing] = ("leading", "trailing"),
    noises: Sequence[Noise] = ("ancestral", "deterministic"),
    part: Part = "test",
    detector: str | LandmarkDetector | None = "dlib",
    seed: int = 0,
    limit: int | None = 4,
    num_frames: int | None = 17,
    device: str = "auto",
    verbose: bool = True,
) -> Report:
    """Sweep both readings of the paper's timesteps with ground-truth landmarks: the counterpart of its Table 2.

    Writes ``ablation.json``, ``ablation.md``, ``ablation.png`` and ``ablation.jsonl``, from which a broken run goes on.

    Args:
        model: a pipeline, its folder, or ``"bundled"``; trained with diffusers' ``DDPMScheduler`` (``paper/video``) or
            with ``MaskNoiseBridgeScheduler``, which knows neither spacing nor ancestral noise.
        root: see ``evaluate``; so are output, part, detector, device and verbose.
        output: see above.
        start_timesteps: t of "start at t": t network calls. None: the paper's, or for the bridge none.
        num_inference_steps: t of "t steps". None: the paper's, or for the bridge 1, 2, 4, 8, 20.
        spacings: of "t steps".
        noises: with the noise that DDPM adds, and without.
        part: see above.
        detector: see above.
        seed: of all noise.
        limit: take only the first clips.
        num_frames: take only each clip's first frames, the reference included.
        device: see above.
        verbose: see above.

    Returns:
        The table (``"ablation"``), the protocol, and each clip's scores.

    Raises:
        ImportError: if matplotlib is not installed.
        FileNotFoundError, ValueError, OSError: as ``evaluate``.
    """
    _require_matplotlib()
    bench = make_bench(
        model, root, output, part=part, limit=limit, num_frames=num_frames, detector=detector, device=device
    )
    settings = list(make_settings(bench.pipeline.scheduler, start_timesteps, num_inference_steps, spacings, noises))
    report = make_report(bench, settings, seed, verbose)
    report.save(bench.folder, "ablation")
    figure = draw(report.tables["ablation"].rows, settings)
    write_whole(bench.folder / "ablation.png", lambda file: figure.savefig(file, format="png", dpi=120))
    if verbose:
        report.print()
    return report


def make_settings(
    scheduler: Scheduler,
    start_timesteps: Sequence[int] | None,
    num_inference_steps: Sequence[int] | None,
    spacings: Sequence[Spacing],
    noises: Sequence[Noise],
) -> Iterator[Setting]:
    """Yield the points of the sweep that the model's process can take."""
    paper, last = isinstance(scheduler, DDPMScheduler), scheduler.config.num_train_timesteps
    starts = (PAPER_STEPS if paper else ()) if start_timesteps is None else start_timesteps
    counts = (PAPER_STEPS if paper else (1, 2, 4, 8, 20)) if num_inference_steps is None else num_inference_steps
    for argument, chosen, known in (("spacings", spacings, get_args(Spacing)), ("noises", noises, get_args(Noise))):
        if isinstance(chosen, str) or not set(chosen) <= set(known):
            raise ValueError(f"{argument} must be some of {', '.join(known)}, in a list; got {chosen!r}")
    for argument, given in (("start_timesteps", starts), ("num_inference_steps", counts)):
        if wrong := [t for t in given if not 1 <= t <= last]:
            raise ValueError(f"{argument} must lie in 1..{last}; got {wrong[0]}")
    for noise in noises if paper else ("deterministic",):
        yield from (Setting("start at t", t, t, "every step", noise) for t in starts)
        for spacing in spacings if paper else ("even",):
            yield from (Setting("t steps", t, t, spacing, noise) for t in counts)


def make_process(scheduler: Scheduler, setting: Setting) -> Scheduler:
    """Return the model's scheduler as the setting wants it."""
    if not isinstance(scheduler, DDPMScheduler):
        return scheduler
    spacing = setting.spacing if setting.reading == "t steps" else "trailing"
    process = PaperProcess.from_config(scheduler.config, timestep_spacing=spacing)
    process.ancestral = setting.noise == "ancestral"
    return process


def make_report(bench: Bench, settings: Sequence[Setting], seed: int, verbose: bool) -> Report:
    """Score every clip in every setting that the log does not hold yet, and average."""
    options = window_options(bench.pipeline, {"seed": seed})
    log = ClipLog(bench.folder / "ablation.jsonl", {**bench.settings(), **options})

    def measure(name: str) -> Scores:
        truth, scores = bench.truth(name), {}
        for row, paint in ((REPEATED, paint_repeated), (WARPED, paint_warped)):
            scores[row] = log.get(f"{name}: {row}", partial(score, paint, truth, bench.detector))
        for setting in settings:
            paint = partial(paint_setting, bench, setting, options)
            scores[setting.row] = log.get(f"{name}: {asdict(setting)}", partial(score, paint, truth, bench.detector))
        return scores

    clips, failed = measure_each(bench.names, "ablating", verbose, measure)
    columns = {
        key: PICTURE_COLUMNS[key] for key in ("psnr", "ssim", "mouth_psnr", "m_ld", "f_ld", "detected", "calls", "fps")
    }
    said = f" ({len(clips)} of {len(bench.names)} clips)" if failed else ""
    table = Table(f"Table 2's counterpart{said}", columns, average(list(clips.values())))
    return Report({"ablation": table}, bench.protocol(options) | READINGS, clips, failed)


def paint_setting(bench: Bench, setting: Setting, options: dict[str, Any], truth: Truth) -> Painting:
    """Paint one clip with its true landmarks and label in one setting."""
    start = setting.t - 1 if setting.reading == "start at t" else None
    model = Model(bench.pipeline.renderer, make_process(bench.pipeline.scheduler, setting))
    label = emotion_probabilities(truth.clip.emotion)
    options = {**options, "num_inference_steps": setting.steps, "start_timestep": start}
    return paint_model(model, truth, truth.landmarks, label, options)


def score(paint: Callable[[Truth], Painting], truth: Truth, detector: LandmarkDetector | None) -> dict[str, float]:
    """Paint a clip and score it as ``evaluate`` does."""
    painting = paint(truth)
    detected = None if detector is None else detect(painting.frames, detector)
    return score_pictures(painting.frames, truth, detected, painting.calls, painting.seconds)


def draw(rows: Scores, settings: Sequence[Setting]) -> Any:
    """Plot PSNR and SSIM against t: a line for each curve, the paper's, and the do-nothing rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, 2)
    paper = {"psnr": PAPER_PSNR, "ssim": PAPER_SSIM}
    few = min((setting.t for setting in settings), default=1) < PAPER_STEPS[0]  # beside the paper's hundreds
    for axes, (key, title) in zip(panels, (("psnr", "PSNR (dB)"), ("ssim", "SSIM")), strict=True):
        for curve in dict.fromkeys(setting.curve for setting in settings):
            points = sorted((s.t, rows[s.row][key]) for s in settings if s.curve == curve)
            axes.plot(*zip(*points, strict=True), marker="o", label=curve)
        for name, style in ((REPEATED, ":"), (WARPED, "--")):
            axes.axhline(rows[name][key], color="grey", linestyle=style, label=name)
        axes.plot(PAPER_STEPS, paper[key], color="black", marker="x", linewidth=0.8, label="paper, Table 2 (MEAD M030)")
        axes.set(title=title, xlabel="t", xscale="log" if few else "linear")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return figure


def _require_matplotlib() -> None:
    """Fail before the work rather than after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "ablate draws its plot with matplotlib, which is not installed: pip install matplotlib"
        ) from error
