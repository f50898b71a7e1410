"""Opened mouths get the lender's pixels, between the lips alone, and only where the person's own pictures show none."""

import pytest
import torch
from conftest import tiny_face
from safetensors.torch import save_file

from talkhead.face.borrowed_mouth import BorrowedMouth
from talkhead.face.points import INNER_LIP
from talkhead.face.polygon import signed_distance
from talkhead.speaker.references import lend_mouth

LIGHT, TEETH = 100.0, 240.0


def lender(opening: float = 1.0, light: float = LIGHT) -> tuple[torch.Tensor, torch.Tensor]:
    """A grey picture whose opened mouth is white, with its landmarks."""
    points = tiny_face(128, opening)
    picture = torch.full((3, 128, 128), light)
    picture[:, signed_distance(points[INNER_LIP], (128, 128)) < 1] = TEETH * light / LIGHT
    return picture.round().byte()[None], points[None]


def skin(picture: torch.Tensor) -> torch.Tensor:
    return torch.full_like(picture[0], LIGHT)


@pytest.mark.parametrize("size", [128, 192, 512])
def test_the_lenders_teeth_come_between_the_lips_and_nothing_else_changes(size: int):
    pictures, bank = lender()
    shut, wide = tiny_face(128, 0.0), tiny_face(size, 1.0)
    frames = torch.full((2, 3, size, size), 60, dtype=torch.uint8)
    filled = BorrowedMouth(pictures, bank, skin(pictures), shut[None])(
        frames, torch.stack([tiny_face(size, 0.0), wide])
    )
    inside = signed_distance(wide[INNER_LIP], (size, size)) * 128 / size
    assert torch.equal(filled[0], frames[0])  # shut lips stay shut
    assert torch.equal(filled[1][:, inside > 4], frames[1][:, inside > 4])
    core = filled[1][:, inside < -2].float()
    # White by the light of the skin between nose and chin, of which the white mouth itself is a part, and 60 shines
    # through by what a mouth this much wider takes.
    assert core.shape[1] > 10 and core.std() < 6
    assert 150 < core.mean() < TEETH


def test_a_person_who_shows_the_mouth_keeps_it():
    pictures, bank = lender()
    wide = tiny_face(128, 1.0)
    frames = torch.full((1, 3, 128, 128), 60, dtype=torch.uint8)
    own = torch.stack([tiny_face(128, 0.0), wide])
    assert torch.equal(BorrowedMouth(pictures, bank, skin(pictures), own)(frames, wide[None]), frames)


def test_a_darker_face_gets_darker_teeth_and_the_opacity_stays():
    pictures, bank = lender()
    shut, wide = tiny_face(128, 0.0), tiny_face(128, 1.0)
    frames = torch.full((1, 4, 128, 128), 60, dtype=torch.uint8)
    face = torch.full((3, 128, 128), LIGHT)
    bright = BorrowedMouth(pictures, bank, face.byte(), shut[None])(frames, wide[None])
    dark = BorrowedMouth(pictures, bank, (face / 2).byte(), shut[None])(frames, wide[None])
    y, x = wide[INNER_LIP].mean(0).flip(0).round().int().tolist()
    assert bright[0, 0, y, x] > 150 and dark[0, 0, y, x] < 0.7 * bright[0, 0, y, x]
    assert (bright[:, 3] == 60).all()


def test_a_face_at_the_pictures_border_is_filled_as_far_as_it_is_there():
    pictures, bank = lender()
    borrowed = BorrowedMouth(pictures, bank, skin(pictures), tiny_face(128, 0.0)[None])
    frames = torch.full((1, 3, 128, 128), 60, dtype=torch.uint8)
    half = tiny_face(128, 1.0) + torch.tensor([64.0, 0.0])  # its middle is on the border
    inside = signed_distance(half[INNER_LIP], (128, 128))
    filled = borrowed(frames, half[None])[0, 0]
    assert (inside < -2).any() and (filled[inside < -2] > 150).all()
    assert (filled[inside > 4] == 60).all()
    assert torch.equal(borrowed(frames, half[None] + 64), frames)


def test_nothing_is_lent_without_pictures_or_wish(tmp_path):
    face, points = torch.zeros(3, 32, 32, dtype=torch.uint8), tiny_face(32)
    assert lend_mouth(None, face, points, None, 1.0) is None
    assert lend_mouth(tmp_path, face, points, None, 1.0) is None
    with pytest.raises(ValueError, match=r"teeth must be in \[0, 1\].*got 1.5"):
        lend_mouth(tmp_path, face, points, None, 1.5)


def test_a_lender_of_another_size_lends_too(tmp_path):
    pictures, bank = lender()
    save_file({"pictures": pictures, "landmarks": bank}, tmp_path / "bank.safetensors")
    face = torch.full((3, 64, 64), int(LIGHT), dtype=torch.uint8)
    borrowed = lend_mouth(tmp_path, face, tiny_face(64, 0.0), None, 1.0)
    filled = borrowed(face[None], tiny_face(64, 1.0)[None])
    y, x = tiny_face(64, 1.0)[INNER_LIP].mean(0).flip(0).round().int().tolist()
    assert filled[0, 0, y, x] > LIGHT + 50
