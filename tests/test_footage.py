"""Was the video good enough to learn a person from?"""

import math
import re
from typing import Any

import pytest
import torch

from talkhead.adapting.adaptation_report import told
from talkhead.adapting.footage import _median, pixel_noise, remarks


def test_noise_is_that_of_pixels_that_keep_still() -> None:
    """Noise of 5 grey levels on one channel average; a quarter of the picture also moves wildly."""
    generator = torch.Generator().manual_seed(3)
    grey = 120 + 5 * torch.randn(60, 1, 40, 40, generator=generator)
    grey[..., :20, :20] += 80 * torch.rand(60, 1, 20, 20, generator=generator)
    frames = grey.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)
    assert pixel_noise(frames) == pytest.approx(5.0, rel=0.2)
    assert pixel_noise(frames[:1].expand(9, -1, -1, -1)) == 0


GOOD = {
    "seconds": 20.0, "clips": 5, "lost": [], "faces_lost": 0.0, "face_pixels": 110.0, "noise": 1.0, "open_mouth": 0.4,
    "teeth": 0.6, "loudness": -20.0, "yaw": 8.0, "pitch": 6.0, "sync_offset": 0.0, "sync_by": "loudness",
}  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"seconds": 7.0}, "Only 7 s of video"),
        ({"lost": [{"clip": "b", "reason": "no face"}]}, r"1 clips could not be used \(b: no face\)"),
        ({"faces_lost": 0.1}, "In 10% of the frames no face was found"),
        ({"face_pixels": 50.0}, "The face is 50 px wide"),
        ({"noise": 9.0}, "noisy"),
        ({"yaw": 60.0}, "turns far"),
        ({"open_mouth": 0.01, "teeth": math.nan}, "hardly ever open"),
        ({"teeth": 0.0}, "Teeth are hardly seen"),
        ({"loudness": -70.0}, "very quiet"),
        ({"sync_offset": 5.0}, "200 ms late"),
        ({"sync_offset": -3.0, "sync_by": "expert"}, "120 ms early"),
    ],
)
def test_what_is_wrong_with_the_video_is_said(facts: dict[str, Any], said: str) -> None:
    assert remarks(GOOD, 25.0) == []
    (remark,) = remarks({**GOOD, **facts}, 25.0)
    assert re.search(said, remark)


@pytest.mark.parametrize(
    ("offsets", "said"),
    [([4.0, 1.0], "+2.5 frames"), ([3.0, math.nan, 1.0, -1.0], "+1 frames"), ([math.nan], "cannot be told")],
)
def test_of_an_even_number_of_clips_the_middle_is_between_two(offsets: list[float], said: str) -> None:
    assert told({**GOOD, "sync_offset": _median(offsets)})["lips against the sound"].startswith(said)
