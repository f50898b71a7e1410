"""How many hours and gigabytes `examples/reproduce_paper.sh` will take here, before it starts.

    python examples/estimate_reproduction.py ROOT WORK [--identity M030] [--size 128] [--workers 2]

WORK/settings holds the three trainings' configurations, as `talkhead fit --print_config` prints them. The headers of up
to 24 recordings are read for their length; two are preprocessed, and each network is timed on this machine's GPU, or on
its CPU; what that took stands below the table. What is scaled from that is linear: preprocessing in frames, training in
steps, the batch in clips and frames, painting in network calls. It knows nothing of early stopping, or of a machine
that others use as well. The table goes to WORK/estimate.md; exit code 3: the disk is too small.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning import LightningModule

from talkhead.data.datamodule import MEADDataModule
from talkhead.data.index import Source, list_sources
from talkhead.data.preprocess import preprocess
from talkhead.evaluate.ablation import PAPER_STEPS, make_settings
from talkhead.media.read import MediaInfo, probe

MODULES = ("landmark", "emotion", "video")
TRAINABLE = 200_000_000
"""Networks with more weights are timed forward alone, three times which is a step: Adam would need their memory."""


@dataclass(frozen=True)
class Step:
    """One line of the estimate."""

    name: str
    seconds: float
    bytes: float
    how: str


def usable(sources: list[Source], most: int = 24) -> list[tuple[Source, MediaInfo]]:
    """Return up to ``most`` recordings, spread over all, with their headers."""
    found = []
    for source in sources[:: max(1, len(sources) // most)]:
        try:
            found.append((source, probe(source.path)))
        except (ValueError, OSError):
            continue
    return [(source, info) for source, info in found if info.fps and info.duration > 0]


def calibrate_cache(read: list[tuple[Source, MediaInfo]], home: Path, args: argparse.Namespace) -> tuple[float, float]:
    """Preprocess two recordings; return seconds and bytes for each frame. The first one also loads the detector."""
    cache, tried = home / "cache", read[:: max(1, len(read) // 8)]
    spent = 0.0
    for number, (source, _) in enumerate(tried, 1):
        for path, place in ((source.path, "video/front"), (source.audio_path, "audio")):
            if path is not None:
                link = home / "tree" / place / "neutral/level_1" / f"{number:03d}{path.suffix}"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.resolve())
        start = time.perf_counter()
        found = preprocess(
            "mead", home / "tree", cache, size=args.size, detector=args.detector, workers=1, progress=False
        )
        spent = time.perf_counter() - start
        if found.ok > 1:
            break
    entries = MEADDataModule(str(cache), test_fraction=0, val_fraction=0).entries
    sizes = [(cache / "clips" / f"{name}.safetensors").stat().st_size for name in entries]
    last = entries[max(entries)]
    return spent / last["frames"], sum(sizes) / sum(e["frames"] for e in entries.values())


def build(settings: dict[str, Any]) -> LightningModule:
    """Return the module that a configuration describes."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model")
    return parser.instantiate_classes(parser.parse_object({"model": settings["model"]})).model


def time_step(module: LightningModule, settings: dict[str, Any], cache: Path) -> tuple[float, str]:
    """Return the seconds of a training step at the configuration's batch, and how that was found."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data, wanted = settings["data"], settings["data"]["batch_size"] * (settings["data"]["num_frames"] or 75)
    small = {"test_fraction": 0, "val_fraction": 0, "root": str(cache), "num_workers": 0, "batch_size": 1}
    if data["modality"] == "audio":
        small["audio_seconds"] = 1.0
        wanted = data["batch_size"] * data["audio_seconds"]
    frames = 4 if data["modality"] == "video" else min(data["num_frames"] or 32, 32)
    loader = MEADDataModule(**{**data, **small, "num_frames": frames, "balance": None, "bank": 0}).train_dataloader()
    batch, timed = next(iter(loader)).to(device), 1.0 if data["modality"] == "audio" else frames
    module = module.to(device).train()
    whole = sum(p.numel() for p in module.parameters() if p.requires_grad) <= TRAINABLE
    seconds = math.inf
    for _ in range(2):  # the first one also warms up
        start = time.perf_counter()
        with torch.set_grad_enabled(whole):
            loss = module.training_step(batch, 0)
        if whole:
            loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = min(seconds, (time.perf_counter() - start) * (1 if whole else 3))
        if seconds > 10:
            break
    told = "one clip, forward and backward" if whole else "one clip forward, times 3"
    return seconds * wanted / timed, f"{told}, on {device.type}"


def steps_of(settings: dict[str, Any], clips: int) -> int:
    """Return how many steps a training makes on so many clips."""
    trainer, data = settings["trainer"], settings["data"]
    each = math.ceil(clips * data["samples_per_clip"] / data["batch_size"])
    most = trainer["max_steps"] if (trainer["max_steps"] or -1) > 0 else math.inf
    return int(min(most, (trainer["max_epochs"] or math.inf) * each))


def kept_bytes(module: LightningModule) -> float:
    """Return what two checkpoints and an exported network take: weights in float32, and Adam's two means."""
    learnt = sum(p.numel() for p in module.parameters() if p.requires_grad)
    weights = sum(t.numel() for t in module.state_dict().values())
    return 4.0 * (2 * (weights + 2 * learnt) + weights)


