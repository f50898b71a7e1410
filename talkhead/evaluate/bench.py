"""What a measurement runs on: a model, the clips, a folder for the results, and what must be said about them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from talkhead.data.clip import SAMPLE_RATE, Clip
from talkhead.data.datamodule import MEADDataModule
from talkhead.data.dataset import ClipDataset
from talkhead.data.manifest import legible
from talkhead.evaluate.report import environment, fingerprint, results_folder
from talkhead.evaluate.rows import Truth, make_truth
from talkhead.media.read import write_image
from talkhead.one_line import one_line
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.tracking.track import LandmarkDetector, load_detector

Part = Literal["train", "val", "test", "all"]
T = TypeVar("T")

DEFINITIONS = {
    "frames": "each clip's first frame with a face is the reference and does not count, all frames after it do; a "
    "value is the mean over a clip's frames, then over clips (of the best lag: the median)",
    "PSNR, SSIM": "of the painted crop, RGB, data range 255, per frame (at most 100 dB); SSIM Gaussian 11x11, sigma "
    "1.5, windows inside the picture only; mouth PSNR: in the box of the clip's true mouth points "
    "plus a quarter of its width",
    "M-LD, F-LD": "mean Euclidean distance of landmarks in px of a 256-px frame, points 48-67 and all 68; centred: "
    "each frame's mean over the 68 points removed; velocity: the same of frame t+1 minus frame t, all points",
    "pictures' landmarks": "found by one detector on painted and true frames, each frame by itself; the noise floor "
    "compares those found on the true frames with the cache's",
    "opening correlation": "Pearson, of the inner lips' mean distance with the truth's over a clip; best lag in "
    "frames, positive when late; variance ratio: predicted over true; audio correlation: with the sound's envelope",
    "sharpness": "variance of the Laplacian over that of the true frames; seam: frame-to-frame difference at the "
    "borders of the painted windows over that elsewhere",
}


class UnmeasurableClip(ValueError):
    """A clip in which there is nothing to measure; the others can be."""


@dataclass(frozen=True)
class Bench:
    """One measurement's subject and place.

    Attributes:
        pipeline: the model.
        data: the cache and its split.
        names: the clips, in order.
        part: which part of the split they are.
        folder: where the results go.
        num_frames: of each clip; None: all.
        detector: finds landmarks on painted frames; None: it is not done.
        label: what the model was called.
    """

    pipeline: TalkingHeadPipeline
    data: MEADDataModule
    names: list[str]
    part: Part
    folder: Path
    num_frames: int | None
    detector: LandmarkDetector | None
    label: str

    def truth(self, name: str) -> Truth:
        """Read one clip, cut to ``num_frames``, and find the faces on it.

        Raises:
            UnmeasurableClip: if its file is damaged, or it has too few frames with a face.
        """
        try:
            return make_truth(read_clip(self.data.root, name, self.num_frames), self.detector)
        except (ValueError, OSError) as error:
            raise UnmeasurableClip(reason_of(error)) from error

    def train_names(self) -> list[str]:
        """Return the training part's clips; none where it is measured itself."""
        return _moving(self.data, "train") if self.part in ("val", "test") else []

    def train_clips(self, lost: dict[str, str]) -> Iterator[Clip]:
        """Read the training part without its pictures; ``lost`` gets those that cannot be read, and why."""
        names = self.train_names()
        dataset = ClipDataset(self.data.root, names, modality="landmarks", reference="first")
        for index, name in enumerate(names):
            try:
                yield dataset[index]
            except (ValueError, OSError) as error:
                lost[name] = reason_of(error)

    def settings(self) -> dict[str, Any]:
        """Return everything that the scores of a clip depend on."""
        model = self.pipeline
        manifest = Path(self.data.root, "manifest.jsonl").read_bytes()
        return {
            "weights": fingerprint(model.renderer, model.landmark_net, model.emotion_net),
            "renderer": _options(model.renderer),
            "scheduler": _options(model.scheduler),
            # What a net has learnt, and so what it is told, stands in its options and in no weight.
            "landmark_net": _options(model.landmark_net),
            "emotion_net": _options(model.emotion_net),
            "manifest": hashlib.sha256(manifest).hexdigest(),
            "train": self.data.names("train"),
            "mean motion": bool(self.train_names()),
            "num_frames": self.num_frames,
            "detector": getattr(self.detector, "name", None),
        }

    def protocol(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Return what is printed with the tables."""
        size, hyper = self.pipeline.renderer.config.size, dict(self.data.hparams)
        whose = f", people {', '.join(self.data.identities)}" if self.data.identities else ""
        whose += f", unseen: {', '.join(self.data.unseen)}" if self.data.unseen else ""
        cut = "whole" if self.num_frames is None else f"their first {self.num_frames} frames"
        split = f"part {self.part!r} of the split by {hyper['split']}, seed {hyper['split_seed']}, fold {hyper['fold']}"
        share = f"test {hyper['test_fraction']:g}, val {hyper['val_fraction']:g}"
        return {
            "model": f"{self.label}, weights {fingerprint(self.pipeline.renderer, self.pipeline.landmark_net)}",
            "process": f"{type(self.pipeline.scheduler).__name__}, "
            + ", ".join(f"{key} {value}" for key, value in options.items() if value is not None),
            "data": f"{len(self.names)} clips ({cut}), {split} ({share}){whose}, {size} px",
            "detector": getattr(self.detector, "name", "none"),
            **DEFINITIONS,
            **environment(self.pipeline.renderer.device),
        }


def reason_of(error: Exception) -> str:
    """Return what went wrong in one line that can be printed, whatever bytes the file's name has."""
    return legible(one_line(error))


def _options(part: Any) -> dict[str, Any]:
    """Return what a network or scheduler is and was made with, but where it was loaded from; empty of None."""
    if part is None:
        return {}
    return {"class": type(part).__name__} | {k: v for k, v in part.config.items() if not k.startswith("_")}


def read_clip(root: str | Path, name: str, num_frames: int | None) -> Clip:
    """Read a clip with pictures, or its first frames, with the first frame that has landmarks as reference."""
    clip = ClipDataset(root, [name], reference="first")[0]
    if num_frames is None:
        return clip
    assert clip.frames is not None and clip.landmarks is not None
    samples = round(num_frames * SAMPLE_RATE / float(clip.fps))
    frames, landmarks = clip.frames[:num_frames], clip.landmarks[:num_frames]
    return replace(clip, frames=frames, landmarks=landmarks, audio=clip.audio[:samples])


def make_bench(
    model: str | Path | TalkingHeadPipeline,
    root: str | Path | MEADDataModule,
    output: str | Path,
    *,
    part: Part,
    limit: int | None,
    num_frames: int | None,
    detector: str | LandmarkDetector | None,
    device: str,
) -> Bench:
    """Load what is named and check that it fits together; see ``evaluate`` for the arguments."""
    if part not in ("train", "val", "test", "all"):
        raise ValueError(f"part must be train, val, test or all; got {part!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 clip, or None for all; got {limit}")
    if num_frames is not None and num_frames < 3:
        raise ValueError(f"num_frames must be at least 3, the reference and two to score; got {num_frames}")
    data = root if isinstance(root, MEADDataModule) else MEADDataModule(str(root))
    parts: tuple[Any, ...] = ("train", "val", "test") if part == "all" else (part,)
    names = sorted(name for each in parts for name in _moving(data, each))[:limit]
    if not names:
        raise ValueError(
            f"part: {part!r} of {data.root!r} has no clip with moving pictures; choose another part or split"
        )
    pipeline = TalkingHeadPipeline.from_pretrained(model, device) if isinstance(model, str | Path) else model
    size, sizes = pipeline.renderer.config.size, {data.entries[name]["size"] for name in names}
    if sizes != {size}:
        raise ValueError(
            f"root: the clips of {data.root!r} are {sorted(sizes)} px, this renderer paints {size} px: "
            f"preprocess them with size {size}"
        )
    finder = load_detector(detector, device) if isinstance(detector, str) else detector
    label = legible(str(model)) if isinstance(model, str | Path) else type(model).__name__
    return Bench(pipeline, data, names, part, results_folder(output), num_frames, finder, label)


def _moving(data: MEADDataModule, part: Any) -> list[str]:
    """Return the names of a part's clips but still pictures, in which there is nothing to predict."""
    return [name for name in data.names(part) if not data.entries[name].get("stills")]


def window_options(pipeline: TalkingHeadPipeline, options: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the options of ``render_windows`` with the pipeline's own window and overlap."""
    window = options.get("window") or pipeline.info["window"]
    overlap = options.get("overlap")
    overlap = min(pipeline.info["overlap"], window // 2) if overlap is None else overlap
    return {**options, "window": window, "overlap": overlap}


def tracked(names: Sequence[str], what: str, verbose: bool) -> Iterator[str]:
    """Go through the names under a progress bar."""
    from rich.console import Console
    from rich.progress import track

    yield from track(names, what, console=Console(stderr=True), disable=not verbose)


def measure_each(
    names: Sequence[str], what: str, verbose: bool, measure: Callable[[str], T]
) -> tuple[dict[str, T], dict[str, str]]:
    """Measure clips under a progress bar, and go on past those that cannot be.

    Args:
        names: the clips.
        what: what is done, for the bar.
        verbose: show the bar.
        measure: is given a clip's name; raises `UnmeasurableClip`. Any other error is not the clip's, and passes.

    Returns:
        Clip -> what came of it, and clip -> why nothing did.

    Raises:
        ValueError: if nothing came of any clip.
    """
    clips: dict[str, T] = {}
    failed: dict[str, str] = {}
    for name in tracked(names, what, verbose):
        try:
            clips[name] = measure(name)
        except UnmeasurableClip as error:
            failed[name] = str(error)
    if not clips:
        raise ValueError(f"root: none of {len(names)} clips could be measured: {next(iter(failed.values()))}")
    return clips, failed


def write_strip(path: Path, rows: Sequence[Tensor], columns: int = 6) -> None:
    """Write rows of pictures to compare, one video a row, at evenly spaced frames.

    Args:
        path: PNG.
        rows: (T, 3, H, W) uint8 each.
        columns: how many frames of each.
    """
    pick = torch.linspace(0, len(rows[0]) - 1, min(columns, len(rows[0]))).round().long()
    write_image(path, torch.cat([torch.cat(list(row[pick]), dim=2) for row in rows], dim=1))
