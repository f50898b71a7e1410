"""Ablate the renderer: one change at a time, each trained on the same clips, seed and number of steps.

    python examples/ablate_renderer.py CACHE OUTPUT                          # all variants, one after the other
    python examples/ablate_renderer.py CACHE OUTPUT --only shipped --steps 2000

CACHE is what `talkhead preprocess` made. Training and scoring run at 64 px (`--size`) on a copy of the cache whose
frames are averaged down, with half the shipped widths and patches of 2 x 2, so that the 8 x 8 of a face that a cell of
the shipped network sees at 128 px stays what it is and a variant takes minutes on one core. Every variant that is done
stays in OUTPUT: a run that was broken off continues. OUTPUT/ablation.md holds the table.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import time
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from lightning.pytorch.callbacks import EMAWeightAveraging
from rich.progress import track
from safetensors.torch import load_file, save_file

from talkhead.data.clip import emotion_probabilities
from talkhead.data.datamodule import MEADDataModule
from talkhead.data.dataset import ClipDataset, read_manifest
from talkhead.evaluate.ablation import PaperProcess
from talkhead.evaluate.report import environment
from talkhead.evaluate.rows import Truth, make_truth, paint_model, paint_repeated, paint_warped, score_pictures
from talkhead.modules.video import VideoDiffusion
from talkhead.nets.renderer import Renderer
from talkhead.schedulers import MaskNoiseBridgeScheduler

NET: dict[str, Any] = {
    "widths": (16, 32, 64, 128),
    "patch": 2,
    "carrier": "warped",
    "output": "flow",
    "carrier_channels": True,
    "reference_channels": True,
    "field_channels": True,
    "map_channels": True,
    "map_sigma": 2.0,
}
TRAINING: dict[str, Any] = {
    "learning_rate": 1e-3,
    "last_step_share": 1.0,
    "own_share": 0.4,
    "mouth_weight": 5.0,
    "eye_weight": 2.0,
    "recolour": 0.25,
    "mirror": 0.05,
    "jitter": 0.15,
}
TRUTH_PATH = {"own_share": 0.0, "last_step_share": 0.6}  # x_s below s = 1 made of the true frames
BARE = {"output": "plain", "carrier_channels": False, "reference_channels": False, "field_channels": False}
PLAIN_LOSS = {"mouth_weight": 0.0, "eye_weight": 0.0, "recolour": 0.0, "mirror": 0.0, "jitter": 0.0}
COLUMNS = {"psnr": ("PSNR", 2), "ssim": ("SSIM", 3), "mouth_psnr": ("mouth PSNR", 2)}


@dataclass(frozen=True)
class Variant:
    """What differs from the shipped recipe.

    Attributes:
        net: arguments of the renderer.
        training: arguments of the module.
        process: ``"bridge"`` or ``"ddpm"``, the paper's.
        kind: the scheduler's ``prediction_type``.
        frames: T; the batch holds 32 frames.
        calls: network calls per frame to score at.
    """

    net: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    process: str = "bridge"
    kind: str = "sample"
    frames: int = 8
    calls: tuple[int, ...] = (1, 4, 20)


VARIANTS = {
    "shipped": Variant(),
    "below s = 1 trained on the truth": Variant(training=TRUTH_PATH),
    "noised frames as channels too": Variant(net={"noise_channels": True}),
    "noised frames as channels too, trained on the truth": Variant(net={"noise_channels": True}, training=TRUTH_PATH),
    "no soft maps": Variant(net={"map_channels": False}),
    "no reference and no field channels": Variant(net={"reference_channels": False, "field_channels": False}),
    "carrier: reference": Variant(net={"carrier": "reference"}),
    "output: residual": Variant(net={"output": "residual"}),
    "output: alpha": Variant(net={"output": "alpha"}),
    "output: plain (x_0)": Variant(net={"output": "plain"}),
    "output: plain, v": Variant(net={"output": "plain"}, kind="v_prediction"),
    "output: plain, eps": Variant(
        net={"output": "plain"}, training=TRUTH_PATH | {"last_step_share": 0.0}, kind="epsilon"
    ),
    "no mouth and eye weights": Variant(training={"mouth_weight": 0.0, "eye_weight": 0.0}),
    "no augmentation": Variant(training={"recolour": 0.0, "mirror": 0.0, "jitter": 0.0}),
    "T = 4": Variant(frames=4),
    "T = 16": Variant(frames=16),
    "paper's process, our network": Variant(training=TRUTH_PATH, process="ddpm", calls=(4, 20, 100)),
    "paper's process and network": Variant(
        net=BARE | {"carrier": "reference", "map_channels": False},
        training=TRUTH_PATH | PLAIN_LOSS | {"last_step_share": 0.0},
        process="ddpm",
        calls=(4, 20, 100),
    ),
}


@dataclass(frozen=True)
class Model:
    """What ``paint_model`` needs."""

    renderer: Renderer
    scheduler: Any


def scheduler_of(variant: Variant) -> Any:
    if variant.process == "bridge":
        return MaskNoiseBridgeScheduler(prediction_type=variant.kind)
    return DDPMScheduler(prediction_type=variant.kind)


def process_of(variant: Variant) -> Any:
    """The scheduler to sample with: the paper's without added Gaussian noise, which does best (`talkhead ablate`)."""
    if variant.process == "bridge":
        return scheduler_of(variant)
    process = PaperProcess(prediction_type=variant.kind, timestep_spacing="trailing")
    process.ancestral = False
    return process


