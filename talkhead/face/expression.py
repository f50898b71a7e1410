"""Expressions on the 68 landmarks: single muscle actions and the emotions mixed from them, on any face in any pose.

A table from a licensed 3-D face model (ICT-FaceKit, MIT) says how each action moves the landmarks of a mean face X. The
portrait p is seen through a scaled orthographic camera, p = s X R + t with R (3, 2) the first columns of a rotation; an
action's offsets d, turned and scaled alike, are added to the portrait:

    p' = p + s (sum_a w_a d_a) R

so that a face seen from the side moves as it would, and a large face moves more pixels than a small one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

TABLE = Path(__file__).parents[1] / "assets" / "expression" / "shapes.safetensors"

FACS = {
    "AU1": "browInnerUp",
    "AU2": "browOuterUp",
    "AU4": "browDown",
    "AU5": "eyeWide",
    "AU6": "cheekSquint",
    "AU7": "eyeSquint",
    "AU9": "noseSneer",
    "AU10": "mouthUpperUp",
    "AU12": "mouthSmile",
    "AU14": "mouthDimple",
    "AU15": "mouthFrown",
    "AU16": "mouthLowerDown",
    "AU17": "mouthShrugLower",
    "AU18": "mouthPucker",
    "AU20": "mouthStretch",
    "AU22": "mouthFunnel",
    "AU24": "mouthPress",
    "AU26": "jawOpen",
    "AU29": "jawForward",
    "AU34": "cheekPuff",
    "AU45": "eyeBlink",
}
"""Action units of the Facial Action Coding System (Ekman & Friesen 1978) and ARKit's nearest shapes."""

EMOTION_ACTIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "happy": {
        "mouthSmile": 1.3,
        "cheekSquint": 0.7,
        "eyeSquint": 0.4,
        "mouthUpperUp": 0.3,
        "jawOpen": 0.05,
        "browInnerUp": 0.4,
        "browOuterUp": 0.3,
    },
    "sad": {"browInnerUp": 1.5, "browDown": 1.5, "mouthFrown": 1.3, "mouthShrugLower": 0.7, "eyeBlink": 0.25},
    "surprised": {"browInnerUp": 1.4, "browOuterUp": 1.3, "eyeWide": 1.6, "jawOpen": 0.3, "mouthFunnel": 0.2},
    "fear": {
        "browInnerUp": 1.5,
        "browOuterUp": 0.5,
        "browDown": 1.0,
        "eyeWide": 1.6,
        "mouthStretch": 0.9,
        "jawOpen": 0.15,
    },
    "angry": {
        "browDown": 2.2,
        "eyeWide": 0.3,
        "eyeSquint": 0.7,
        "mouthUpperUp": 1.3,
        "mouthFrown": 1.0,
        "mouthPress": 0.5,
    },
    "disgusted": {
        "noseSneer": 1.3,
        "mouthUpperUp": 0.7,
        "mouthLowerDown": 0.5,
        "browDown": 0.6,
        "mouthFrown": 0.6,
        "cheekSquint": 0.7,
        "eyeSquint": 0.5,
    },
    "contempt": {"mouthSmile_L": 0.7, "mouthDimple_L": 1.2, "eyeSquint": 0.3},
}
"""What each emotion is mixed from at strength 1, after the prototypes of EMFACS (Ekman, Friesen & Hager 2002): happy
6 + 12, sad 1 + 4 + 15 + 17, surprised 1 + 2 + 5 + 26, fear 1 + 2 + 4 + 5 + 20 + 26, angry 4 + 5 + 7 + 10 + 24,
disgusted 9 + 10 + 16, contempt 12 + 14 on one side. In sad and fear 4 is about as strong as 1: the corrugator holds
the outer brow down while its inner end rises, where the model's browInnerUp alone lifts all of it. Nine, the nose's
wrinkling, is disgust's and not anger's; it lowers the brows by itself. The model's 9 and 10 lift the mouth's corners,
which angry and disgusted faces do not: mouthFrown takes that back. A warped portrait shows no new wrinkles and few
teeth, so the weights are those at which it is read, not those of a living face: see docs/expression.md."""


