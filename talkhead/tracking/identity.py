"""Who a face is: the 128 numbers of dlib's face recognition net, where the extra ``dlib`` is installed."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from talkhead.tracking.detectors import dlib_model

MODEL = "dlib_face_recognition_resnet_model_v1.dat"


def can_describe_faces() -> bool:
    """Say whether dlib and its face recognition model are installed."""
    return importlib.util.find_spec("dlib") is not None and dlib_model(MODEL) is not None


def describe_faces(frames: Tensor, landmarks: Tensor) -> Tensor:
    """Describe each face by whom it belongs to.

    Args:
        frames: (T, 3, H, W) uint8 RGB.
        landmarks: (T, 68, 2) px: where the face is; the net sees it turned upright and cut out by them.

    Returns:
        (T, 128); of one person nearly the same, NaN where the landmarks are.

    Raises:
        ImportError: if dlib or its model is not installed.
    """
    if not can_describe_faces():
        raise ImportError("identity needs dlib's face descriptor; run: pip install dlib-bin face-recognition-models")
    dlib, net = _load()
    found = torch.full((len(frames), 128), torch.nan)
    for row, frame, points in zip(found, frames, landmarks, strict=True):
        if not points.isfinite().all():
            continue
        (left, top), (right, bottom) = points.amin(0).tolist(), points.amax(0).tolist()
        places = dlib.points([dlib.point(round(x), round(y)) for x, y in points.tolist()])
        box = dlib.rectangle(round(left), round(top), round(right), round(bottom))
        picture = frame.permute(1, 2, 0).contiguous().cpu().numpy()
        row.copy_(torch.tensor(list(net.compute_face_descriptor(picture, dlib.full_object_detection(box, places)))))
    return found


@lru_cache
def _load() -> tuple[Any, Any]:
    import dlib

    return dlib, dlib.face_recognition_model_v1(str(dlib_model(MODEL)))
