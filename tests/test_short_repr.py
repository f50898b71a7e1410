"""Records of tensors show shapes, in a notebook and in an error, and not their numbers; each equals itself alone."""

from dataclasses import MISSING, fields
from fractions import Fraction
from typing import Any

import pytest
import torch

from talkhead.data.clip import Clip
from talkhead.dubbing.dub import Dubbing
from talkhead.dubbing.face_track import FaceTrack
from talkhead.evaluate.rows import Painting, Truth
from talkhead.face.portrait import Portrait
from talkhead.pipeline.feeling import EmotionKeys, EmotionTrack
from talkhead.pipeline.live_frames import LiveFrames, LiveMotion
from talkhead.pipeline.motion import LandmarkSequence
from talkhead.pipeline.stages import Result
from talkhead.tracking.detectors import Detection
from talkhead.tracking.track import TrackedShot

RECORDS = [
    *(Clip, Detection, Dubbing, EmotionKeys, EmotionTrack, FaceTrack, LiveFrames, LiveMotion, Painting, Portrait),
    *(Result, TrackedShot, Truth),
]


def test_a_sequence_shows_its_shape_rate_and_size() -> None:
    sequence = LandmarkSequence(torch.rand(50, 68, 2), Fraction(30000, 1001), (128, 96))
    assert repr(sequence) == "LandmarkSequence(landmarks=(50, 68, 2) float32, fps=30000/1001, size=(128, 96))"
    assert f"{[sequence]}" == f"[{sequence!r}]"


def filled(record: type) -> Any:
    made = object.__new__(record)
    for field in fields(record):
        long = "Tensor" in str(field.type) or field.default is MISSING
        object.__setattr__(made, field.name, torch.zeros(4, 1000) if long else field.default)
    return made


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_is_looked_up_as_itself(record: type) -> None:
    """Compared number by number it would raise torch's error about a truth value."""
    one, other = filled(record), filled(record)
    assert one != other and one == one
    assert [other, one].index(one) == 1 and {other: 0, one: 1}[one] == 1


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_shows_shapes(record: type) -> None:
    made = filled(record)
    assert "=(4, 1000) float32" in repr(made) and len(repr(made)) < 500
    assert repr(made).startswith(f"{record.__name__}(") and "tensor" not in repr(made)


def test_what_has_no_axis_is_shown_as_it_is_and_what_lies_elsewhere_with_its_place() -> None:
    one = torch.tensor
    clip = Clip(torch.zeros(16000, device="meta"), one(4), one(25.0), one(16000), names=("a",))
    assert repr(Clip(*[torch.zeros((), device="meta")] * 4)).startswith("Clip(audio=() float32 on meta,")
    assert repr(clip).startswith("Clip(audio=(16000,) float32 on meta, emotion=4, fps=25, samples=16000, frames=None")
    assert repr(clip).endswith("names=('a',))")
    bank = Dubbing(*[None] * 9, (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 68, 2)))  # type: ignore[arg-type]
    assert "bank=((2, 3, 8, 8) uint8, (2, 68, 2) float32))" in repr(bank)


def test_a_result_says_its_emotions_to_four_digits() -> None:
    result = Result(*[None] * 2, {"happy": 0.123456789, "sad": 0.5}, *[None] * 4)  # type: ignore[arg-type]
    assert "emotion={'happy': 0.1235, 'sad': 0.5}, emotion_track=None," in repr(result)
