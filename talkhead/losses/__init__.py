"""What the renderer's training holds against a picture beside its squared error."""
