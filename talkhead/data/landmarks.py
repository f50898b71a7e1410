"""The detectors' former address, kept for scripts; see `talkhead.tracking.track`."""

from talkhead.tracking.track import LandmarkDetector, load_detector, smooth_landmarks, track_landmarks

__all__ = ["LandmarkDetector", "load_detector", "smooth_landmarks", "track_landmarks"]
