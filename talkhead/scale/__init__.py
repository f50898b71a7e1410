"""Work that is larger than one call: many videos in one run, and engines beyond this machine's processes."""
