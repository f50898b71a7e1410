"""Expressions on the 68 landmarks: the table's symmetry, poses with a closed form, and what the words keep."""

import math

import pytest
import torch

from talkhead.face.expression import (
    EMOTION_ACTIONS,
    FACS,
    action_shapes,
    average_face,
    camera,
    expression,
)
from talkhead.face.expressive_motion import expressive_motion
from talkhead.face.mouth_gate import gaps_between_lips
from talkhead.face.points import MIRROR


def seen(points, yaw=0.0, pitch=0.0, roll=0.0, scale=10.0, shift=(64.0, 64.0)):
    """Look at (68, 3) points with a camera written out by hand: turn, drop the depth, y down."""

    def turn(a, b, angle):
        matrix = torch.eye(3)
        matrix[a, a] = matrix[b, b] = math.cos(angle)
        matrix[a, b], matrix[b, a] = math.sin(angle), -math.sin(angle)
        return matrix

    turned = points @ turn(0, 2, yaw) @ turn(1, 2, pitch) @ turn(0, 1, roll)
    return turned[:, :2] * torch.tensor([scale, -scale]) + torch.tensor(shift)


FACE = seen(average_face())


def test_the_table_is_symmetric():
    flip = torch.tensor([-1.0, 1.0, 1.0])
    shapes = action_shapes()
    assert torch.equal(average_face()[list(MIRROR)] * flip, average_face())
    for name, shape in shapes.items():
        other = {"_L": name[:-2] + "_R", "_R": name[:-2] + "_L"}.get(name[-2:], name)
        other = {
            "jawLeft": "jawRight",
            "jawRight": "jawLeft",
            "mouthLeft": "mouthRight",
            "mouthRight": "mouthLeft",
        }.get(name, other)
        assert torch.equal(shape[list(MIRROR)] * flip, shapes[other]), name


def test_every_emotion_is_symmetric_but_contempt():
    flip = torch.tensor([-1.0, 1.0])
    for name, actions in EMOTION_ACTIONS.items():
        moved = expression(FACE, actions) - FACE
        assert torch.allclose(moved[list(MIRROR)] * flip, moved, atol=1e-4) == (name != "contempt"), name
    corner = expression(FACE, EMOTION_ACTIONS["contempt"]) - FACE
    assert corner[54].norm() > 3 * corner[48].norm()  # the person's own left lies right in the picture


