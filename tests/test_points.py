"""The names of the 68 points, held against a real face: the bundled speaker's, as a detector found it."""

import json

import pytest
import torch

from talkhead.face import points
from talkhead.face.similarity import fit_similarity
from talkhead.speaker.folder import BUNDLED


@pytest.fixture(scope="module")
def face() -> torch.Tensor:
    return torch.tensor(json.loads((BUNDLED / "pipeline.json").read_text())["reference_landmarks"])


def test_the_parts_hold_every_point_once() -> None:
    assert sum((list(range(68))[part] for part in points.PARTS), []) == list(range(68))


def test_pairs_face_each_other(face: torch.Tensor) -> None:
    for pairs in (points.EYELIDS, points.OUTER_LIP_PAIRS, points.INNER_LIP_PAIRS):
        for upper, lower in pairs:
            across, down = (face[lower] - face[upper]).tolist()
            assert down > 0 and abs(across) < 0.1 * (face[54] - face[48]).norm()
    for outer, inner in zip(points.OUTER_LIP_PAIRS, points.INNER_LIP_PAIRS, strict=True):
        assert face[outer[0], 1] < face[inner[0], 1] <= face[inner[1], 1] < face[outer[1], 1]


def test_points_lie_where_their_names_say(face: torch.Tensor) -> None:
    eye = {side: face[part].mean(0) for side, part in (("right", points.RIGHT_EYE), ("left", points.LEFT_EYE))}
    assert eye["right"][0] < face[points.NOSE_TIP, 0] < eye["left"][0]  # the person's right is the picture's left
    assert face[points.BROWS, 1].max() < eye["left"][1] < face[points.NOSE_TIP, 1] < face[points.MOUTH, 1].min()
    assert face[:, 1].argmax() == points.CHIN_TIP
    assert (face[:, 0].argmin(), face[:, 0].argmax()) == points.JAW_ENDS
    mouth = face[points.MOUTH, 0]
    assert (48 + mouth.argmin(), 48 + mouth.argmax()) == points.MOUTH_CORNERS
    for eyes, corners in ((points.RIGHT_EYE, points.EYE_CORNERS[:2]), (points.LEFT_EYE, points.EYE_CORNERS[2:])):
        at = face[eyes, 0]
        assert (eyes.start + at.argmin(), eyes.start + at.argmax()) == corners


def test_a_mirrored_face_with_renamed_points_is_a_face(face: torch.Tensor) -> None:
    mirrored = (face * torch.tensor([-1.0, 1.0]))[..., points.MIRROR, :]
    size = (face - face.mean(0)).square().sum(-1).mean().sqrt()
    error = (fit_similarity(mirrored, face)(mirrored) - face).norm(dim=-1)
    assert error.max() < 0.3 * size and error.mean() < 0.12 * size
    # Any two points that are renamed wrongly lie further apart than a face is asymmetric.
    unnamed = face * torch.tensor([-1.0, 1.0])
    assert (fit_similarity(unnamed, face)(unnamed) - face).norm(dim=-1).mean() > 0.5 * size
    assert [points.MIRROR[k] for k in points.MIRROR] == list(range(68))
