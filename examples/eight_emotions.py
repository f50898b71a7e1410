"""One portrait says one sentence in eight emotions: a picture with two moments of each.

python examples/eight_emotions.py --output docs/images/emotions.png                       # the bundled speaker
python examples/eight_emotions.py --image me.jpg --audio hello.wav --output emotions.png  # you
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from talkhead import TalkingHeadPipeline
from talkhead.data.clip import EMOTIONS, SAMPLE_RATE
from talkhead.media.read import read_audio
from talkhead.media.write import write_image
from talkhead.speaker.folder import own_references

ORDER = ("neutral", *(name for name in EMOTIONS if name != "neutral"))


def moments(result: Any) -> Tensor:
    """Return (2, H, W, 3): the frames with the mouth widest open and shut, once the emotion has risen."""
    shown = result.frames[round(0.6 * float(result.fps)) :]
    landmarks = result.landmarks[-len(shown) :]
    gaps = (landmarks[:, 66] - landmarks[:, 62]).norm(dim=-1)
    return shown[[int(gaps.argmin()), int(gaps.argmax())]]


def labelled(columns: dict[str, Tensor], width: int) -> Tensor:
    """Put the columns (2, H, W, 3) side by side under their names: (3, H', W') uint8."""
    from PIL import Image, ImageDraw, ImageFont

    names = Image.new("RGB", (width * len(columns), 22), "white")
    draw = ImageDraw.Draw(names)
    for place, name in enumerate(columns):
        draw.text(((place + 0.5) * width, 11), name, "black", ImageFont.load_default(14), anchor="mm")
    head = torch.tensor(list(names.tobytes()), dtype=torch.uint8).view(22, -1, 3)
    pictures = torch.cat([torch.cat(list(column)) for column in columns.values()], 1)
    return torch.cat([head, pictures]).permute(2, 0, 1).contiguous()


def main() -> None:
    """Paint and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speaker", default="bundled", help="the pipeline (%(default)s)")
    parser.add_argument("--image", help="the portrait (the speaker's)")
    parser.add_argument("--audio", help="the speech (the speaker's)")
    parser.add_argument("--seconds", type=float, default=2.4, help="of the speech (%(default)s)")
    parser.add_argument("--size", type=int, default=128, help="of the face in px (%(default)s)")
    parser.add_argument("--strength", type=float, default=1.0, help="of the emotions (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs/emotions.png"), help="(%(default)s)")
    args = parser.parse_args()
    pipe = TalkingHeadPipeline.from_pretrained(args.speaker)
    assert pipe.folder is not None
    options: dict[str, Any] = {"size": args.size, "emotion_strength": args.strength}
    if args.image is None:
        options["reference_landmarks"] = torch.tensor(pipe.info["reference_landmarks"])
        options["references"] = own_references(pipe.folder)
    speech = read_audio(args.audio or pipe.folder / "speech.flac")[: round(args.seconds * SAMPLE_RATE)]
    image = args.image or pipe.folder / "portrait.png"
    columns = {name: moments(pipe(image, speech, emotion=name, **options)) for name in ORDER}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_image(args.output, labelled(columns, args.size))
    print(args.output)


if __name__ == "__main__":
    main()
