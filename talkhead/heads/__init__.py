"""A head drawn for speech, and laid over the motion of a track: whole, or as it comes."""
