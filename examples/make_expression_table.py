"""Make the table of expression shapes that talkhead ships from the ICT face model's shapes at the 68 landmarks.

    python examples/make_expression_table.py ict_landmarks68.npz

The .npz holds `neutral` (68, 3), `expression` (57, 68, 3) and `expression_names`, read off the vertex files of
https://github.com/USC-ICT/ICT-FaceKit (MIT). Two things are done to them: shapes that move none of the 68 points by
more than a hundredth of the distance between the eyes, or that only follow a glance, are left out; and the whole is
made exactly symmetric, by the mean of each shape and the mirror image of its other side.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from talkhead.face.expression import TABLE
from talkhead.face.points import MIRROR

SIDES = {"_L": "_R", "_R": "_L", "Left": "Right", "Right": "Left"}


def other_side(name: str) -> str:
    """Return the name of a shape's mirror image: its own where it has no side."""
    for end, opposite in SIDES.items():
        if name.endswith(end):
            return name.removesuffix(end) + opposite
    return name


def mirrored(points: np.ndarray) -> np.ndarray:
    """Return (68, 3) points or offsets as seen in a mirror."""
    return points[list(MIRROR)] * [-1, 1, 1]


def make_table(source: Path) -> dict[str, torch.Tensor]:
    """Return the neutral face and one (68, 3) tensor of offsets per shape, in the model's unit (about 1 cm)."""
    with np.load(source) as file:
        neutral, shapes, names = file["neutral"], file["expression"], file["expression_names"].tolist()
    eyes = np.linalg.norm(neutral[42:48].mean(0) - neutral[36:42].mean(0))
    by_name = dict(zip(names, shapes, strict=True))
    table = {"neutral": (neutral + mirrored(neutral)) / 2}
    for name, shape in by_name.items():
        if not name.startswith("eyeLook") and np.linalg.norm(shape, axis=1).max() > 0.01 * eyes:
            table[name] = (shape + mirrored(by_name[other_side(name)])) / 2
    return {name: torch.from_numpy(shape.astype(np.float32)) for name, shape in table.items()}


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the .npz of the model's 68 points")
    parser.add_argument("--output", type=Path, default=TABLE, help="(%(default)s)")
    args = parser.parse_args()
    save_file(make_table(args.source), args.output)
    print(args.output)


if __name__ == "__main__":
    main()
