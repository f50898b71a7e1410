"""Measure what further pictures of a person give: one portrait against one portrait and three further pictures.

    python examples/measure_references.py CACHE [--speaker SPEAKER] [--frames 50] [--limit 24] [--part test]

Each clip's first frame is the portrait, frames 1 to 49 are painted from their true landmarks in one network call, and
the three further pictures come from the rest of the same clip. "Lent" rows have the inside of the mouth from the
speaker's own pictures, as the pipeline does it (`--teeth`). Rows that do nothing stand beside.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from talkhead import metrics
from talkhead.data.clip import Clip, emotion_probabilities
from talkhead.data.datamodule import MEADDataModule
from talkhead.data.dataset import ClipDataset
from talkhead.face.warp import thin_plate_spline_warp
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.pipeline.windows import render_windows
from talkhead.speaker.references import lend_mouth

FURTHER = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache")
    parser.add_argument("--speaker", default="bundled")
    parser.add_argument("--frames", type=int, default=50, help="of each clip, the portrait among them (%(default)s)")
    parser.add_argument("--limit", type=int, default=24, help="clips (%(default)s)")
    parser.add_argument("--part", default="test", choices=["test", "all"])
    options = parser.parse_args()
    pipeline = TalkingHeadPipeline.from_pretrained(options.speaker, device="cpu")
    data = MEADDataModule(options.cache)
    parts = ["train", "val", "test"] if options.part == "all" else ["test"]
    names = sorted(name for part in parts for name in data.names(part))[: options.limit]
    clips = ClipDataset(options.cache, names, reference="first")
    rows: dict[str, list[dict[str, float]]] = {}
    for place in range(len(names)):
        for row, scores in measure(pipeline, clips[place], options.frames).items():
            rows.setdefault(row, []).append(scores)
    print(f"| {len(names)} clips | PSNR | SSIM | mouth PSNR | sharpness |\n|---|---|---|---|---|")
    for row, found in rows.items():
        mean = {key: sum(one[key] for one in found) / len(found) for key in found[0]}
        print(f"| {row} | {mean['psnr']:.2f} | {mean['ssim']:.3f} | {mean['mouth']:.2f} | {mean['sharpness']:.2f} |")


def measure(pipeline: TalkingHeadPipeline, clip: Clip, count: int) -> dict[str, dict[str, float]]:
    """Return the scores of each way to paint one clip."""
    assert clip.frames is not None and clip.landmarks is not None
    portrait, points = clip.frames[0], clip.landmarks[0]
    truth, landmarks = clip.frames[1:count], clip.landmarks[1:count]
    further = torch.linspace(count, len(clip.frames) - 1, FURTHER).long()
    bank = clip.frames[further], clip.landmarks[further]

    def ours(bank: tuple[Tensor, Tensor] | None) -> Tensor:
        neutral = emotion_probabilities("neutral")
        return torch.cat(
            list(
                render_windows(
                    pipeline.renderer, pipeline.scheduler, portrait, points, [landmarks], neutral,
                    num_inference_steps=1, bank=bank,
                )
            )
        )  # fmt: skip

    def warp() -> Tensor:
        moved = thin_plate_spline_warp(portrait[None].float(), points[None], landmarks[None])[0]
        return moved.round().clamp(0, 255).to(torch.uint8)

    def lent(bank: tuple[Tensor, Tensor] | None) -> Tensor:
        borrowed = lend_mouth(pipeline.folder, portrait, points, bank, 1.0)
        return ours(bank) if borrowed is None else borrowed(ours(bank), landmarks)

    ways: dict[str, Callable[[], Tensor]] = {
        "first frame, repeated": lambda: portrait.expand_as(truth),
        "first frame, warped by the true landmarks": warp,
        "ours, one portrait": lambda: ours(None),
        "ours, one portrait, lent": lambda: lent(None),
        f"ours, and {FURTHER} further pictures": lambda: ours(bank),
        f"ours, and {FURTHER} further pictures, lent": lambda: lent(bank),
    }
    x0, y0, x1, y1 = metrics.mouth_box(landmarks, truth.shape[-1])
    box = slice(y0, y1), slice(x0, x1)
    return {name: scores_of(paint(), truth, box) for name, paint in ways.items()}


def scores_of(painted: Tensor, truth: Tensor, box: tuple[slice, slice]) -> dict[str, float]:
    """Return the means over a clip's frames."""
    mouth = (..., *box)
    return {
        "psnr": metrics.psnr(painted, truth).item(),
        "ssim": metrics.ssim(painted, truth).item(),
        "mouth": metrics.psnr(painted[mouth], truth[mouth]).item(),
        "sharpness": (metrics.sharpness(painted).mean() / metrics.sharpness(truth).mean()).item(),
    }


if __name__ == "__main__":
    main()
