"""What belongs to a face: its points, its frame of reference, crops, warps and small motions."""
