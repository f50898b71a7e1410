"""Write the first frame of a folder's first video as a picture: python examples/first_frame.py CLIPS PORTRAIT.png."""

import sys

from talkhead.data.index import list_sources
from talkhead.media.read import iter_frames, write_image

clips, output = sys.argv[1:]
first = next(source for source in list_sources("folder", clips) if source.has_video)
write_image(output, next(iter(iter_frames(first.path))))
