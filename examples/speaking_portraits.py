"""Let portraits speak, and put them on one sheet: a row each, the mouth enlarged below what it belongs to.

    python examples/speaking_portraits.py LONDON/*_neutral.jpg --speech SPEECH.mp3 --output OUT

Each row shows the portrait, the frame with the widest mouth, the one most nearly shut, and the next widest a second or
more from there. OUT/NAME.mp4 are the videos, OUT/NAME.row.png the rows, OUT/sheet.jpg is the sheet; what is there
already is not made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead import TalkingHeadPipeline
from talkhead.data.clip import SAMPLE_RATE
from talkhead.face.points import OUTER_LIP
from talkhead.media.read import read_audio, read_image
from talkhead.media.write import write_image
from talkhead.metrics import mouth_opening
from talkhead.pipeline.stages import Result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("portraits", type=Path, nargs="+", help="pictures of one face each")
    parser.add_argument("--speech", type=Path, required=True, help="what they say")
    parser.add_argument("--seconds", type=float, default=5.0, help="of it (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the videos and the sheet")
    parser.add_argument("--speaker", default="bundled", help="(%(default)s)")
    parser.add_argument("--teeth", type=float, default=1.0, help="as of `talkhead generate` (%(default)s)")
    parser.add_argument("--size", type=int, default=512, help="side of the videos, px (%(default)s)")
    parser.add_argument("--cell", type=int, default=176, help="side of a frame on the sheet, px (%(default)s)")
    parser.add_argument("--columns", type=int, default=2, help="people side by side on the sheet (%(default)s)")
    args = parser.parse_args()
    names = [portrait.stem for portrait in args.portraits]
    if twice := [name for name in names if names.count(name) > 1]:
        parser.error(f"portraits: {twice.count(twice[0])} are called {twice[0]!r}; name them differently")
    args.output.mkdir(parents=True, exist_ok=True)
    speech = read_audio(args.speech)[: round(args.seconds * SAMPLE_RATE)]
    pipe, rows = None, []
    for portrait in args.portraits:
        row = args.output / f"{portrait.stem}.row.png"
        if not row.is_file():
            pipe = pipe or TalkingHeadPipeline.from_pretrained(args.speaker)
            result = pipe(portrait, speech, size=args.size, teeth=args.teeth)
            result.save(args.output / f"{portrait.stem}.mp4")
            write_image(row, row_of(result, args.cell))
            print(portrait.name, flush=True)
        rows.append(read_image(row))
    rows += [torch.full_like(rows[0], 255)] * (-len(rows) % args.columns)
    lines = [torch.cat(rows[i : i + args.columns], 2) for i in range(0, len(rows), args.columns)]
    write_image(args.output / "sheet.jpg", torch.cat(lines, 1))


def row_of(result: Result, cell: int) -> Tensor:
    """Return (3, 2 * cell, 4 * cell) uint8: four frames, and below each its mouth, enlarged."""
    opening, away = mouth_opening(result.landmarks), float(result.fps)
    widest, shut = int(opening.argmax()), int(opening.argmin())
    apart = (torch.arange(len(opening)) - widest).abs() >= away
    again = int(torch.where(apart, opening, -torch.inf).argmax())
    frames = result.frames.permute(0, 3, 1, 2)
    chosen = (0, widest, shut, again)
    tiles = [
        torch.cat([fitted(frames[i], cell), fitted(mouth_of(frames[i], result.landmarks[i]), cell)], 1) for i in chosen
    ]
    return torch.cat(tiles, 2)


def mouth_of(frame: Tensor, landmarks: Tensor) -> Tensor:
    """Cut (3, S, S) around the mouth, half as wide again as the lips."""
    lips = landmarks[OUTER_LIP]
    half = 0.75 * (lips[:, 0].max() - lips[:, 0].min())
    x, y = (lips.mean(0) - half).round().int().clamp_min(0).tolist()
    side = round(2 * half.item())
    return frame[:, y : y + side, x : x + side]


def fitted(picture: Tensor, cell: int) -> Tensor:
    """Scale (3, H, W) uint8 to (3, cell, cell)."""
    return (
        F.interpolate(picture[None].float(), (cell, cell), mode="bicubic", antialias=True)[0]
        .round()
        .clamp(0, 255)
        .byte()
    )


if __name__ == "__main__":
    main()
