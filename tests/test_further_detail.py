"""Where a further picture is shown, so is its fine detail, and the portrait's is not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from talkhead.face.crop import Crop
from talkhead.face.points import MOUTH, NOSE_TIP
from talkhead.finishing.detail import DetailRestorer
from talkhead.finishing.further_detail import FurtherDetail
from talkhead.finishing.placing import FramePlacer
from talkhead.pipeline import Portrait
from tests.conftest import tiny_face

POINTS = tiny_face(32)
RIGHT = torch.zeros(32, 32).index_fill(1, torch.arange(16, 32), 1.0)


def stripes(axis: int) -> torch.Tensor:
    """(3, 128, 128): lines of one px, finer than the 32 px of the renderer can hold."""
    lines = 100 + 50 * (torch.arange(128) % 2)
    return lines.view([1, 128, 1] if axis == 0 else [1, 1, 128]).expand(3, 128, 128).to(torch.uint8).contiguous()


def small(picture: torch.Tensor) -> torch.Tensor:
    return F.interpolate(picture[None].float(), (32, 32), mode="bilinear", antialias=True)[0].round().to(torch.uint8)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_mix_holds_each_pictures_detail_by_its_share(share: float, channels: int):
    """Lines across in the portrait, upright ones in the other picture, of which the right half is to be shown."""
    own, other = stripes(0), stripes(1)
    square = own if channels == 3 else torch.cat((own, torch.full((1, 128, 128), 255, dtype=torch.uint8)))
    further = FurtherDetail(other[None], (POINTS[None] + 0.5) * 4 - 0.5, 32)
    restore = DetailRestorer(square, small(own), POINTS, further=further)
    painted = torch.lerp(small(own).float(), small(other).float(), share * RIGHT)[None].round().to(torch.uint8)
    told = torch.cat((torch.zeros(1, 32, 32, 2), share * RIGHT[None, ..., None]), -1)
    frame = restore(painted, POINTS[None], told)[0, :3].float()
    expected = torch.lerp(own.float(), other.float(), share)
    assert (frame - expected)[:, :, 68:].abs().max() <= 2
    assert (frame - own.float())[:, :, :60].abs().max() <= 1


def test_a_picture_no_finer_than_the_renderers_takes_the_portraits_detail_from_the_lips_alone():
    """It has none: on the lips there is the even grey that was painted, on the cheek the portrait's lines."""
    own = stripes(0)
    restore = DetailRestorer(own, small(own), POINTS, further=FurtherDetail(small(own)[None], POINTS[None], 32))
    told = torch.cat((torch.zeros(1, 32, 32, 2), torch.ones(1, 32, 32, 1)), -1)
    frame = restore(small(own)[None], POINTS[None], told)[0].float()
    x, y = ((POINTS[MOUTH].mean(0) + 0.5) * 4 - 0.5).round().int().tolist()
    assert (frame[:, y - 2 : y + 2, x - 8 : x + 8] - 125).abs().max() <= 3
    assert (frame - own)[:, 40:60].abs().max() <= 2


def test_it_is_bent_to_the_frame():
    """A spot on the other's nose, too small for the renderer, whose head stands 8 px aside, comes to this nose."""
    own, other = torch.full((3, 128, 128), 100, dtype=torch.uint8), torch.full((3, 128, 128), 100, dtype=torch.uint8)
    points = ((POINTS + torch.tensor([2.0, 1.0]) + 0.5) * 4 - 0.5).round()
    x, y = points[NOSE_TIP].int().tolist()
    other[:, y - 1 : y + 2, x - 1 : x + 2] = 250
    restore = DetailRestorer(own, small(own), POINTS, further=FurtherDetail(other[None], points[None], 32))
    told = torch.cat((torch.zeros(1, 32, 32, 2), torch.ones(1, 32, 32, 1)), -1)
    frame = restore(small(own)[None], POINTS[None], told)[0, 0].float()
    brightest = int(frame.argmax())
    wanted = (POINTS[NOSE_TIP] + 0.5) * 4 - 0.5
    assert frame.max() > 180
    assert [brightest % 128, brightest // 128] == pytest.approx(wanted.tolist(), abs=1.5)


@pytest.mark.parametrize("size", [64, 128])
def test_a_picture_larger_than_it_is_shown_is_shrunk_not_sampled_at_points(size: int):
    """White noise, all of it shown: PIL's own antialiased picture of it; points alone would be 40 levels off."""
    own, other = torch.randint(0, 255, (2, 3, 512, 512), dtype=torch.uint8)
    portrait = Portrait(own, (POINTS + 0.5) * 16 - 0.5, Crop(0, 0, 512), small(own), POINTS)
    place = FramePlacer(portrait, size=size, further=(other[None], portrait.landmarks[None]))
    told = torch.cat((torch.zeros(1, 32, 32, 2), torch.ones(1, 32, 32, 1)), -1)
    frame = place(small(other)[None], POINTS[None], told)[0].numpy()
    expected = Image.fromarray(other.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BILINEAR)
    assert ((frame.astype(float) - np.asarray(expected)) ** 2).mean() ** 0.5 < 1.5
