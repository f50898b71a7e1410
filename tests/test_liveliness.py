"""Measures of a living face against closed forms; classes against their functions, in one process and in two."""

import math

import pytest
import torch
from torch import Tensor

from talkhead import metrics
from talkhead.metrics.blinks import blink_moments


def face() -> Tensor:
    """A (68, 2) face whose eyes' centres are 40 px apart, whose brows stand 12 px above them, mouth closed."""
    points = torch.rand(68, 2, generator=torch.Generator().manual_seed(0)) * 60 + 20
    for start, x in ((36, 40.0), (42, 80.0)):
        ring = torch.tensor([[-8.0, 0], [-3, -4], [3, -4], [8, 0], [3, 4], [-3, 4]])
        points[start : start + 6] = ring + torch.tensor([x, 50.0])
    points[17:22] = torch.tensor([40.0, 38.0]) + torch.linspace(-6, 6, 5)[:, None] * torch.tensor([1.0, 0])
    points[22:27] = points[17:22] + torch.tensor([40.0, 0])
    points[30] = torch.tensor([60.0, 70.0])
    points[[65, 66, 67]] = points[[63, 62, 61]]
    return points


def wave(frames: int = 100, periods: int = 4) -> Tensor:
    """A sine over whole periods: its standard deviation is the square root of a half."""
    return torch.sin(2 * math.pi * periods * torch.arange(frames) / frames)


def test_lip_dynamics_of_a_breathing_mouth() -> None:
    moving = face().repeat(100, 1, 1)
    centre = moving[:, 48:68].mean(1, keepdim=True)
    moving[:, 48:68] = centre + (1 + 0.1 * wave()).view(-1, 1, 1) * (moving[:, 48:68] - centre)
    distances = torch.pdist(face()[48:68])
    expected = 2 * 0.1 * math.sqrt(0.5) * distances.mean().item()  # 128 px shown as 256
    assert metrics.lip_dynamics(moving, 128).item() == pytest.approx(expected, rel=1e-4)
    turned = moving @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]]) + 30 * wave().view(-1, 1, 1)
    assert metrics.lip_dynamics(turned, 128).item() == pytest.approx(expected, rel=1e-3)  # the head does not count
    moving[7] = math.nan
    assert metrics.lip_dynamics(moving, 128).isfinite()


def test_silences_are_long_enough_and_relative_to_the_speech() -> None:
    loud = torch.tensor([1, 0, 0, 1, 1, 0, 0, 0, 1, 1]).repeat_interleave(100) * 0.5
    sound = loud * torch.randn(1000).sign()
    assert metrics.silences(sound, 10, fps=10).nonzero()[:, 0].tolist() == [5, 6, 7]
    assert metrics.silences(0.01 * sound, 10, fps=10).sum().item() == 3
    assert metrics.silences(sound, 10, fps=10, shortest=0.2).sum().item() == 5


def test_where_there_is_no_sound_nobody_speaks() -> None:
    assert metrics.silences(torch.zeros(1000), 10, fps=10).all()
    word = torch.zeros(10_000)
    word[4000:4300] = 0.5  # 3 frames of 100: too few to show in the 95th percentile
    assert (~metrics.silences(word, 100, fps=25)).nonzero()[:, 0].tolist() == [40, 41, 42]


def test_silent_lips_by_hand() -> None:
    landmarks = face().repeat(6, 1, 1)
    landmarks[:, 65:68, 1] += torch.tensor([0.0, 4.0, 9.0, 20.0, 2.0, 2.0])[:, None]
    silent = torch.tensor([True, True, False, False, True, True])
    # Deviations -2, 2 px and 0, 0 px: root mean square sqrt(2) px of 40 px between the eyes.
    assert metrics.silent_lips(landmarks, silent).item() == pytest.approx(math.sqrt(2) / 40, rel=1e-4)
    assert metrics.silent_lips(landmarks, torch.zeros(6, dtype=torch.bool)).isnan()


