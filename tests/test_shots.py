"""A clip is one shot of one person: cuts, cut-aways and people who change places are found, flashes are not."""

import pytest
import torch
from conftest import tiny_face
from torch.nn import functional as F

from talkhead.media.read import MediaWarning
from talkhead.tracking.detectors import Detection
from talkhead.tracking.shots import SHORTEST, find_shots, glimpse, likeness
from talkhead.tracking.track import track_landmarks, track_shots

SIDE, HEIGHT, WIDTH = 64, 96, 160


def pattern(seed, height, width, coarse):
    """A smooth picture of its own for each seed."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, height // coarse, width // coarse, generator=generator) * 255
    return F.interpolate(small, (height, width), mode="bicubic", align_corners=False)[0].clamp(0, 255)


def frame(person, x=40, wall=100, moment=0):
    """A person's face at x on a wall, with the noise of a camera."""
    picture = pattern(wall, HEIGHT, WIDTH, 16)
    if person is not None:
        picture[:, 16 : 16 + SIDE, x : x + SIDE] = pattern(person, SIDE, SIDE, 8)
    noise = torch.randn(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1000 + moment))
    return (picture + noise).round().clamp(0, 255).to(torch.uint8)


class Script:
    """A detector that is told where the face is; it does not know whose it is."""

    name = "script"

    def __init__(self, places):
        self.places = iter(places)

    def __call__(self, image, face="largest"):
        x = next(self.places)
        points = tiny_face(SIDE) + torch.tensor([float(x or 0), 16.0])
        return None if x is None else Detection(points, 0.9, (x, 16.0, x + SIDE, 16.0 + SIDE))


def shots_of(story, **options):
    """Track a story: (person, x, wall) of each frame."""
    frames = [frame(p, 40 if x is None else x, w, i) for i, (p, x, w) in enumerate(story)]
    places = [None if p is None else x for p, x, w in story]
    return track_shots(frames, Script(places), missing="interpolate", **options)


def lengths(story, **options):
    return [shot.length for shot in shots_of(story, **options)]


