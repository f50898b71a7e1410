"""Put what several models paint under the truth: one row each, whole frames on the left, mouths enlarged on the right.

    python examples/compare_pictures.py CACHE OUT.png --clip NAME --model ours=bundled
    python examples/compare_pictures.py CACHE OUT.png --clip NAME --frames 5 --model "ours, 4 calls=bundled:4" \\
        --model "the paper's process, 300 calls=runs/paper_video/checkpoints/last.ckpt:300"
    python examples/compare_pictures.py CACHE OUT.png --clip ANNA BERT CARL --frames 2 --model ours=bundled

CACHE is what `talkhead preprocess` writes. A model is LABEL=WHAT[:CALLS[:START]]: WHAT is "bundled", a pipeline's
folder, a folder with renderer/ and scheduler/, or a checkpoint of `talkhead fit --config video`; CALLS is the number of
network calls per frame, else the pipeline's own; START is the timestep that the process starts at. Each clip's first
frame is the portrait, the landmarks are the true ones; the last row is the portrait bent to them by a spline (thin
plate). The scores of all of the clips' frames, not only of those shown, go to the screen as markdown.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from talkhead.data.clip import emotion_probabilities
from talkhead.devices import chosen_device
from talkhead.evaluate.bench import read_clip
from talkhead.evaluate.report import Scores, Table, average, environment
from talkhead.evaluate.rows import PICTURE_COLUMNS, Model, Truth, make_truth, paint_model, paint_warped, score_pictures
from talkhead.media.files import check_writable, write_whole
from talkhead.pipeline import DEFAULTS, TalkingHeadPipeline
from talkhead.speaker.trained import load_video

COLUMNS = {key: PICTURE_COLUMNS[key] for key in ("psnr", "ssim", "mouth_psnr", "sharpness", "calls", "fps")}
TRUTH, WARP = "truth", "portrait warped by the landmarks"
GAP, LEFT, TOP = 4, 128, 32  # px
DPI = 128  # a power of two, so that px divided by it and multiplied again stay whole


@dataclass(frozen=True)
class Row:
    """A model's row of the picture.

    Attributes:
        label: name of the row.
        model: paints.
        options: of ``render_windows``.
    """

    label: str
    model: Model
    options: Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", help="folder written by `talkhead preprocess`")
    parser.add_argument("output", type=Path, help="the picture, .png")
    parser.add_argument("--clip", nargs="+", required=True, help="names of clips, as in the cache's manifest.jsonl")
    parser.add_argument("--frames", type=int, default=5, help="frames shown of each clip, evenly spread (%(default)s)")
    parser.add_argument("--first", type=int, help="use only so many of each clip's first frames; default: all")
    parser.add_argument("--model", action="append", default=[], metavar="LABEL=WHAT[:CALLS[:START]]", help="a row")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (%(default)s)")
    parser.add_argument("--cell", type=int, help="side of a frame in the picture, px; default: the frame's own")
    parser.add_argument("--device", default="auto", help="(%(default)s)")
    arguments = parser.parse_args()
    if arguments.output.suffix.lower() != ".png":
        parser.error(f"output must end in .png; got {arguments.output}")
    check_writable(arguments.output)
    device = chosen_device(arguments.device)
    models = [load_model(text, arguments.seed, device) for text in arguments.model]
    truths = {name: make_truth(read_clip(arguments.cache, name, arguments.first), None) for name in arguments.clip}
    clips, scores = {}, []
    for name, truth in truths.items():
        clips[name], found = paint_rows(name, truth, models)
        scores.append(found)
    draw(arguments.output, truths, clips, arguments.frames, arguments.cell)
    print(Table("Pictures", COLUMNS, average(scores)).markdown() + "\n")
    frames = sum(len(truth.frames) for truth in truths.values())
    settings = {"clips": f"{', '.join(truths)}: {frames} frames", "seed": str(arguments.seed)}
    for key, value in {**settings, **environment(device)}.items():
        print(f"- {key}: {value}")


def load_model(text: str, seed: int, device: torch.device) -> Row:
    """Load what LABEL=WHAT[:CALLS[:START]] names."""
    parts = re.fullmatch(r"([^=]+)=(.+?)(?::(\d+))?(?::(\d+))?", text)
    if parts is None:
        raise SystemExit(f"--model must be LABEL=WHAT[:CALLS[:START]]; got {text!r}")
    label, what, calls, start = parts.groups()
    info: Mapping[str, Any] = DEFAULTS
    if what == "bundled" or (Path(what) / "pipeline.json").is_file():
        pipeline = TalkingHeadPipeline.from_pretrained(what)
        renderer, scheduler, info = pipeline.renderer, pipeline.scheduler, pipeline.info
    else:
        renderer, scheduler = load_video(what).parts.values()
    options = {
        "num_inference_steps": int(calls or info["num_inference_steps"]),
        "start_timestep": None if start is None else int(start),
        "seed": seed,
        "window": info["window"],
        "overlap": info["overlap"],
    }
    return Row(label, Model(renderer.to(device).eval(), scheduler), options)


def paint_rows(name: str, truth: Truth, models: Sequence[Row]) -> tuple[dict[str, Tensor], Scores]:
    """Return each row's (T, 3, H, W) uint8 frames and its scores."""
    label, rows, scores = emotion_probabilities(truth.clip.emotion), {TRUTH: truth.frames}, {}
    for row in models:
        print(f"{name}: {row.label} ...", file=sys.stderr, flush=True)
        painting = paint_model(row.model, truth, truth.landmarks, label, row.options)
        rows[row.label] = painting.frames
        scores[row.label] = score_pictures(painting.frames, truth, None, painting.calls, painting.seconds)
    warped = paint_warped(truth)
    rows[WARP] = warped.frames
    scores[WARP] = score_pictures(warped.frames, truth, None, 0, warped.seconds)
    return rows, scores


