"""Reading and writing pictures, sound and video: the only rooms that touch codecs."""
