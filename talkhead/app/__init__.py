"""The pipeline in people's browsers: a page to make videos with, and a face that speaks live."""