def test_one_person_is_one_shot():
    still = [(1, 40, 100)] * 30
    drifting = [(1, 20 + i // 2, 100) for i in range(60)]
    swaying = [(1, 40 + 6 * abs(i % 6 - 3), 100) for i in range(30)]  # a fifth of the eyes' distance at a time
    for story in (still, drifting, swaying):
        assert lengths(story) == [len(story)]


@pytest.mark.parametrize(
    "other",
    [(2, 40, 100), (2, 44, 100), (2, 90, 100), (2, 40, 200), (1, 90, 200)],
    ids=["same place", "near", "elsewhere", "other wall", "same person, other picture"],
)
@pytest.mark.parametrize("at", [12, 20, 30])
def test_a_cut_splits(other, at):
    story = [(1, 40, 100)] * at + [other] * (42 - at)
    assert lengths(story) == [at, 42 - at]


@pytest.mark.parametrize("at", [1, 4, 38, 41])
def test_a_cut_at_the_start_or_end_leaves_the_rest(at):
    story = [(1, 40, 100)] * at + [(2, 44, 200)] * (42 - at)
    shots = shots_of(story)
    assert [s.length for s in shots] == [at, 42 - at]
    short, long = sorted(shots, key=lambda s: s.length)
    assert (
        short.landmarks is None
        and "fewer than" in short.reason
        and long.landmarks.shape == (42 - min(at, 42 - at), 68, 2)
    )


@pytest.mark.parametrize("away", [3, 12])
@pytest.mark.parametrize("person", [2, None])
def test_a_cut_away_and_back(away, person):
    """What is between the two cuts is in neither clip, whether or not it shows a face."""
    story = [(1, 40, 100)] * 20 + [(person, 40, 300)] * away + [(1, 40, 100)] * 20
    shots = shots_of(story)
    assert [s.length for s in shots] == [20, away, 20]
    assert (shots[1].landmarks is None) == (person is None or away < SHORTEST)
    assert shots[0].landmarks is not None and shots[2].landmarks is not None


def test_two_people_who_change_places():
    """They walk past each other; the tracker loses the one behind the other, and goes on with that one."""
    story = [(1, 20 + 2 * i, 100) for i in range(15)] + [(2, 48 - 2 * i, 100) for i in range(15)]
    assert lengths(story) == [15, 15]


def test_what_is_no_cut():
    """A flash, a gap of detection, someone's hand."""
    bright = [frame(1, 40, 100, i) for i in range(30)]
    bright[15] = bright[15].clamp(min=200)
    assert len(track_shots(bright, Script([40] * 30))) == 1
    gap = [40] * 12 + [None] * 4 + [40] * 14
    shots = track_shots([frame(1, 40, 100, i) for i in range(30)], Script(gap), missing="interpolate")
    assert len(shots) == 1 and shots[0].confidence.eq(0).sum() == 4


def test_a_long_absence_without_a_cut_fails_as_before():
    frames = [frame(1, 40, 100, i) for i in range(40)]
    with pytest.raises(ValueError, match="frames 12 to 19 show no face: more than max_gap=5"):
        track_shots(frames, Script([40] * 12 + [None] * 8 + [40] * 20), missing="interpolate")


@pytest.mark.parametrize("last", [2, 20])
def test_pieces_too_short_to_be_kept_make_no_clip_together(last):
    """Eight frames of one person and eight of another are sixteen of nobody."""
    story = [(1, 40, 100)] * 8 + [(2, 90, 100)] * 8 + [(3, 10, 100)] * last
    shots = shots_of(story)
    assert [s.length for s in shots] == ([18] if last < SHORTEST else [16, 20])
    assert [s.landmarks is None for s in shots] == [True, False][: len(shots)]
    assert "fewer than 10 apart" in shots[0].reason


@pytest.mark.parametrize("order", [1, -1], ids=["cut away, fade back", "fade away, cut back"])
def test_a_title_that_fades_on_one_side_is_in_no_clip(order):
    title, face = frame(None, wall=300).float(), frame(1).float()
    frames = [frame(1, moment=i) for i in range(20)] + [frame(None, wall=300, moment=i) for i in range(12)]
    frames += [torch.lerp(title, face, i / 13).round().to(torch.uint8) for i in range(1, 13)]
    frames += [frame(1, moment=i) for i in range(20)]
    seen = [40] * 20 + [None] * 20 + [40] * 24  # the face is found again while it fades in
    shots = track_shots(frames[::order], Script(seen[::order]), missing="interpolate")
    assert [s.length for s in shots] == [20, 20, 24][::order]
    assert shots[1].landmarks is None and "no face" in shots[1].reason
    assert all(s.confidence is not None and (s.confidence > 0).all() for s in (shots[0], shots[2]))


def test_a_face_that_changes_slowly_is_said():
    one, two = frame(1).float(), frame(2).float()
    frames = [torch.lerp(one, two, i / 59).round().to(torch.uint8) for i in range(60)]
    with pytest.warns(MediaWarning, match="hardly that at the beginning"):
        assert len(track_shots(frames, Script([40] * 60))) == 1


def test_landmarks_of_a_video_with_a_cut_are_refused():
    frames = [frame(1 if i < 20 else 2, moment=i) for i in range(40)]
    with pytest.raises(ValueError, match="cut at frame 20"):
        track_landmarks(frames, Script([40] * 40))


def test_likeness_knows_neither_size_nor_turn_nor_light():
    points = tiny_face(SIDE) + torch.tensor([40.0, 16.0])
    seen = glimpse(frame(1), points).face
    turned = torch.rot90(frame(1), 1, (1, 2))  # counter-clockwise: (x, y) comes to (y, W - 1 - x)
    turned_points = torch.stack([points[:, 1], WIDTH - 1 - points[:, 0]], -1)
    large = F.interpolate(frame(1)[None].float(), scale_factor=3, mode="bilinear")[0].round().to(torch.uint8)
    large_points = (points + 0.5) * 3 - 0.5
    dark = (frame(1).float() * 0.4 + 20).round().to(torch.uint8)
    for picture, at in [(turned, turned_points), (large, large_points), (dark, points)]:
        assert likeness(seen, glimpse(picture, at).face) > 0.98
    assert likeness(seen, glimpse(frame(2), points).face) < 0.5


def test_all_frames_are_in_one_shot():
    story = [(1, 40, 100)] * 3 + [(2, 80, 200)] * 2 + [(3, 10, 300)] * 4 + [(1, 40, 100)] * 20
    glimpses = [glimpse(frame(p, x, w), tiny_face(SIDE) + torch.tensor([float(x), 16.0])) for p, x, w in story]
    shots = find_shots(glimpses, 5)
    assert [s.start for s in shots] == [0, 9] and [s.end for s in shots] == [9, 29]  # the short ones together
