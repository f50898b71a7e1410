"""Measure what a speaker's renderer for large faces gives over its plain one, shown as large.

    python examples/measure_large_faces.py CACHE [--clips NAME ...] [--shown PX] [--judges JUDGES]

CACHE holds clips or stills at the size of the finer renderer (`preprocess --size 256`). The first frame of each is the
portrait, the next 49 (of stills: the one other picture) are painted from their true landmarks in one network call.
Rows: the portrait bent by the spline; the frames of the plain renderer, and of the finer one, brought to the size shown
with the portrait's own detail as the pipeline does it. Nothing is drawn between the lips. JUDGES: see
measure_mouths.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from measure_mouths import enlarged, load_distance
from safetensors.torch import load_file
from torch import Tensor

from talkhead import metrics
from talkhead.data.clip import emotion_probabilities
from talkhead.face.crop import Crop, crop_frames, to_crop
from talkhead.face.portrait import Portrait
from talkhead.face.warp import thin_plate_spline_warp
from talkhead.finishing.placing import FramePlacer
from talkhead.nets.renderer import Renderer
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.pipeline.windows import paint_windows
from talkhead.schedulers import Scheduler

FRAMES = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--clips", nargs="+", metavar="NAME", help="of the cache (all)")
    parser.add_argument("--speaker", default="bundled", help="(%(default)s)")
    parser.add_argument("--shown", type=int, metavar="PX", help="side at which portraits are given and frames shown")
    parser.add_argument("--judges", type=Path, help="folder of judges.py")
    args = parser.parse_args()
    distance = load_distance(args.judges) if args.judges else None
    pipeline = TalkingHeadPipeline.from_pretrained(args.speaker, device="cpu")
    if pipeline.fine_renderer is None:
        parser.error(f"--speaker {args.speaker} has no renderer for large faces")
    rows: dict[str, list[dict[str, float]]] = {}
    paths = sorted((args.cache / "clips").glob("*.safetensors"))
    for path in (path for path in paths if args.clips is None or path.stem in args.clips):
        tensors = load_file(path)
        frames, landmarks = tensors["frames"][:FRAMES], tensors["landmarks"][:FRAMES].float()
        if args.shown:
            whole = Crop(0.0, 0.0, float(frames.shape[-1]))
            frames, landmarks = crop_frames(frames, whole, args.shown), to_crop(landmarks, whole, args.shown)
        for name, shown in ways(pipeline, frames[0], landmarks).items():
            rows.setdefault(name, []).append(scores_of(shown, frames[1:], landmarks[1:], distance))
    columns = list(next(iter(rows.values()))[0])
    print(f"| | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name, scores in rows.items():
        means = [torch.tensor([one[column] for one in scores]).mean().item() for column in columns]
        print(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} |")


def ways(pipeline: TalkingHeadPipeline, portrait: Tensor, landmarks: Tensor) -> dict[str, Tensor]:
    """Return (T - 1, 3, S, S) uint8 frames made of a portrait in each way, from (T, 68, 2) px, its own first."""
    source = portrait[None].float()
    bent = [thin_plate_spline_warp(source, landmarks[:1], part[None])[0] for part in landmarks[1:].split(16)]
    shown = {"warped": torch.cat(bent).round().clamp(0, 255).to(torch.uint8)}
    assert pipeline.fine_renderer is not None
    for renderer in (pipeline.renderer, pipeline.fine_renderer):
        frames = painted(renderer, pipeline.scheduler, portrait, landmarks)
        shown[f"painted at {renderer.config.size} px, shown at {portrait.shape[-1]}"] = frames
    return shown


def painted(renderer: Renderer, scheduler: Scheduler, portrait: Tensor, landmarks: Tensor) -> Tensor:
    """Return the (T - 1, 3, S, S) uint8 frames that a renderer paints, brought to the portrait's size."""
    side, size, done = portrait.shape[-1], renderer.config.size, 1
    whole = Crop(0.0, 0.0, float(side))
    face, points = crop_frames(portrait[None], whole, size)[0], to_crop(landmarks, whole, size)
    place = FramePlacer(Portrait(portrait, landmarks[0], whole, face, points[0]), "crop", side)
    neutral, shown = emotion_probabilities("neutral"), []
    windows = paint_windows(renderer, scheduler, face, points[0], [points[1:]], neutral, num_inference_steps=1)
    for window in windows:
        here = points[done : done + len(window.frames)]
        shown.append(place(window.frames, here, window.displacement).permute(0, 3, 1, 2))
        done += len(here)
    return torch.cat(shown)


def scores_of(
    painted: Tensor, truth: Tensor, landmarks: Tensor, distance: Callable[[Tensor, Tensor], Tensor] | None
) -> dict[str, float]:
    """Return the means over a clip's frames; the perceptual distance of every sixth."""
    x0, y0, x1, y1 = metrics.mouth_box(landmarks, truth.shape[-1])
    ours, true = painted[..., y0:y1, x0:x1], truth[..., y0:y1, x0:x1]
    scores = {
        "PSNR": metrics.psnr(painted, truth).item(),
        "SSIM": metrics.ssim(painted, truth).item(),
        "mouth PSNR": metrics.psnr(ours, true).item(),
        "sharpness": (metrics.sharpness(painted).mean() / metrics.sharpness(truth).mean()).item(),
    }
    if distance is not None:
        scores["perceptual"] = distance(enlarged(ours[::6]), enlarged(true[::6])).mean().item()
    return scores


if __name__ == "__main__":
    main()
