"""talkhead: one portrait and one speech recording in, a talking-head video out.

The names below are imported when they are first used, so that ``import talkhead`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from talkhead._version import __version__

if TYPE_CHECKING:
    from talkhead import metrics
    from talkhead.adapting.adapt import adapt
    from talkhead.data.datamodule import MEADDataModule
    from talkhead.modules.emotion import EmotionClassifier
    from talkhead.modules.landmark import LandmarkGenerator
    from talkhead.modules.video import VideoDiffusion
    from talkhead.ops.mask_noise import mask_noise
    from talkhead.pipeline import TalkingHeadPipeline
    from talkhead.schedulers import MaskNoiseBridgeScheduler

__all__ = [
    "EmotionClassifier",
    "LandmarkGenerator",
    "MEADDataModule",
    "MaskNoiseBridgeScheduler",
    "TalkingHeadPipeline",
    "VideoDiffusion",
    "__version__",
    "adapt",
    "mask_noise",
    "metrics",
]

_HOMES = {
    "EmotionClassifier": "talkhead.modules.emotion",
    "LandmarkGenerator": "talkhead.modules.landmark",
    "MEADDataModule": "talkhead.data.datamodule",
    "MaskNoiseBridgeScheduler": "talkhead.schedulers",
    "TalkingHeadPipeline": "talkhead.pipeline",
    "VideoDiffusion": "talkhead.modules.video",
    "adapt": "talkhead.adapting.adapt",
    "mask_noise": "talkhead.ops.mask_noise",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name == "metrics":
        return import_module("talkhead.metrics")
    if name not in _HOMES:
        raise AttributeError(f"module 'talkhead' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
