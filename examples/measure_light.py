"""Measure what another light in a person's further pictures costs, and what bringing it to the portrait's gives back.

    python examples/measure_light.py CACHE [--part all] [--limit 24] [--every 8]

Each clip's first frame is the portrait; every eighth of frames 1 to 49 is to be shown, from its true landmarks; three
further pictures come from the rest of the clip, as they are or changed. Nothing is painted: portrait and pictures are
bent and mixed (`talkhead.face.mouth_bank`). Numbers are dB of the mouth beyond those of the portrait, bent alone: with
a gain of each channel alone, which `mouth_bank` takes by itself, and as the pipeline reads references.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from talkhead import metrics
from talkhead.data.datamodule import MEADDataModule
from talkhead.data.dataset import ClipDataset
from talkhead.face.mouth_bank import mixed, mouth_bank
from talkhead.face.warp import thin_plate_spline_warp
from talkhead.speaker.references import in_light_of

FURTHER, FRAMES = 3, 50
LIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda x: x,
    "0.6 of the light": lambda x: 0.6 * x,
    "a lamp from the side: 0.6 of the light on the left to 1.3 on the right": lambda x: (
        x * torch.linspace(0.6, 1.3, x.shape[-1])
    ),
    "a tone curve: levels to the power of 0.6": lambda x: x.clamp(0, 1) ** 0.6,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache")
    parser.add_argument("--part", default="test", choices=["test", "all"])
    parser.add_argument("--limit", type=int, default=24, help="clips (%(default)s)")
    parser.add_argument("--every", type=int, default=8, help="how many frames apart (%(default)s)")
    options = parser.parse_args()
    data = MEADDataModule(options.cache)
    parts = ["train", "val", "test"] if options.part == "all" else ["test"]
    names = sorted(name for part in parts for name in data.names(part))[: options.limit]
    clips = ClipDataset(options.cache, names, reference="first")
    print(f"| {len(names)} clips | a gain of each channel | as the pipeline reads them |\n|---|---|---|")
    for light, change in LIGHTS.items():
        found = []
        for place in range(len(clips)):
            frames, landmarks = clips[place].frames, clips[place].landmarks
            assert frames is not None and landmarks is not None
            found.append(gains(frames, landmarks, change, options.every))
        plain, brought = torch.tensor(found).mean(0).tolist()
        print(f"| {light} | {plain:+.2f} | {brought:+.2f} |")


@torch.inference_mode()
def gains(frames: Tensor, landmarks: Tensor, change: Callable[[Tensor], Tensor], every: int) -> tuple[float, float]:
    """Return by how many dB changed pictures make a clip's mouth better: as given, and as the pipeline reads them."""
    face, points = frames[0], landmarks[0]
    truth, shown = frames[1:FRAMES:every], landmarks[None, 1:FRAMES:every]
    further = torch.linspace(FRAMES, len(frames) - 1, FURTHER).long()
    changed = (change(frames[further].float() / 255).clamp(0, 1) * 255).round().to(torch.uint8)
    x0, y0, x1, y1 = metrics.mouth_box(shown[0], truth.shape[-1])
    portrait = thin_plate_spline_warp(face[None].float() / 255, points[None], shown).transpose(1, 2)

    def mouth(picture: Tensor) -> float:
        levels = (picture[0].transpose(0, 1) * 255).round().clamp(0, 255).to(torch.uint8)
        return metrics.psnr(levels[..., y0:y1, x0:x1], truth[..., y0:y1, x0:x1]).item()

    def with_bank(bank: tuple[Tensor, Tensor]) -> float:
        pictures = bank[0][None].float() / 255
        offered = mouth_bank(pictures, bank[1][None], face[None].float() / 255, points[None], shown, 2)
        return mouth(mixed(portrait, offered)) - mouth(portrait)

    given = changed, landmarks[further]
    return with_bank(given), with_bank(in_light_of(given, face, points))


if __name__ == "__main__":
    main()
