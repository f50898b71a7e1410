"""New words for an existing video."""