def draw(
    path: Path, truths: Mapping[str, Truth], clips: Mapping[str, Mapping[str, Tensor]], count: int, cell: int | None
) -> None:
    """Write the picture: a row for each model, a column for each frame shown, and again for its mouth."""
    whole: dict[str, list[Tensor]] = {}
    mouths: dict[str, list[Tensor]] = {}
    titles = []
    for name, truth in truths.items():
        side, length = cell or truth.frames.shape[-1], len(truth.frames)
        pick = torch.linspace(0, length - 1, min(count, length)).round().long()
        titles += [f"{name}\nframe {truth.first + index}" for index in pick.tolist()]
        x0, y0, x1, y1 = square(truth.box, truth.frames.shape[-1])
        for row, frames in clips[name].items():
            whole.setdefault(row, []).extend(enlarge(frames[pick], side))
            mouths.setdefault(row, []).extend(enlarge(frames[pick][..., y0:y1, x0:x1], side))
    rows = {row: [*whole[row], *mouths[row]] for row in whole}
    write_grid(path, rows, titles)


def square(box: tuple[int, int, int, int], size: int) -> tuple[int, int, int, int]:
    """Return the square around a box, inside a frame of ``size`` px."""
    x0, y0, x1, y1 = box
    side = min(max(x1 - x0, y1 - y0), size)
    left = min(max((x0 + x1 - side) // 2, 0), size - side)
    top = min(max((y0 + y1 - side) // 2, 0), size - side)
    return left, top, left + side, top + side


def enlarge(frames: Tensor, side: int) -> Tensor:
    """Return (T, 3, side, side) uint8."""
    if frames.shape[-1] == side:
        return frames
    larger = F.interpolate(frames.float(), (side, side), mode="bicubic", antialias=True)
    return larger.round().clamp(0, 255).to(torch.uint8)


def write_grid(path: Path, rows: Mapping[str, Sequence[Tensor]], titles: Sequence[str]) -> None:
    """Write rows of pictures pixel for pixel, their names on the left and ``titles`` above the first columns.

    Args:
        path: PNG.
        rows: name -> pictures (3, s, s) uint8, the frames and then as many mouths.
        titles: above the frames.
    """
    from matplotlib.figure import Figure

    side, columns = next(iter(rows.values()))[0].shape[-1], len(titles)
    lefts = [LEFT + k * (side + GAP) + (3 * GAP if k >= columns else 0) for k in range(2 * columns)]
    tops = [TOP + k * (side + GAP) for k in range(len(rows))]
    width, height = lefts[-1] + side + GAP, tops[-1] + side + GAP
    canvas = torch.full((height, width, 3), 255, dtype=torch.uint8)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    style: dict[str, Any] = {"fontsize": 6.5, "linespacing": 1.1}
    for top, (row, pictures) in zip(tops, rows.items(), strict=True):
        for left, picture in zip(lefts, pictures, strict=True):
            canvas[top : top + side, left : left + side] = picture.permute(1, 2, 0)
        text, middle = textwrap.fill(row, 20), 1 - (top + side / 2) / height
        figure.text((LEFT - 2 * GAP) / width, middle, text, ha="right", va="center", **style)
    for left, title in zip(lefts, titles, strict=False):  # the mouths below the same titles need none
        figure.text((left + side / 2) / width, 1 - (TOP - GAP) / height, title, ha="center", va="bottom", **style)
    figure.figimage(canvas.numpy(), 0, 0, zorder=-1)
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=DPI))


if __name__ == "__main__":
    main()
