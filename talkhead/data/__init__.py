"""Media, landmarks, datasets."""
