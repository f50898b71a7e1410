"""Landmark distance and velocity."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from talkhead.face.points import MOUTH
from talkhead.face.similarity import fit_similarity
from talkhead.metrics.reduced import reduced

Region = Literal["face", "mouth"] | slice
Center = Literal["none", "mean", "similarity"]
Unit = Literal["px", "px256"]


def landmark_distance(
    pred: Tensor,
    target: Tensor,
    region: Region = "face",
    center: Center = "none",
    unit: Unit = "px",
    size: int | None = None,
    reduce: Literal["mean", "none", "frobenius"] = "mean",
) -> Tensor:
    """Return the mean Euclidean distance between corresponding landmarks: F-LD over the face, M-LD over the mouth.

    Args:
        pred: (..., K, 2) px, predicted landmarks.
        target: (..., K, 2) px, true landmarks.
        region: ``"face"`` for all points, ``"mouth"`` for points 48-67, or a slice of the points.
        center: what is removed first, per frame and from all K points whatever the region: ``"none"`` nothing,
            ``"mean"`` the mean point of each side (translation), ``"similarity"`` the translation, rotation and scale
            that best lay ``pred`` on ``target`` (Procrustes, no reflection). Points that are NaN on either side are
            left out of this, too.
        unit: ``"px"``, or ``"px256"`` for px of a frame 256 px wide; the latter needs ``size``.
        size: width of the frame in px that the landmarks belong to.
        reduce: ``"mean"`` over points and frames; ``"none"`` for every point's distance; ``"frobenius"`` for the
            norm of the whole difference, which grows with the number of points and frames (the authors' released
            metric, for comparison only).

    Returns:
        () distance, or (..., K') distances for ``reduce="none"``, in ``unit``.

    Raises:
        ValueError: if the shapes differ, an option is unknown, or ``"px256"`` comes without ``size``.

    Example:
        >>> target = torch.zeros(5, 68, 2)
        >>> pred = target + torch.tensor([3.0, 4.0])
        >>> landmark_distance(pred, target, region="mouth", unit="px256", size=128).item()
        10.0
        >>> landmark_distance(pred, target, center="mean").item()
        0.0
    """
    return _norm(_difference(pred, target, region, center) * _scale(unit, size), reduce)


def landmark_velocity(
    pred: Tensor,
    target: Tensor,
    region: Region = "face",
    center: Center = "none",
    unit: Unit = "px",
    size: int | None = None,
    reduce: Literal["mean", "none", "frobenius"] = "mean",
) -> Tensor:
    """Return the distance between the landmarks' velocities, where velocity is frame t+1 minus frame t.

    Args:
        pred: (..., T, K, 2) px, predicted landmarks, T >= 2.
        target: (..., T, K, 2) px, true landmarks.
        region: as in :func:`landmark_distance`.
        center: as in :func:`landmark_distance`; applied before the frames are subtracted.
        unit: as in :func:`landmark_distance`, per frame.
        size: as in :func:`landmark_distance`.
        reduce: as in :func:`landmark_distance`.

    Returns:
        () distance, or (..., T - 1, K') distances for ``reduce="none"``, in ``unit`` per frame.

    Raises:
        ValueError: as :func:`landmark_distance`, and if there are fewer than two frames.

    Example:
        >>> target = torch.zeros(3, 68, 2)
        >>> pred = target + torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1) * torch.tensor([1.0, 0.0])
        >>> landmark_velocity(pred, target).item()  # steps of 1 and 2 px where there are none
        1.5
    """
    if pred.ndim < 3 or pred.shape[-3] < 2:
        raise ValueError(f"landmarks must be (..., T, K, 2) with T >= 2 for a velocity; got {tuple(pred.shape)}")
    return _norm(_difference(pred, target, region, center).diff(dim=-3) * _scale(unit, size), reduce)


def _norm(difference: Tensor, reduce: str) -> Tensor:
    """Return the (..., K') lengths of (..., K', 2) differences, their mean, or the norm of all; NaN is left out."""
    if reduce != "frobenius":
        return reduced(difference.norm(dim=-1), reduce)
    seen = difference[~difference.isnan().any(-1)]
    return seen.norm() if len(seen) else seen.new_tensor(torch.nan)


def _difference(pred: Tensor, target: Tensor, region: Region, center: Center) -> Tensor:
    """Return (..., K', 2): prediction minus target in the region, after centring both."""
    if pred.shape != target.shape or pred.ndim < 2 or pred.shape[-1] != 2:
        raise ValueError(f"pred and target must both be (..., K, 2); got {tuple(pred.shape)} and {tuple(target.shape)}")
    if isinstance(region, str) and (region not in ("face", "mouth") or (region == "mouth" and pred.shape[-2] != 68)):
        raise ValueError(
            f"region must be 'face', 'mouth' (of 68 points) or a slice; got {region!r} of {pred.shape[-2]}"
        )
    pred, target = _centred(pred.float(), target.float(), center)
    points = region if isinstance(region, slice) else MOUTH if region == "mouth" else slice(None)
    return (pred - target)[..., points, :]


def _centred(pred: Tensor, target: Tensor, center: Center) -> tuple[Tensor, Tensor]:
    """Remove from ``pred`` what the option names, relative to ``target``."""
    if center == "none":
        return pred, target
    if center not in ("mean", "similarity"):
        raise ValueError(f"center must be 'none', 'mean' or 'similarity'; got {center!r}")
    seen = ~(pred - target).isnan().any(-1, keepdim=True)  # what one side lacks says nothing of the other's place
    means = [side.where(seen, torch.nan).nanmean(-2, keepdim=True) for side in (pred, target)]
    if center == "mean":
        return pred - means[0], target - means[1]
    # A point in the middle of both sides turns and scales nothing.
    return fit_similarity(pred.where(seen, means[0]), target.where(seen, means[1]))(pred), target


def _scale(unit: Unit, size: int | None) -> float:
    """Return the factor from px to ``unit``."""
    if unit == "px":
        return 1.0
    if unit != "px256" or not size:
        raise ValueError(f"unit must be 'px', or 'px256' with size=<frame width in px>; got {unit!r} with size={size}")
    return 256 / size


def checked_points(landmarks: Tensor) -> Tensor:
    """Return (..., 68, 2) landmarks in float32, or say what is wrong with them."""
    if landmarks.ndim < 2 or landmarks.shape[-2:] != (68, 2):
        raise ValueError(f"landmarks must be (..., 68, 2); got {tuple(landmarks.shape)}")
    return landmarks.float()
