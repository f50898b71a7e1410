"""A video of any length in constant memory: the pieces come while later ones have not been begun.

python examples/api/02_stream.py
"""

import time

import talkhead

pipe = talkhead.TalkingHeadPipeline.from_pretrained("bundled")
pieces = pipe.stream(
    pipe.folder / "portrait.png",
    pipe.folder / "speech.flac",
    reference_landmarks=pipe.info["reference_landmarks"],
    emotion="happy",
)
print(f"{pieces.num_frames} frames of {pieces.size[1]} x {pieces.size[0]} px are to come")
start = time.perf_counter()
for piece in pieces:
    stop = piece.start + len(piece.frames)
    print(f"frames {piece.start} to {stop - 1} with {len(piece.audio)} samples, {time.perf_counter() - start:.1f} s")
