"""talkhead: one portrait and one speech recording in, a talking-head video out."""

__version__ = "0.1.0"
