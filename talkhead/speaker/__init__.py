"""A speaker as a folder: find, check, load, save, and export from what was trained."""