@pytest.mark.parametrize("pose", [(0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (-0.4, 0.3, 0.2), (0.0, -0.3, 1.2)])
def test_a_turned_face_moves_as_the_turned_model_does(pose):
    actions = {"mouthSmile": 0.8, "browInnerUp": 0.5, "AU26": 0.3}
    shapes = action_shapes()
    model = average_face() + 0.8 * (shapes["mouthSmile_L"] + shapes["mouthSmile_R"])
    model += 0.5 * (shapes["browInnerUp_L"] + shapes["browInnerUp_R"]) + 0.3 * shapes["jawOpen"]
    found = expression(seen(average_face(), *pose), actions)
    assert torch.allclose(found, seen(model, *pose), atol=1e-2)  # px; float32 at 100 px


def test_offsets_grow_with_the_face_and_the_strength():
    one = expression(FACE, {"AU4": 0.7}) - FACE
    assert torch.allclose(expression(FACE * 3 + 7, {"browDown": 0.7}, strength=2.0) - FACE * 3 - 7, 6 * one, atol=2e-3)
    assert torch.equal(expression(FACE, {"browDown": 0.7}, strength=0.0), FACE)
    batch = torch.stack([FACE, FACE * 2])
    assert torch.allclose(expression(batch, {"AU4": 0.7})[0], FACE + one, atol=1e-4)


def test_the_camera_of_a_known_pose():
    scale = camera(seen(average_face(), yaw=0.3, scale=7.0)).norm(dim=0)
    assert torch.allclose(scale, torch.tensor([7.0, 7.0]), atol=1e-3)


@pytest.mark.parametrize(
    ("action", "point", "direction"),  # which way a point goes in the picture, from the action unit's definition
    [
        ("AU1", 21, (0, -1)),
        ("AU2", 18, (0, -1)),
        ("AU4", 19, (0, 1)),
        ("AU5", 37, (0, -1)),
        ("AU7", 41, (0, -1)),
        ("AU10", 51, (0, -1)),
        ("AU12_L", 54, (1, -1)),
        ("AU12_R", 48, (-1, -1)),
        ("AU15", 48, (0, 1)),
        ("AU16", 57, (0, 1)),
        ("AU20", 54, (1, 0)),
        ("AU26", 8, (0, 1)),
        ("AU45", 37, (0, 1)),
    ],
)
def test_action_units_move_what_they_are_defined_by(action, point, direction):
    moved = (expression(FACE, {action: 1.0}) - FACE)[point]
    for axis in (0, 1):
        if direction[axis]:
            assert moved[axis] * direction[axis] > 0.5  # px at 10 px per cm


def test_every_action_unit_is_in_the_table():
    for unit in FACS:
        assert not torch.equal(expression(FACE, {unit: 1.0}), FACE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((FACE[:5], {}), r"landmarks must have shape \(..., 68, 2\)"),
        ((FACE, {"smirk": 1}), "no action 'smirk'; known are browDown"),
        ((FACE, {"AU12": math.nan}), "the weight of 'AU12' must be a finite number"),
        ((FACE, {"AU12": 1}, 2.5), r"strength must lie in 0..2.*got 2.5"),
        ((FACE, {"AU12": 1}, math.nan), r"strength must lie in 0..2"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        expression(*arguments)


def speaking(openings):
    """Let the average face open its jaw: (T, 68, 2) px, lips touching where the opening is 0."""
    shut = FACE.clone()
    for upper, lower in ((61, 67), (62, 66), (63, 65)):
        shut[lower] = shut[upper] = (shut[upper] + shut[lower]) / 2
    jaw = expression(FACE, {"jawOpen": 1.0}) - FACE
    return shut, shut + torch.tensor(openings)[:, None, None] * jaw


@pytest.mark.parametrize("emotion", [name for name in EMOTION_ACTIONS if name != "neutral"])
def test_the_words_keep_the_lips(emotion):
    generator = torch.Generator().manual_seed(0)
    course = (torch.rand(60, generator=generator) * 0.5 - 0.1).clamp_min(0)
    shut, motion = speaking(course.tolist())
    actions = dict(EMOTION_ACTIONS[emotion])
    actions.pop("jawOpen", None)
    offsets = expression(shut, actions) - shut
    worn = expressive_motion(motion, shut, offsets.expand(60, -1, -1))
    before, after = (gaps_between_lips(x).norm(dim=-1).mean(-1) for x in (motion, worn))
    assert (course == 0).sum() > 3 and after[course == 0].max() < 1e-3
    assert torch.allclose(after, before, atol=1e-3)  # px: the same opening at every moment
    assert (worn - motion).norm(dim=-1).amax(1).min() > 3  # px: the rest of the face shows it all along


def test_closed_eyes_stay_closed():
    shut, _ = speaking([0.0])
    blink = shut.clone()
    for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46)):
        blink[upper] = blink[lower]
    wide = expression(shut, {"eyeWide": 1.0}) - shut
    for face, closed in ((shut, False), (blink, True)):
        worn = expressive_motion(face[None], shut, wide[None])[0]
        gap, rest = (worn[41] - worn[37]).norm(), (shut[41] - shut[37]).norm()
        assert gap < 1e-3 if closed else gap > 1.1 * rest


def test_brows_keep_half_their_distance():
    shut, _ = speaking([0.0])
    low = shut.clone()
    low[17:27, 1] += 8  # a face with brows close above its eyes
    down = expression(low, {"browDown": 2.0}) - low
    worn = expressive_motion(low[None], low, down[None])[0]
    for brow, eye in ((19, 37), (24, 44)):
        assert (worn[brow] - worn[eye]).norm() > 0.45 * (low[brow] - low[eye]).norm()


def test_the_expression_turns_with_the_head():
    shut, _ = speaking([0.0])
    offsets = expression(shut, EMOTION_ACTIONS["angry"]) - shut
    turn = torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
    straight = expressive_motion(shut[None], shut, offsets[None])[0]
    turned = expressive_motion((2 * shut @ turn + 5)[None], shut, offsets[None])[0]
    assert torch.allclose(turned, 2 * straight @ turn + 5, atol=1e-2)


def test_an_expression_is_float32_under_autocast():
    face = seen(average_face(), yaw=0.3)
    alone = expression(face, EMOTION_ACTIONS["happy"])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(expression(face, EMOTION_ACTIONS["happy"]), alone)
