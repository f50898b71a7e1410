"""The pipeline in people's browsers: a page to make videos with, and a face that speaks live."""

LARGEST_SIDE = 1024
"""px, side of the pictures that those who did not start the program may ask for."""

LARGEST_WHOLE = 1920
"""px, longer side of the whole pictures that they may ask for: larger ones are shrunk."""
