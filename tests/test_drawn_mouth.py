"""Opened mouths get teeth where anatomy has them, between the lips alone, and only where no picture shows his own."""

import math

import pytest
import torch
from conftest import tiny_face
from safetensors.torch import save_file

from talkhead.face.points import CHIN, INNER_LIP
from talkhead.face.polygon import signed_distance
from talkhead.finishing.drawn_mouth import DrawnMouth
from talkhead.speaker.references import mouth_to_draw

SKIN, TOOTH = 100, 125  # a grey face, whose eyes are as bright as its skin: teeth are 1.25 times as bright
BEFORE = 60
EYES = 0.4 * 127  # px between the eyes of a tiny face of 128 px
MEETING = 0.74 * 127  # px: where its lips meet
GREEN = 1  # the channel that shade does not redden


def face(light: float = SKIN) -> torch.Tensor:
    return torch.full((3, 128, 128), round(light), dtype=torch.uint8)


def drawn(landmarks: torch.Tensor, size: int = 128, channels: int = 3, light: float = SKIN) -> torch.Tensor:
    """Fill one frame of a grey face whose lips are shut at rest."""
    frame = torch.full((1, channels, size, size), BEFORE, dtype=torch.uint8)
    return DrawnMouth(face(light), tiny_face(128, 0.0)[None])(frame, landmarks[None])[0]


@pytest.mark.parametrize("size", [128, 192, 512])
def test_an_open_mouth_is_filled_and_nothing_else(size: int):
    shut, wide = tiny_face(size, 0.0), tiny_face(size, 1.0)
    inside = signed_distance(wide[INNER_LIP], (size, size)) * 128 / size
    assert (drawn(shut, size) == BEFORE).all()  # shut lips stay shut
    filled = drawn(wide, size)
    assert (filled[:, inside > 4] == BEFORE).all()
    assert ((filled[:, inside < -2] != BEFORE).float().mean()) > 0.95


def below_meeting(distance: float) -> int:
    """Return the row of a frame of 512 px that many eye distances below where the lips meet."""
    return round((0.74 + 0.4 * distance) * 511)


def fallen_jaw(size: int) -> torch.Tensor:
    points = tiny_face(size, 1.0)
    points[CHIN] += torch.tensor([0.0, 0.25 * size])
    return points


def test_teeth_are_where_anatomy_has_them_and_as_bright_as_the_eyes_say():
    filled = drawn(fallen_jaw(512), 512)[GREEN].float()
    column = round((0.5 + 0.4 * 0.137 / 2) * 511)  # the middle of a central incisor, 0.0685 eye distances off
    turned_away, cheeks = 1 - 2.2 * 0.0685**2, 1 - 0.4 * (0.0685 / 0.25) ** 2  # the lips' corners are 0.25 away
    tooth = pytest.approx(TOOTH * turned_away * cheeks, abs=3)
    assert filled[below_meeting(-0.03), column] == tooth
    assert filled[below_meeting(0.02), column] == tooth  # it ends at 0.055
    lip = 0.15 * (1 + 2**0.5) / 3  # the mean of three points on an arc that is 0.15 high
    tongue = (0.095 + lip) / (2 * lip)  # of the way from lip to lip, of which the first 0.35 are dark
    tongue = (tongue - 0.35) / 0.65
    depth = SKIN * (0.22 + (0.38 - 0.22) * tongue * tongue * (3 - 2 * tongue))
    assert filled[below_meeting(0.095), column] == pytest.approx(depth * cheeks, abs=4)
    row = filled[below_meeting(-0.03)]
    assert row[255:257].max() < 0.9 * row[column]  # the seam between the incisors
    assert row[round((0.5 + 0.4 * 0.18) * 511)] < 0.85 * row[column]  # less light towards the corners


def test_upper_teeth_are_fast_to_the_skull_and_lower_ones_to_the_jaw():
    still, moved = (drawn(points, 512)[GREEN].float() for points in (tiny_face(512, 1.0), fallen_jaw(512)))
    upper = slice(below_meeting(-0.14), below_meeting(0.02))
    assert torch.equal(still[upper], moved[upper])
    # With the jaw up, lower teeth stand 0.02 eye distances above the lip (0.12); with the jaw down they are behind it.
    assert still[below_meeting(0.115), 270] > moved[below_meeting(0.115), 270] + 20


