"""The motion between sound and picture: save it, change it, paint it again.

python examples/api/03_edit_motion.py
"""

import talkhead
from talkhead.pipeline.motion import LandmarkSequence

pipe = talkhead.TalkingHeadPipeline.from_pretrained("bundled")
portrait, speech = pipe.folder / "portrait.png", pipe.folder / "speech.flac"
options = {"reference_landmarks": pipe.info["reference_landmarks"], "emotion": "neutral"}

result = pipe(portrait, speech, **options)
result.motion.save("motion.npz")

motion = LandmarkSequence.load("motion.npz")
motion.plot("motion.png")
articulate = motion.gain(mouth=1.4, pose=0.5)
pipe(portrait, speech, landmarks=articulate, **options).save("articulate.mp4")
print("motion.npz, motion.png and articulate.mp4 written")
