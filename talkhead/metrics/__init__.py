"""How good the pictures and the landmarks are: each metric as a function and, for logging, as a torchmetrics class.

A function and its class share one computation: the function's ``reduce="none"`` gives one value per frame (or point),
the class adds those values up over batches, and both report their mean. Landmarks that are NaN (no face was found in
the frame) are left out of every mean; where none is left the result is NaN.

Pictures are uint8 RGB with the data range fixed at 255. Landmarks are px, (x, y). The definitions, with their sources,
are collected in ``docs/metrics.md``.
"""

from talkhead.metrics.landmarks import (
    Correlation,
    LandmarkDistance,
    LandmarkVelocity,
    OpeningCorrelation,
    OpeningVarianceRatio,
    audio_envelope,
    audio_mouth_sync,
    landmark_distance,
    landmark_velocity,
    mouth_opening,
    opening_correlation,
    opening_variance_ratio,
)
from talkhead.metrics.pictures import FramePSNR, FrameSSIM, mouth_box, psnr, seam_ratio, sharpness, ssim

__all__ = [
    "Correlation",
    "FramePSNR",
    "FrameSSIM",
    "LandmarkDistance",
    "LandmarkVelocity",
    "OpeningCorrelation",
    "OpeningVarianceRatio",
    "audio_envelope",
    "audio_mouth_sync",
    "landmark_distance",
    "landmark_velocity",
    "mouth_box",
    "mouth_opening",
    "opening_correlation",
    "opening_variance_ratio",
    "psnr",
    "seam_ratio",
    "sharpness",
    "ssim",
]
