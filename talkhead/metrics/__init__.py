"""How good the pictures and the landmarks are: each metric as a function and, for logging, as a torchmetrics class.

A function and its class share one computation: the function's ``reduce="none"`` gives one value per frame (or point),
the class adds those values up over batches, and both report their mean. Landmarks that are NaN (no face was found in
the frame) are left out of every mean; where none is left the result is NaN.

Pictures are uint8 RGB with the data range fixed at 255. Landmarks are px, (x, y). The definitions, with their sources,
are collected in ``docs/metrics.md``. The classes are imported when they are first used: torchmetrics takes its time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from talkhead.metrics.blinks import Blinks, eye_opening, find_blinks
from talkhead.metrics.identity import drift_per_minute, identity_similarity
from talkhead.metrics.landmarks import landmark_distance, landmark_velocity
from talkhead.metrics.liveliness import (
    HeadPose,
    brow_dynamics,
    brow_heights,
    closeness,
    head_diversity,
    head_motion,
    head_pose,
    lip_dynamics,
    silences,
    silent_lips,
)
from talkhead.metrics.mouths import (
    Correlation,
    audio_envelope,
    audio_mouth_sync,
    mouth_opening,
    opening_correlation,
    opening_variance_ratio,
)
from talkhead.metrics.perceptual import feature_distance, perceptual_distance
from talkhead.metrics.pictures import mouth_box, psnr, seam_ratio, sharpness, ssim

if TYPE_CHECKING:
    from talkhead.metrics.over_batches import (
        BlinkDuration,
        BlinkRate,
        BrowDynamics,
        DriftPerMinute,
        FramePSNR,
        FrameSSIM,
        HeadDiversity,
        HeadMotion,
        IdentitySimilarity,
        LandmarkDistance,
        LandmarkVelocity,
        LipDynamics,
        OpeningCorrelation,
        OpeningVarianceRatio,
        PerceptualDistance,
        SilentLips,
    )

__all__ = [
    "BlinkDuration",
    "BlinkRate",
    "Blinks",
    "BrowDynamics",
    "Correlation",
    "DriftPerMinute",
    "FramePSNR",
    "FrameSSIM",
    "HeadDiversity",
    "HeadMotion",
    "HeadPose",
    "IdentitySimilarity",
    "LandmarkDistance",
    "LandmarkVelocity",
    "LipDynamics",
    "OpeningCorrelation",
    "OpeningVarianceRatio",
    "PerceptualDistance",
    "SilentLips",
    "audio_envelope",
    "audio_mouth_sync",
    "brow_dynamics",
    "brow_heights",
    "closeness",
    "drift_per_minute",
    "eye_opening",
    "feature_distance",
    "find_blinks",
    "head_diversity",
    "head_motion",
    "head_pose",
    "identity_similarity",
    "landmark_distance",
    "landmark_velocity",
    "lip_dynamics",
    "mouth_box",
    "mouth_opening",
    "opening_correlation",
    "opening_variance_ratio",
    "perceptual_distance",
    "psnr",
    "seam_ratio",
    "sharpness",
    "silences",
    "silent_lips",
    "ssim",
]


def __getattr__(name: str) -> Any:
    """Import a class at its first use."""
    if name not in __all__:
        raise AttributeError(f"module 'talkhead.metrics' has no attribute {name!r}")
    value = getattr(import_module("talkhead.metrics.over_batches"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