def test_the_mouth_turns_and_grows_with_the_head():
    wide = tiny_face(128, 1.0)
    angle, scale, middle = 0.3, 1.2, wide.mean(0)
    turn = scale * torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    turned = (wide - middle) @ turn + middle
    upright, tilted = drawn(wide).float(), drawn(turned).float()
    inside = (signed_distance(wide[INNER_LIP], (128, 128)) < -1).nonzero().flip(1).float()
    there = (inside - middle) @ turn + middle
    grid = ((there + 0.5) * 2 / 128 - 1)[None, None]
    found = torch.nn.functional.grid_sample(tilted[None], grid, align_corners=False)[0, :, 0]
    x, y = inside.long().unbind(1)
    assert (found - upright[:, y, x]).abs().mean() < 4  # of 90 levels between teeth and dark


def test_all_sizes_show_the_same_mouth():
    small, large = drawn(tiny_face(128, 1.0)), drawn(tiny_face(512, 1.0), 512)
    inside = signed_distance(tiny_face(128, 1.0)[INNER_LIP], (128, 128)) < -2
    shrunk = torch.nn.functional.avg_pool2d(large.float(), 4)
    assert (shrunk - small.float())[:, inside].abs().mean() < 6


def test_a_darker_face_gets_darker_teeth_and_the_opacity_stays():
    wide = tiny_face(128, 1.0)
    bright, dark = drawn(wide, channels=4), drawn(wide, channels=4, light=SKIN / 2)
    y, x = round(MEETING - 0.02 * EYES), round(63.5 + 0.07 * EYES)
    assert dark[GREEN, y, x].item() == pytest.approx(bright[GREEN, y, x].item() / 2, abs=2)
    assert (bright[3] == BEFORE).all()


def test_a_person_who_shows_the_mouth_keeps_it():
    wide = tiny_face(128, 1.0)
    frames = torch.full((1, 3, 128, 128), BEFORE, dtype=torch.uint8)
    own = mouth_to_draw((None, None), face(), tiny_face(128, 0.0), (face()[None], wide[None]), 1.0, "cpu")
    assert own is not None and torch.equal(own(frames, wide[None]), frames)


def test_a_face_at_the_pictures_border_is_filled_as_far_as_it_is_there():
    half = tiny_face(128, 1.0) + torch.tensor([64.0, 0.0])  # its middle is on the border
    inside = signed_distance(half[INNER_LIP], (128, 128))
    filled = drawn(half)
    assert (inside < -2).any() and (filled[0][inside < -2] != BEFORE).float().mean() > 0.9
    assert (filled[:, inside > 4] == BEFORE).all()
    assert (drawn(half + 64) == BEFORE).all()


def test_nothing_is_drawn_without_the_wish():
    assert mouth_to_draw((None, None), face(), tiny_face(128), None, 0.0, "cpu") is None
    with pytest.raises(ValueError, match=r"teeth must be in \[0, 1\].*got 1.5"):
        mouth_to_draw((None, None), face(), tiny_face(128), None, 1.5, "cpu")


def test_a_speakers_own_portrait_needs_no_drawn_mouth(tmp_path):
    wide, own = tiny_face(128, 1.0), tiny_face(128, 0.0)
    save_file({"pictures": face()[None], "landmarks": wide[None]}, tmp_path / "bank.safetensors")
    frames = torch.full((1, 3, 128, 128), BEFORE, dtype=torch.uint8)
    other = own.clone()
    other[CHIN] += torch.tensor([0.0, 12.0])  # another face
    rest = (own * 3 + 7).tolist()  # the speaker's portrait, found in a larger picture

    def is_drawn(landmarks, folder, rest):
        drawn = mouth_to_draw((folder, rest), face(), landmarks, None, 1.0, "cpu")
        return not torch.equal(drawn(frames, wide[None]), frames)

    assert not is_drawn(own, tmp_path, rest)
    assert is_drawn(other, tmp_path, rest) and is_drawn(own, None, rest) and is_drawn(own, tmp_path, None)
