"""The readers' former address, kept for scripts; they live in `talkhead.media`."""

from talkhead.media.read import iter_frames, probe, read_audio, read_image, read_video
from talkhead.media.write import VideoWriter, write_audio, write_image

__all__ = ["VideoWriter", "iter_frames", "probe", "read_audio"]
__all__ += ["read_image", "read_video", "write_audio", "write_image"]