def test_brow_dynamics_by_hand() -> None:
    landmarks = face().repeat(3, 1, 1)
    landmarks[1, 17:22, 1] -= 2.0  # the right brow up by 2 px and down again, the left one still
    assert metrics.brow_heights(landmarks)[0].tolist() == pytest.approx([12 / 40, 12 / 40])
    assert metrics.brow_dynamics(landmarks).item() == pytest.approx(2 / 40 / 2, rel=1e-4)
    with pytest.raises(ValueError, match="T >= 2"):
        metrics.brow_dynamics(landmarks[:1])


def test_head_motion_of_a_turning_face() -> None:
    angle = 0.05 * wave()
    turn = torch.stack([torch.stack([angle.cos(), angle.sin()], -1), torch.stack([-angle.sin(), angle.cos()], -1)], -2)
    turned = (face() - torch.tensor([60.0, 50.0])) @ turn
    motion = metrics.head_motion(turned)
    assert motion["roll"].item() == pytest.approx(math.degrees(0.05 * math.sqrt(0.5)), rel=1e-3)
    assert motion["yaw"].item() == pytest.approx(0, abs=1e-3) and motion["pitch"].item() == pytest.approx(0, abs=1e-3)
    assert motion["shift"].item() == pytest.approx(0, abs=1e-5)
    moved = face() + 8 * wave().view(-1, 1, 1) * torch.tensor([0.6, 0.8])
    assert metrics.head_motion(moved)["shift"].item() == pytest.approx(8 / 40 * math.sqrt(0.5), rel=1e-4)


def test_yaw_and_pitch_of_a_nose_that_is_seen_from_the_side() -> None:
    from talkhead.metrics.liveliness import NOSE_DOWN, NOSE_FORWARD

    landmarks = face().repeat(2, 1, 1)
    yaw, pitch = math.radians(10), math.radians(-5)
    landmarks[1, 30, 0] = 60 + 40 * NOSE_FORWARD * math.sin(yaw)
    landmarks[1, 30, 1] = 50 + 40 * (NOSE_DOWN + NOSE_FORWARD * math.sin(pitch))
    pose = metrics.head_pose(landmarks)
    assert pose.yaw.tolist() == pytest.approx([0, 10], abs=1e-3)
    assert pose.pitch[1].item() == pytest.approx(-5, abs=1e-3)