def expression(landmarks: Tensor, actions: Mapping[str, float], strength: float = 1.0) -> Tensor:
    """Return faces that do what ``actions`` say.

    Args:
        landmarks: (..., 68, 2) px, faces at rest.
        actions: weight of each action, 0 nothing, 1 the face model's full action: an ARKit name with or without its
            side (``browDown``, ``mouthSmile_L``; L is the person's own left), or an action unit (``AU4``, ``AU12_R``).
            `EMOTION_ACTIONS` has those of the emotions.
        strength: factor of all weights, in [0, 2].

    Returns:
        (..., 68, 2) px.

    Raises:
        ValueError: if an action is unknown, a weight is not finite, the strength is out of range, or the landmarks have
            another shape.

    Example:
        >>> face = average_face()[:, :2] * torch.tensor([10.0, -10.0]) + 100  # px, y down
        >>> angry = expression(face, {"browDown": 0.7})
        >>> bool((angry[17:27, 1] > face[17:27, 1]).all())
        True
    """
    if landmarks.shape[-2:] != (68, 2):
        raise ValueError(f"landmarks must have shape (..., 68, 2), (x, y) in px; got {tuple(landmarks.shape)}")
    if not 0 <= strength <= 2:
        raise ValueError(f"strength must lie in 0..2, 1 the full expression; got {strength}")
    offsets = strength * action_offsets(actions).to(landmarks)
    return landmarks + project(offsets, landmarks)


def action_offsets(actions: Mapping[str, float]) -> Tensor:
    """Return the (68, 3) offsets that weighted actions add to the mean face, in the table's unit; see `expression`."""
    shapes = action_shapes()
    total = torch.zeros(68, 3)
    for name, weight in actions.items():
        if not torch.tensor(float(weight)).isfinite():
            raise ValueError(f"actions: the weight of {name!r} must be a finite number; got {weight}")
        total += float(weight) * sum(shapes[shape] for shape in shapes_of(name))
    return total


def shapes_of(action: str) -> tuple[str, ...]:
    """Return the names of the table's shapes that an action means: both sides where it names none.

    Raises:
        ValueError: if there is no such action.
    """
    base, mark, side = action.partition("_")
    name = FACS.get(base, base) + mark + side
    found = tuple(shape for shape in (name, f"{name}_L", f"{name}_R") if shape in action_shapes())
    if not found:
        known = sorted({shape.removesuffix("_L").removesuffix("_R") for shape in action_shapes()})
        raise ValueError(
            f"actions: no action {action!r}; known are {', '.join(known)}, each with _L or _R where it has sides, and "
            f"the action units {', '.join(FACS)}"
        )
    return found


def project(offsets: Tensor, landmarks: Tensor) -> Tensor:
    """Turn offsets of the mean face into px of faces in their own poses.

    Args:
        offsets: (..., 68, 3) in the table's unit.
        landmarks: (..., 68, 2) px.

    Returns:
        (..., 68, 2) px.
    """
    with torch.autocast(landmarks.device.type, enabled=False):
        return offsets @ camera(landmarks)


def camera(landmarks: Tensor) -> Tensor:
    """Fit the scaled orthographic camera that sees the mean face where a face's landmarks are.

    The affine camera of least squares, brought to the nearest scaled rotation (scaled orthography with linear
    factorisation, after Tomasi & Kanade 1992).

    Args:
        landmarks: (..., 68, 2) px.

    Returns:
        (..., 3, 2): the rotation's first two columns times the scale in px per unit of the table; the second points
        down the picture.
    """
    mean = average_face().double()
    mean = mean - mean.mean(0)
    points = landmarks.double()
    affine = torch.linalg.pinv(mean).to(points) @ points  # of centred points: their mean drops out
    left, sizes, right = torch.linalg.svd(affine, full_matrices=False)
    return (sizes.mean(-1)[..., None, None] * left @ right).to(landmarks.dtype)


def average_face() -> Tensor:
    """Return the (68, 3) points of the mean face at rest: unit about 1 cm, y up, z to the viewer."""
    return _table()["neutral"]


def action_shapes() -> dict[str, Tensor]:
    """Return the (68, 3) offsets of every action shape at weight 1 by its ARKit name."""
    return {name: shape for name, shape in _table().items() if name != "neutral"}


@cache
def _table() -> dict[str, Tensor]:
    return load_file(TABLE)
