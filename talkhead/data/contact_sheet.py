"""One picture that shows at a glance whether a cache's faces and landmarks are right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from talkhead.data.frame_store import read_frames
from talkhead.data.manifest import open_clip
from talkhead.face.points import PARTS

# One colour for each of PARTS.
_COLOURS = ((255, 255, 255), (255, 200, 0), (0, 220, 255), (0, 255, 80), (255, 40, 120), (255, 140, 190))


def contact_sheet(
    root: str | Path, entries: Sequence[dict[str, Any]], limit: int = 48, cell: int = 192
) -> Tensor | None:
    """Tile the middle frames of a cache's clips with their landmarks drawn, in order of name, row by row.

    Args:
        root: the cache folder.
        entries: the manifest's entries; those without picture are passed over.
        limit: clips to show at most, spread evenly over all.
        cell: side of one tile, px.

    Returns:
        (3, H, W) uint8 picture, or None where no clip has a picture.
    """
    tiles = [_tile(Path(root), entry, cell) for entry in clips_to_show(entries, limit)]
    if not tiles:
        return None
    count = len(tiles)
    columns = math.ceil(math.sqrt(count * 4 / 3))
    rows = math.ceil(count / columns)
    tiles += [torch.zeros(3, cell, cell, dtype=torch.uint8)] * (rows * columns - count)
    return torch.cat([torch.cat(tiles[r * columns : (r + 1) * columns], dim=2) for r in range(rows)], dim=1)


def clips_to_show(entries: Sequence[dict[str, Any]], limit: int = 48) -> list[dict[str, Any]]:
    """Return the entries of a contact sheet: usable clips with a picture, ``limit`` at most, evenly spread by name."""
    shown = sorted((e for e in entries if e["status"] == "ok" and e["frames"]), key=lambda e: e["name"])
    count = min(limit, len(shown))
    return [shown[i * len(shown) // count] for i in range(count)]


def _tile(root: Path, entry: dict[str, Any], cell: int) -> Tensor:
    middle = entry["frames"] // 2
    with open_clip(root, entry) as file:
        frame = read_frames(file, middle, middle + 1)
        landmarks = file.get_slice("landmarks")[middle]
    tile = interpolate(frame.float(), (cell, cell), mode="bilinear", antialias=True)[0].round().clamp(0, 255).byte()
    # Pixel centres: a frame's point x lies at (x + 0.5) * ratio - 0.5 of the tile.
    points = (landmarks + 0.5) * (cell / frame.shape[-1]) - 0.5
    for part, colour in zip(PARTS, _COLOURS, strict=True):
        for x, y in points[part].tolist():
            if math.isfinite(x + y):
                _dot(tile, round(x), round(y), colour)
    return tile


def _dot(tile: Tensor, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """Draw a cross of five pixels, in place."""
    size = tile.shape[-1]
    for u, v in ((x, y), (x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)):
        if 0 <= u < size and 0 <= v < size:
            tile[:, v, u] = torch.tensor(colour, dtype=torch.uint8)
