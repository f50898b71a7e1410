"""Measure what further pictures of a person give: one portrait against one portrait and three further pictures.

    python examples/measure_references.py CACHE [--speaker SPEAKER] [--frames 50] [--limit 24] [--part test]

Each clip's first frame is the portrait, frames 1 to 49 are painted from their true landmarks in one network call, and
the three further pictures come from the rest of the same clip, or from another clip of the person (the three frames
whose mouths differ the most; the mean is then over the clips of people who have another). "Mixed" rows show what the
network starts from: the portrait and the pictures, bent and mixed, nothing painted. In "drawn" rows the inside of the
mouth is drawn as the pipeline does it (`--teeth`). Rows that do nothing stand beside.
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
from talkhead.finishing.drawn_mouth import DrawnMouth
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.pipeline.windows import render_windows
from talkhead.speaker.references import differing_mouths

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
    long = [name for name in names if data.entries[name]["frames"] >= options.frames + FURTHER]
    if len(long) < len(names):
        print(f"{len(names) - len(long)} clips have no {FURTHER} frames beyond {options.frames}: left out")
    names, clips = long, ClipDataset(options.cache, long, reference="first")
    if not names:
        parser.error(f"no clip has {FURTHER} frames beyond --frames {options.frames}; give fewer")
    rows: dict[str, list[dict[str, float]]] = {}
    people = [data.entries[name]["identity"] for name in names]
    for place, person in enumerate(people):
        others = [other for other, who in enumerate(people) if who == person and other != place]
        another = clips[others[0]] if others else None
        for row, scores in measure(pipeline, clips[place], another, options.frames).items():
            rows.setdefault(row, []).append(scores)
    print(f"| {len(names)} clips | PSNR | SSIM | mouth PSNR | sharpness |\n|---|---|---|---|---|")
    for row, found in rows.items():
        mean = {key: sum(one[key] for one in found) / len(found) for key in found[0]}
        print(f"| {row} | {mean['psnr']:.2f} | {mean['ssim']:.3f} | {mean['mouth']:.2f} | {mean['sharpness']:.2f} |")


def measure(pipeline: TalkingHeadPipeline, clip: Clip, another: Clip | None, count: int) -> dict[str, dict[str, float]]:
    """Return the scores of each way to paint one clip; ``another`` shows the same person."""
    assert clip.frames is not None and clip.landmarks is not None
    portrait, points = clip.frames[0], clip.landmarks[0]
    truth, landmarks = clip.frames[1:count], clip.landmarks[1:count]
    further = torch.linspace(count, len(clip.frames) - 1, FURTHER).long()
    bank = clip.frames[further], clip.landmarks[further]
    elsewhere = None if another is None else pictures_of(another)

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

    def drawn(bank: tuple[Tensor, Tensor] | None) -> Tensor:
        shown = points[None] if bank is None else torch.cat((points[None], bank[1]))
        return DrawnMouth(portrait, shown)(ours(bank), landmarks)

    def mixed(bank: tuple[Tensor, Tensor]) -> Tensor:
        further = bank[0][None], bank[1][None]
        condition = pipeline.renderer.prepare(portrait[None], points[None], landmarks[None], bank=further)
        return pipeline.renderer.decode(condition.carrier)[0]

    ways: dict[str, Callable[[], Tensor]] = {
        "first frame, repeated": lambda: portrait.expand_as(truth),
        "first frame, warped by the true landmarks": warp,
        "ours, one portrait": lambda: ours(None),
        "ours, one portrait, drawn": lambda: drawn(None),
        f"ours, and {FURTHER} further pictures": lambda: ours(bank),
        f"ours, and {FURTHER} further pictures, drawn": lambda: drawn(bank),
        f"the portrait and {FURTHER} further pictures, mixed": lambda: mixed(bank),
    }
    if elsewhere is not None:
        ways[f"ours, and {FURTHER} pictures of another clip"] = lambda: ours(elsewhere)
        ways[f"the portrait and {FURTHER} pictures of another clip, mixed"] = lambda: mixed(elsewhere)
    x0, y0, x1, y1 = metrics.mouth_box(landmarks, truth.shape[-1])
    box = slice(y0, y1), slice(x0, x1)
    return {name: scores_of(paint(), truth, box) for name, paint in ways.items()}


def pictures_of(clip: Clip) -> tuple[Tensor, Tensor]:
    """Return the frames of a clip whose mouths differ the most, and their landmarks."""
    assert clip.frames is not None and clip.landmarks is not None
    seen = clip.landmarks.isfinite().all(-1).all(-1).nonzero()[:, 0]
    chosen = seen[differing_mouths(clip.landmarks[seen], FURTHER)]
    return clip.frames[chosen], clip.landmarks[chosen]


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