def blinking(moments: list[int], frames: int = 250, shape: tuple[float, ...] = (0.5, 0.8, 0.5)) -> Tensor:
    """A face of ten seconds at 25 frames per second whose lids close by ``shape`` around the moments."""
    landmarks = face().repeat(frames, 1, 1)
    for moment in moments:
        for offset, closing in enumerate(shape, start=-(len(shape) // 2)):
            for up, low in ((37, 41), (38, 40), (43, 47), (44, 46)):
                gap = landmarks[moment + offset, low] - landmarks[moment + offset, up]
                landmarks[moment + offset, up] += closing * gap
    return landmarks


def test_blinks_are_counted_and_timed() -> None:
    found = metrics.find_blinks(blinking([30, 100, 110, 200]), fps=25)
    assert found.per_minute == 24  # 4 in 10 s
    # The lids are open 1, 0.5, 0.2, 0.5, 1: below 0.6 (half of the way down to 0.2) from 0.8 of a frame before the
    # first 0.5 to the same after the second: 2.4 frames.
    assert found.duration == pytest.approx(2.4 / 25, rel=1e-3)
    assert metrics.find_blinks(face().repeat(250, 1, 1), fps=25).per_minute == 0


@pytest.mark.parametrize("shape", [(0.35, 0.3, 0.8, 0.5, 0.2), (0.35, 0.35, 0.8, 0.5, 0.2)])
def test_a_blink_with_a_tremble_on_its_way_is_one_and_is_closest_at_its_lowest(shape: tuple[float, ...]) -> None:
    # Open 0.65, 0.7 (or 0.65 again), 0.2, 0.5, 0.8: below 0.6, half way down to 0.2, around the third frame alone.
    lids = blinking([100], shape=shape)
    left, right = (0.6 - 0.2) / (1 - shape[1] - 0.2), 1 + (0.6 - 0.5) / (0.8 - 0.5)
    [(moment, duration)] = blink_moments(lids, fps=25)
    assert moment == 100 and duration == pytest.approx((left + right) / 25, rel=1e-3)
    assert metrics.find_blinks(lids, fps=25).per_minute == 6


def test_nothing_is_said_of_blinks_where_no_face_was_found() -> None:
    nowhere = torch.full((250, 68, 2), math.nan)
    assert all(math.isnan(value) for value in metrics.find_blinks(nowhere, fps=25))
    assert math.isnan(metrics.find_blinks(nowhere[:0], fps=25).per_minute)
    rate = metrics.BlinkRate()
    rate.update(torch.stack([nowhere, blinking([30, 100])]))
    assert rate.compute().item() == 12  # of the one clip that shows a face


def test_a_look_downwards_is_no_blink() -> None:
    assert metrics.find_blinks(blinking([120], shape=(0.5,) * 41), fps=25).per_minute == 0


def test_head_diversity_of_two_constant_poses() -> None:
    videos = torch.stack([face().repeat(5, 1, 1), face().repeat(5, 1, 1) + torch.tensor([0.0, 8.0])])
    assert metrics.head_diversity(videos).item() == pytest.approx(4 / 40, rel=1e-4)
    assert metrics.head_diversity(videos[:1].repeat(3, 1, 1, 1)).item() == 0
    missed = videos.clone()
    missed[1, 2] = math.nan  # in one frame of one video no face was found
    assert metrics.head_diversity(missed).item() == pytest.approx(4 / 40, rel=1e-4)
    assert metrics.head_diversity(videos * math.nan).isnan()
    with pytest.raises(ValueError, match="N >= 2"):
        metrics.head_diversity(videos[0])


def test_closeness_costs_too_much_as_well_as_too_little() -> None:
    assert metrics.closeness(0, 2.0) == 0 and metrics.closeness(2, 2) == 1
    assert metrics.closeness(1.5, 2) == metrics.closeness(2.5, 2) == 0.75
    assert math.isnan(metrics.closeness(1.0, 0.0))


CLASSES = {
    "lip": (lambda: metrics.LipDynamics(128), lambda clip: metrics.lip_dynamics(clip, 128)),
    "brow": (metrics.BrowDynamics, metrics.brow_dynamics),
    "pitch": (lambda: metrics.HeadMotion("pitch"), lambda clip: metrics.head_motion(clip)["pitch"]),
    "blinks": (lambda: metrics.BlinkRate(25.0), lambda clip: torch.tensor(metrics.find_blinks(clip, 25).per_minute)),
}


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_means_over_clips(name: str) -> None:
    make, function = CLASSES[name]
    clips = face() + 3 * torch.randn(3, 60, 68, 2)
    metric = make()
    metric.update(clips[:2])
    metric.update(clips[2:])
    expected = torch.stack([function(clip) for clip in clips]).mean()
    assert metric.compute().item() == pytest.approx(expected.item(), rel=1e-4)


def test_silent_lips_class_leaves_out_clips_without_silence() -> None:
    clips = face() + torch.randn(2, 50, 68, 2)
    audio = torch.randn(2, 32000)
    audio[0, :16000] = 0
    metric = metrics.SilentLips()
    metric.update(clips, audio)
    expected = metrics.silent_lips(clips[0], metrics.silences(audio[0], 50, 25.0))
    assert metric.compute().item() == pytest.approx(expected.item(), rel=1e-5)


def test_head_motion_refuses_an_unknown_part() -> None:
    with pytest.raises(ValueError, match="roll, yaw, pitch or shift"):
        metrics.HeadMotion("nod")
