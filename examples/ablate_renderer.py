"""Ablate the renderer: one change at a time, each trained on the same clips, seed and number of steps.

    python examples/ablate_renderer.py CACHE OUTPUT                          # all variants, one after the other
    python examples/ablate_renderer.py CACHE OUTPUT --only shipped --steps 2000

CACHE is what `talkhead preprocess` made. Training and scoring run at 64 px (`--size`) on a copy of the cache whose
frames are averaged down (OUTPUT/cache_64), with half the shipped widths and patches of 2 x 2 px instead of 4 x 4, which
are the same part of a face: a variant takes minutes on one core. What is done stays in OUTPUT: a broken-off run goes
on, and one with other numbers of steps or clips starts anew. OUTPUT/ablation.md holds the table.
"""

from __future__ import annotations

import argparse
import logging
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from rich.progress import track
from safetensors.torch import save

from talkhead.data.clip import emotion_probabilities
from talkhead.data.datamodule import MEADDataModule
from talkhead.data.frame_store import read_frames
from talkhead.data.manifest import checksum, clip_file, json_lines, open_clip, read_manifest
from talkhead.devices import chosen_device, fast_precision
from talkhead.evaluate.bench import read_clip
from talkhead.evaluate.report import ClipLog, Scores, Table, average, environment
from talkhead.evaluate.rows import (
    PICTURE_COLUMNS,
    REPEATED,
    WARPED,
    Model,
    Truth,
    make_truth,
    paint_model,
    paint_repeated,
    paint_warped,
    score_pictures,
)
from talkhead.media.files import write_whole
from talkhead.modules.averaging import EMA
from talkhead.modules.video import VideoDiffusion
from talkhead.nets.renderer import Renderer
from talkhead.schedulers import MaskNoiseBridgeScheduler, PaperProcess

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
COLUMNS = {key: PICTURE_COLUMNS[key] for key in ("psnr", "ssim", "mouth_psnr")}


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
    """Copy a cache's clips with a picture at ``size`` px: frames averaged over blocks, landmarks in the new pixels."""
    entries = [e for e in read_manifest(cache) if e["status"] == "ok" and e["frames"]]
    (output / "clips").mkdir(parents=True, exist_ok=True)
    for entry in track(entries, f"averaging to {size} px"):
        path = clip_file(output, entry["name"])
        if not path.exists():
            with open_clip(cache, entry) as file:
                tensors = {key: file.get_tensor(key) for key in file.keys() if not key.startswith("jpeg")}
                frames = read_frames(file, 0, entry["frames"]).float()
            tensors["frames"] = F.interpolate(frames, (size, size), mode="area").round().to(torch.uint8)
            tensors["landmarks"] = (tensors["landmarks"] + 0.5) * (size / entry["size"]) - 0.5
            write_whole(path, save(tensors))
        entry |= {"size": size, "sha256": checksum(path.read_bytes())}
    write_whole(output / "manifest.jsonl", json_lines(entries))
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
        precision=fast_precision(chosen_device("auto")),
        gradient_clip_val=1.0,
        callbacks=[EMA(decay=0.99)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=str(folder),
    )
    trainer.fit(module, data)
    temporary = folder.with_name(folder.name + ".partial")
    module.renderer.save_pretrained(temporary)
    temporary.replace(folder)
    return module.renderer


def score(name: str, renderer: Renderer, truths: list[Truth]) -> Scores:
    """Return a row for each number of network calls, the mean over clips."""
    model, clips = Model(renderer.eval(), process_of(VARIANTS[name])), []
    for truth in track(truths, "scoring"):
        label, rows = emotion_probabilities(truth.clip.emotion), {}
        for calls in VARIANTS[name].calls:
            options = {"num_inference_steps": calls, "seed": 0, "window": 16, "overlap": 4}
            painting = paint_model(model, truth, truth.landmarks, label, options)
            rows[f"{name}, {calls} calls"] = score_pictures(painting.frames, truth, None, calls, painting.seconds)
        clips.append(rows)
    return average(clips)


def load_truths(cache: Path, frames: int, limit: int | None) -> list[Truth]:
    """Read the first frames of the test clips."""
    names = MEADDataModule(str(cache)).names("test")[:limit]
    return [make_truth(read_clip(cache, name, frames), None) for name in names]


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
    small = shrink(args.cache, args.output / f"cache_{args.size}", args.size)
    truths = load_truths(small, args.frames, args.clips)
    log = ClipLog(
        args.output / "ablation.jsonl", {key: getattr(args, key) for key in ("size", "steps", "frames", "clips")}
    )
    rows = average([still_rows(truth) for truth in truths])
    for name in args.only:
        print(name)
        folder = args.output / f"{args.size}px_{args.steps}steps" / re.sub(r"\W+", "_", name)
        rows |= log.get(name, lambda name=name, folder=folder: run(name, small, folder, args, truths))
    protocol = (
        f"{len(truths)} test clips, first {args.frames} frames, {args.size} px, {args.steps} training steps of 32 "
        f"frames, seed 0; " + ", ".join(f"{key} {value}" for key, value in environment(torch.device("cpu")).items())
    )
    text = f"{Table('Renderer', COLUMNS, rows).markdown()}\n\n{protocol}\n"
    write_whole(args.output / "ablation.md", text.encode())
    print(text)


def still_rows(truth: Truth) -> Scores:
    """Score the rows that do nothing."""
    rows = {REPEATED: paint_repeated(truth), WARPED: paint_warped(truth)}
    return {row: score_pictures(painting.frames, truth, None, 0, 1.0) for row, painting in rows.items()}


def run(name: str, cache: Path, folder: Path, args: argparse.Namespace, truths: list[Truth]) -> Scores:
    """Train a variant and return its rows of the table."""
    return score(name, train(VARIANTS[name], cache, folder, args.size, args.steps), truths)


if __name__ == "__main__":
    main()
