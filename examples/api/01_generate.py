"""A portrait and a recording in, a video out.

python examples/api/01_generate.py                          the bundled speaker's own portrait and speech
python examples/api/01_generate.py me.jpg hello.wav me.mp4  yours
"""

import sys

import talkhead

pipe = talkhead.TalkingHeadPipeline.from_pretrained("bundled")
if len(sys.argv) == 4:
    image, audio, output = sys.argv[1:]
    result = pipe(image, audio, frame="full", seed=0)
else:
    image, audio, output = pipe.folder / "portrait.png", pipe.folder / "speech.flac", "talk.mp4"
    result = pipe(image, audio, reference_landmarks=pipe.info["reference_landmarks"], seed=0)

result.save(output)
likely = max(result.emotion, key=result.emotion.get)
print(f"{output}: {len(result.frames)} frames at {float(result.fps):g} per second; the voice sounds {likely}")
