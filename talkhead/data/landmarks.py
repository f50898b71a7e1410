"""The detectors' former address, kept for scripts; see `talkhead.data.tracking`."""

from talkhead.data.tracking import LandmarkDetector, load_detector, smooth_landmarks, track_landmarks

__all__ = ["LandmarkDetector", "load_detector", "smooth_landmarks", "track_landmarks"]