def painting(call: float, settings: dict[str, Any], clips: int, frames: float, args: Any, module: Any) -> list[Step]:
    """Return what validation and both tables take; ``call`` is the seconds of one network call on one frame."""
    model, trainer = settings["model"]["init_args"], settings["trainer"]
    steps, test = model["num_inference_steps"], max(1, round(0.1 * clips))
    limit = trainer["limit_val_batches"]
    batches = limit if isinstance(limit, int) and limit > 0 else 1
    shown = (trainer["max_epochs"] or 1) // (trainer["check_val_every_n_epoch"] or 1) * batches
    shown *= settings["data"]["batch_size"] * settings["data"]["num_frames"] * steps
    overlap = 16 / 12  # windows of 16 share 4 frames
    first = test * frames * overlap * 2 * args.steps
    wanted = args.sweep or PAPER_STEPS
    points = make_settings(module.scheduler, wanted, wanted, ("leading", "trailing"), ("ancestral", "deterministic"))
    second = min(4, test) * 17 * overlap * sum(point.steps for point in points)
    return [
        Step("validation of the renderer", shown * call, 0, f"{shown} calls on one frame"),
        Step("Table 1", first * call, 1e6, f"{first:.0f} calls on one frame: {test} clips, {args.steps} steps, 2 rows"),
        Step("Table 2", second * call, 1e6, f"{second:.0f} calls on one frame: {min(4, test)} clips of 17 frames"),
    ]


def estimate(args: argparse.Namespace) -> tuple[list[Step], str]:
    """Return the lines, and what they are about."""
    sources = [s for s in list_sources("mead", args.root, args.identity) if not s.skip]
    read = usable(sources)
    if not read:
        raise SystemExit(f"ROOT: none of the recordings that were tried in {str(args.root)!r} can be read")
    seconds = sum(info.duration for _, info in read) / len(read)
    frames = sum(float(info.duration * info.fps) for _, info in read if info.fps) / len(read)
    total = len(sources) * frames
    lines = []
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        each, size = calibrate_cache(read, Path(folder), args)
        how = f"{1 / each:.1f} frames/s in one process, {args.workers} of them; {size / 1e3:.0f} kB a frame"
        lines.append(Step("preprocess", total * each / args.workers, total * size, how))
        for name in MODULES:
            settings = yaml.safe_load((args.work / "settings" / f"{name}.yaml").read_text())
            module = build(settings)
            step, told = time_step(module, settings, Path(folder) / "cache")
            count = steps_of(settings, round(0.85 * len(sources)))
            how = f"{count} steps of {step:.3g} s ({told})"
            lines.append(Step(f"fit {name}", count * step, kept_bytes(module), how))
            if name == "video":
                data = settings["data"]
                call = step / 3 / (data["batch_size"] * data["num_frames"])
                lines += painting(call, settings, len(sources), frames, args, module)
    about = (
        f"{len(sources)} recordings of {seconds:.1f} s, {seconds * len(sources) / 3600:.2f} hours, {total:.0f} frames"
    )
    return lines, about


def table(lines: list[Step], about: str, free: float) -> str:
    """Return the estimate as markdown."""
    rows = [f"| {s.name} | {s.seconds / 3600:.3g} | {s.bytes / 1e9:.3g} | {s.how} |" for s in lines]
    hours, size = sum(s.seconds for s in lines) / 3600, sum(s.bytes for s in lines) / 1e9
    rows.append(f"| **all** | **{hours:.3g}** | **{size:.3g}** | {free / 1e9:.0f} GB are free |")
    return "\n".join([f"{about}\n", "| estimate | hours | GB | from |", "|---|---|---|---|", *rows]) + "\n"


def main() -> int:
    """Print the estimate; 3: the disk is too small."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="ROOT", help="the folder with MEAD's people")
    parser.add_argument("work", type=Path, metavar="WORK", help="where everything will be written")
    parser.add_argument("--identity", help="one person (all)")
    parser.add_argument("--size", type=int, default=128, help="px (%(default)s)")
    parser.add_argument("--detector", default="auto")
    parser.add_argument("--workers", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="of Table 1 (%(default)s)")
    parser.add_argument("--sweep", type=int, nargs="+", help="of Table 2 (the paper's)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # modules without a trainer say that they log nothing
    args.work.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    lines, about = estimate(args)
    free = shutil.disk_usage(args.work).free
    text = table(lines, about, free) + f"\nCalibrated in {time.perf_counter() - start:.0f} s.\n"
    (args.work / "estimate.md").write_text(text, encoding="utf-8")
    (args.work / "estimate.json").write_text(json.dumps([vars(s) for s in lines], indent=1), encoding="utf-8")
    print(text)
    if sum(s.bytes for s in lines) > free:
        print("WORK: its disk is too small for that; choose another", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