def shrink(cache: Path, output: Path, size: int) -> Path:
    """Copy a cache's clips at ``size`` px: frames averaged over blocks, landmarks in the new pixels."""
    entries = [e for e in read_manifest(cache) if e["status"] == "ok"]
    (output / "clips").mkdir(parents=True, exist_ok=True)
    for entry in track(entries, f"averaging to {size} px"):
        path = output / "clips" / f"{entry['name']}.safetensors"
        factor, entry["size"] = entry["size"] / size, size
        if not path.exists():
            tensors = load_file(cache / "clips" / path.name)
            small = F.interpolate(tensors["frames"].float(), (size, size), mode="area")
            tensors["frames"] = small.round().to(torch.uint8)
            tensors["landmarks"] = (tensors["landmarks"] + 0.5) / factor - 0.5
            save_file(tensors, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    (output / "manifest.jsonl").write_text(text, encoding="utf-8")
    return output


def train(variant: Variant, cache: Path, folder: Path, size: int, steps: int) -> Renderer:
    """Train one variant from seed 0, or read what an earlier run left."""
    if (folder / "config.json").exists():
        return Renderer.from_pretrained(folder)
    lightning.seed_everything(0, verbose=False)
    module = VideoDiffusion(
        Renderer(size=size, **(NET | variant.net)), scheduler_of(variant), **(TRAINING | variant.training)
    )
    data = MEADDataModule(
        str(cache), batch_size=32 // variant.frames, num_frames=variant.frames, samples_per_clip=64 // variant.frames
    )
    trainer = lightning.Trainer(
        max_steps=steps,
        precision="bf16-mixed",
        gradient_clip_val=1.0,
        callbacks=[EMAWeightAveraging(decay=0.99)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=str(folder),
    )
    trainer.fit(module, data)
    module.renderer.save_pretrained(folder)
    return module.renderer


def score(variant: Variant, renderer: Renderer, truths: list[Truth]) -> dict[str, dict[str, float]]:
    """Return the scores at each number of network calls, the mean over clips."""
    model, rows = Model(renderer.eval(), process_of(variant)), {}
    for calls in variant.calls:
        options = {"num_inference_steps": calls, "seed": 0, "window": 16, "overlap": 4}
        clips = []
        for truth in track(truths, f"scoring, {calls} calls"):
            painting = paint_model(model, truth, truth.landmarks, emotion_probabilities(truth.clip.emotion), options)
            clips.append(score_pictures(painting.frames, truth, None, calls, painting.seconds))
        rows[str(calls)] = mean(clips)
    return rows


def mean(clips: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(clip[key] for clip in clips) / len(clips) for key in COLUMNS}


def load_truths(cache: Path, frames: int, limit: int | None) -> list[Truth]:
    """Read the first frames of the test clips."""
    names = MEADDataModule(str(cache)).names("test")[:limit]
    dataset = ClipDataset(cache, names, reference="first")
    clips = (dataset[i] for i in range(len(names)))
    return [make_truth(cut(clip, frames), None) for clip in clips]


def cut(clip: Any, frames: int) -> Any:
    return replace(clip, frames=clip.frames[:frames], landmarks=clip.landmarks[:frames])


def table(results: dict[str, Any], protocol: str) -> str:
    """Return the results as markdown."""
    lines = ["| | calls | " + " | ".join(title for title, _ in COLUMNS.values()) + " |", "|---" * 5 + "|"]
    for name, result in results.items():
        for calls, row in result["scores"].items():
            cells = " | ".join(f"{row[key]:.{digits}f}" for key, (_, digits) in COLUMNS.items())
            lines.append(f"| {name} | {calls} | {cells} |")
    return "\n".join(lines) + f"\n\n{protocol}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--size", type=int, default=64, help="side of the frames, px (%(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="training steps of each variant (%(default)s)")
    parser.add_argument("--frames", type=int, default=17, help="first frames of each test clip (%(default)s)")
    parser.add_argument("--clips", type=int, help="only the first test clips")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    args.output.mkdir(parents=True, exist_ok=True)
    small = shrink(args.cache, args.output / "cache", args.size)
    truths = load_truths(small, args.frames, args.clips)
    path = args.output / "ablation.json"
    for name, paint in (("reference repeated", paint_repeated), ("reference warped", paint_warped)):
        clips = [score_pictures(paint(truth).frames, truth, None, 0, 1.0) for truth in truths]
        keep(path, name, {"scores": {"0": mean(clips)}})
    for name in args.only:
        if name in read(path):
            continue
        variant, start = VARIANTS[name], time.perf_counter()
        print(f"{name}: training")
        renderer = train(variant, small, args.output / re.sub(r"\W+", "_", name), args.size, args.steps)
        seconds = time.perf_counter() - start
        keep(path, name, {"scores": score(variant, renderer, truths), "seconds": seconds})
    protocol = (
        f"{len(truths)} test clips, first {args.frames} frames, {args.size} px, {args.steps} training steps of 32 "
        f"frames, seed 0; " + ", ".join(f"{key} {value}" for key, value in environment(torch.device("cpu")).items())
    )
    text = table(read(path), protocol)
    (args.output / "ablation.md").write_text(text, encoding="utf-8")
    print(text)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def keep(path: Path, name: str, result: dict[str, Any]) -> None:
    """Add one result to the file; another run may have added its own meanwhile."""
    path.with_suffix(".part").write_text(json.dumps(read(path) | {name: result}, indent=2))
    path.with_suffix(".part").replace(path)


if __name__ == "__main__":
    main()
