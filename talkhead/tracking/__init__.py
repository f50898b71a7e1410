"""Find faces and their landmarks in pictures, and follow one through a video, over its cuts."""
