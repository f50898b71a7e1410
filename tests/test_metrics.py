"""Metrics against hand-worked numbers, scikit-image, SciPy and torchmetrics; classes against their functions."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from skimage.filters import laplace
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from talkhead import metrics
from talkhead.face.points import MOUTH
from talkhead.metrics.over_batches import MeanMetric

UPPER, LOWER = [61, 62, 63], [67, 66, 65]


def pictures(height: int = 40, width: int = 37, frames: int = 3) -> tuple[Tensor, Tensor]:
    target = torch.randint(256, (frames, 3, height, width), dtype=torch.uint8)
    noise = torch.randint(-30, 31, target.shape)
    return (target.int() + noise).clamp(0, 255).to(torch.uint8), target


def speaking(openings: Tensor) -> Tensor:
    """Landmarks (T, 68, 2) whose mouth is open by the given px in every frame."""
    landmarks = (torch.rand(68, 2) * 100).repeat(len(openings), 1, 1)
    landmarks[:, LOWER] = landmarks[:, UPPER]
    landmarks[:, LOWER, 1] += openings[:, None]
    return landmarks


def similarity(landmarks: Tensor, angle: float, scale: float, shift: tuple[float, float]) -> Tensor:
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return scale * landmarks @ turn + torch.tensor(shift)


# Landmark distance


def test_landmark_distance_by_hand() -> None:
    target = torch.zeros(2, 68, 2)
    pred = target.clone()
    pred[0, 48] = torch.tensor([3.0, 4.0])  # 5 px in one mouth point of one frame
    pred[1, 0] = torch.tensor([0.0, 10.0])  # 10 px at the jaw
    assert metrics.landmark_distance(pred, target).item() == pytest.approx(15 / 136)
    assert metrics.landmark_distance(pred, target, region="mouth").item() == pytest.approx(5 / 40)
    assert metrics.landmark_distance(pred, target, region=slice(0, 17)).item() == pytest.approx(10 / 34)
    assert metrics.landmark_distance(pred, target, unit="px256", size=64).item() == pytest.approx(4 * 15 / 136)
    points = metrics.landmark_distance(pred, target, region="mouth", reduce="none")
    assert points.shape == (2, 20) and points[0, 0].item() == 5.0 and points.sum().item() == 5.0


def test_frobenius_is_the_norm_and_grows_with_the_batch() -> None:
    pred, target = torch.rand(3, 68, 2), torch.rand(3, 68, 2)
    one = metrics.landmark_distance(pred, target, reduce="frobenius")
    assert one.item() == pytest.approx(np.linalg.norm((pred - target).numpy()), rel=1e-5)
    four = metrics.landmark_distance(pred.repeat(4, 1, 1), target.repeat(4, 1, 1), reduce="frobenius")
    assert four.item() == pytest.approx(2 * one.item(), rel=1e-5)


def test_centring_uses_the_whole_face_whatever_the_region() -> None:
    target = torch.zeros(1, 68, 2)
    pred = target.clone()
    pred[:, MOUTH, 0] = 6.8  # the mean over 68 points moves by 6.8 * 20 / 68 = 2
    assert metrics.landmark_distance(pred, target, center="mean", region="mouth").item() == pytest.approx(4.8, rel=1e-5)
    assert metrics.landmark_distance(pred + 9, target, center="mean", region="mouth").item() == pytest.approx(
        4.8, rel=1e-5
    )


def test_similarity_undoes_rotation_scale_and_shift() -> None:
    target = torch.rand(4, 68, 2) * 100
    pred = similarity(target, angle=0.4, scale=1.3, shift=(7.0, -3.0))
    assert metrics.landmark_distance(pred, target).item() > 10
    # float32 coordinates near 100 px
    assert metrics.landmark_distance(pred, target, center="similarity").item() < 1e-4


def test_similarity_agrees_with_scipy_procrustes() -> None:
    target = torch.rand(68, 2) * 100
    pred = similarity(target, angle=-0.3, scale=0.8, shift=(5.0, 2.0)) + torch.randn(68, 2) * 4
    _, _, disparity = procrustes(target.double().numpy(), pred.double().numpy())
    residual = metrics.landmark_distance(pred, target, center="similarity", reduce="none").square().sum()
    power = (target - target.mean(0)).square().sum()
    assert (residual / power).item() == pytest.approx(disparity, rel=1e-4)  # float32 sums


def test_similarity_does_not_mirror() -> None:
    target = torch.rand(1, 68, 2) * 100
    mirrored = target * torch.tensor([-1.0, 1.0])
    assert metrics.landmark_distance(mirrored, target, center="similarity").item() > 5


def test_velocity_by_hand_and_blind_to_a_constant_offset() -> None:
    target = torch.rand(5, 68, 2)
    assert metrics.landmark_velocity(target + 7, target).item() < 1e-5
    pred = target.clone()
    pred[2:] += torch.tensor([0.0, 8.0])  # one jump of 8 px among four steps
    assert metrics.landmark_velocity(pred, target).item() == pytest.approx(2.0, rel=1e-4)
    assert metrics.landmark_velocity(pred, target, center="mean").item() < 1e-4
    assert metrics.landmark_velocity(pred, target, unit="px256", size=512).item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("center", ["none", "mean", "similarity"])
def test_missing_faces_are_left_out(center: str) -> None:
    pred, target = torch.rand(4, 68, 2) * 50, torch.rand(4, 68, 2) * 50
    kept = [0, 2, 3]
    expected = metrics.landmark_distance(pred[kept], target[kept], center=center)
    pred[1] = float("nan")
    assert metrics.landmark_distance(pred, target, center=center).item() == pytest.approx(expected.item(), rel=1e-6)
    assert metrics.landmark_distance(pred[1:2], target[1:2], center=center).isnan()
    assert metrics.landmark_distance(pred, target, reduce="frobenius").isfinite()
    assert metrics.landmark_distance(pred[1:2], target[1:2], center=center, reduce="frobenius").isnan()
    assert metrics.landmark_velocity(pred[:2], target[:2], center=center, reduce="frobenius").isnan()


@pytest.mark.parametrize("center", ["none", "mean", "similarity"])
def test_missing_points_are_left_out_one_by_one(center: str) -> None:
    pred, target = torch.rand(4, 68, 2) * 50, torch.rand(4, 68, 2) * 50
    expected = metrics.landmark_distance(pred[:, 2:], target[:, 2:], center=center)
    frobenius = metrics.landmark_distance(pred[:, 2:], target[:, 2:], center=center, reduce="frobenius")
    pred[:, 0], target[:, 1] = float("nan"), float("nan")
    found = metrics.landmark_distance(pred, target, center=center)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)  # as if there were 66 points
    found = metrics.landmark_distance(pred, target, center=center, reduce="frobenius")
    assert found.item() == pytest.approx(frobenius.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"region": "nose"}, "region must be"),
        ({"center": "median"}, "center must be"),
        ({"unit": "px256"}, "size="),
        ({"unit": "mm", "size": 4}, "unit must be"),
        ({"reduce": "sum"}, "reduce must be"),
        ({"target": torch.zeros(2, 67, 2)}, "must both be"),
    ],
)
def test_landmark_distance_refuses(change: dict, words: str) -> None:
    call = {"pred": torch.zeros(2, 68, 2), "target": torch.zeros(2, 68, 2)} | change
    with pytest.raises(ValueError, match=words):
        metrics.landmark_distance(**call)


def test_velocity_needs_two_frames() -> None:
    with pytest.raises(ValueError, match="T >= 2"):
        metrics.landmark_velocity(torch.zeros(1, 68, 2), torch.zeros(1, 68, 2))


# Mouth


def test_mouth_opening_is_the_mean_of_the_three_pairs() -> None:
    openings = torch.tensor([0.0, 3.0, 7.5])
    torch.testing.assert_close(metrics.mouth_opening(speaking(openings)), openings, rtol=0, atol=1e-4)


def test_opening_correlation_agrees_with_numpy_and_finds_the_lag() -> None:
    true = torch.rand(60) * 10
    noisy = (true + torch.rand(60) * 4).roll(3)
    late = metrics.opening_correlation(speaking(noisy), speaking(true))
    assert late.lag == 3
    assert late.value == pytest.approx(np.corrcoef(noisy, true)[0, 1], abs=1e-5)
    assert metrics.opening_correlation(speaking(true), speaking(noisy)).lag == -3


def test_opening_correlation_of_a_still_mouth_is_nan() -> None:
    still = speaking(torch.full((30,), 2.0))
    value, lag = metrics.opening_correlation(still, speaking(torch.rand(30)))
    assert math.isnan(value) and lag == 0


@pytest.mark.parametrize("place", [0.0, 1000.0])
def test_a_mouth_that_is_frozen_in_a_moving_head_does_not_move(place: float) -> None:
    true = speaking(5 + 4 * torch.rand(60)) + place
    turns = torch.linspace(-0.3, 0.3, 60)
    frozen = torch.stack(
        [similarity(true[0] - place, angle, 1.0, (9 * angle, 7.0)) + place for angle in turns.tolist()]
    )
    assert math.isnan(metrics.opening_correlation(frozen, true).value)
    assert math.isnan(metrics.opening_variance_ratio(true, frozen))
    assert math.isnan(metrics.audio_mouth_sync(frozen, torch.randn(60 * 640)).value)
    running = metrics.OpeningVarianceRatio()
    running.update(true, frozen)
    assert running.compute().isnan()
    little = true[:1].repeat(60, 1, 1)
    little[:, LOWER, 1] += 0.01 * metrics.mouth_opening(true)[:, None]  # hundredths of a pixel are a movement
    assert metrics.opening_correlation(little, true).value == pytest.approx(1, abs=0.01)


def test_opening_variance_ratio() -> None:
    true = torch.rand(50) * 8
    ratio = metrics.opening_variance_ratio(speaking(0.9 * true + 1), speaking(true))
    assert ratio == pytest.approx(0.81, rel=1e-4)
    assert math.isnan(metrics.opening_variance_ratio(speaking(true), speaking(torch.ones(50))))
    with pytest.raises(ValueError, match="expected on both sides"):
        metrics.opening_variance_ratio(speaking(true), speaking(true[:49]))


def test_audio_envelope_by_hand_even_where_samples_do_not_divide() -> None:
    audio = torch.tensor([3.0, 4.0, 0.0, 0.0, 1.0]) / 5
    # frames cover [0, 1.67), [1.67, 3.33), [3.33, 5): samples 0-1, 2, 3-4
    expected = [math.sqrt((0.36 + 0.64) / 2), 0.0, math.sqrt(0.04 / 2)]
    assert metrics.audio_envelope(audio, 3).tolist() == pytest.approx(expected, abs=1e-6)


def test_audio_mouth_sync_finds_a_late_mouth() -> None:
    loudness = torch.rand(50)
    audio = loudness.repeat_interleave(640) * torch.sin(torch.arange(50 * 640) * 0.3)
    in_time = metrics.audio_mouth_sync(speaking(loudness * 9), audio)
    assert in_time.lag == 0 and in_time.value > 0.99
    assert metrics.audio_mouth_sync(speaking(loudness.roll(2) * 9), audio).lag == 2


def test_mouth_box_holds_every_frame_and_stays_inside() -> None:
    landmarks = torch.zeros(3, 68, 2)
    landmarks[:, MOUTH] = torch.tensor([50.0, 60.0])
    landmarks[1, 48], landmarks[1, 54] = torch.tensor([40.0, 60.0]), torch.tensor([80.0, 64.0])
    landmarks[2] = float("nan")
    assert metrics.mouth_box(landmarks, size=128, margin=0.25) == (30, 50, 91, 75)
    assert metrics.mouth_box(landmarks, size=(70, 84), margin=0.25) == (30, 50, 84, 70)
    corner = landmarks[:1] - torch.tensor([51.0, 61.0])
    assert metrics.mouth_box(corner, size=128) == (0, 0, 11, 11)
    with pytest.raises(ValueError, match="face"):
        metrics.mouth_box(landmarks[2:], size=128)


# Pictures


def test_psnr_agrees_with_scikit_image_per_frame() -> None:
    pred, target = pictures()
    expected = [
        peak_signal_noise_ratio(t.numpy(), p.numpy(), data_range=255) for p, t in zip(pred, target, strict=True)
    ]
    assert metrics.psnr(pred, target, reduce="none").tolist() == pytest.approx(expected, rel=1e-5)
    assert metrics.psnr(pred, target).item() == pytest.approx(np.mean(expected), rel=1e-5)
    assert metrics.psnr(target, target).item() == math.inf


def test_psnr_of_a_box_sees_only_the_box() -> None:
    pred, target = pictures()
    pred[..., :20, :] = 0
    box = (4, 20, 30, 38)
    expected = metrics.psnr(pred[..., 20:38, 4:30], target[..., 20:38, 4:30])
    assert metrics.psnr(pred, target, box).item() == expected.item()
    with pytest.raises(ValueError, match="inside"):
        metrics.psnr(pred, target, (0, 0, 38, 40))


def test_ssim_agrees_with_scikit_image() -> None:
    pred, target = pictures()
    expected = [
        structural_similarity(
            t.numpy(),
            p.numpy(),
            channel_axis=0,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for p, t in zip(pred, target, strict=True)
    ]
    # float32 variances of values up to 255: E[x^2] - E[x]^2 loses about four of seven digits
    assert metrics.ssim(pred, target, reduce="none").tolist() == pytest.approx(expected, abs=1e-4)


def test_ssim_agrees_with_torchmetrics_inside_its_padding() -> None:
    pred, target = pictures()
    _, image = structural_similarity_index_measure(
        pred.double(), target.double(), data_range=255.0, return_full_image=True, reduction="none"
    )
    expected = image[..., 5:-5, 5:-5].mean((1, 2, 3))
    torch.testing.assert_close(metrics.ssim(pred, target, reduce="none"), expected.float(), rtol=0, atol=1e-4)


def test_ssim_of_exactly_one_window_and_below() -> None:
    pred, target = pictures(11, 11)
    assert -1 <= metrics.ssim(pred, target).item() < 1
    with pytest.raises(ValueError, match="11x11"):
        metrics.ssim(pred[..., :10], target[..., :10])
    for measure in (metrics.psnr, metrics.ssim):  # of no frames there is no mean
        assert measure(pred[:0], target[:0]).isnan() and measure(pred[:0], target[:0], reduce="none").shape == (0,)


def test_pictures_must_be_uint8_of_one_shape() -> None:
    pred, target = pictures()
    with pytest.raises(ValueError, match="uint8"):
        metrics.psnr(pred.float(), target)
    with pytest.raises(ValueError, match="must both be"):
        metrics.ssim(pred[:2], target)


def test_sharpness_agrees_with_scikit_image_and_falls_with_blur() -> None:
    _, target = pictures()
    weights = np.array([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    # scikit-image's Laplacian has the other sign and a reflected border, which is left out here
    expected = [laplace((frame.numpy() * weights).sum(0))[1:-1, 1:-1].var() for frame in target]
    assert metrics.sharpness(target, reduce="none").tolist() == pytest.approx(expected, rel=1e-4)
    blurred = torch.nn.functional.avg_pool2d(target.float(), 3, stride=1).to(torch.uint8)
    assert metrics.sharpness(blurred).item() < 0.2 * metrics.sharpness(target).item()


def test_seam_ratio_by_hand() -> None:
    levels = torch.tensor([0, 2, 4, 9, 11, 16, 18], dtype=torch.uint8)
    frames = levels.view(7, 1, 1, 1).expand(7, 3, 2, 2)
    assert metrics.seam_ratio(frames, [3, 5]) == pytest.approx(2.5)
    for borders in ([], [0], [7], [1, 2, 3, 4, 5, 6]):
        with pytest.raises(ValueError, match="borders"):
            metrics.seam_ratio(frames, borders)


# Classes


def test_an_exact_frame_hides_the_others_unless_it_is_capped() -> None:
    pred, target = pictures(frames=3)
    pred[1] = target[1]
    plain, capped = metrics.FramePSNR(), metrics.FramePSNR(most=60)
    for running in (plain, capped):
        running.update(pred, target)
    assert plain.compute().isinf()
    expected = (60 + 2 * metrics.psnr(pred[::2], target[::2]).item()) / 3
    assert capped.compute().item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("center", ["none", "mean", "similarity"])
@pytest.mark.parametrize(
    ("metric", "function"),
    [(metrics.LandmarkDistance, metrics.landmark_distance), (metrics.LandmarkVelocity, metrics.landmark_velocity)],
)
def test_landmark_classes_over_uneven_batches_equal_their_functions(metric, function, center) -> None:
    pred, target = torch.rand(10, 5, 68, 2) * 99, torch.rand(10, 5, 68, 2) * 99
    pred[7] = float("nan")
    options = {"region": "mouth", "center": center, "unit": "px256", "size": 99}
    running = metric(**options)
    running.update(pred[:3], target[:3])
    running.update(pred[3:], target[3:])
    assert running.compute().item() == pytest.approx(function(pred, target, **options).item(), rel=1e-5)
    running.reset()
    running.update(pred[7], target[7])
    assert running.compute().isnan()


@pytest.mark.parametrize(("metric", "function"), [(metrics.FramePSNR, metrics.psnr), (metrics.FrameSSIM, metrics.ssim)])
def test_picture_classes_over_uneven_batches_equal_their_functions(metric, function) -> None:
    pred, target = pictures(frames=6)
    running = metric()
    running.update(pred[:1], target[:1])
    running.update(pred[1:].unflatten(0, (1, 5)), target[1:].unflatten(0, (1, 5)))
    assert running.compute().item() == pytest.approx(function(pred, target).item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(20,), (1, 20), (3, 20), (2, 3, 20)])
def test_opening_variance_ratio_class_takes_one_clip_and_many(shape: tuple[int, ...]) -> None:
    true, pred = (torch.rand(*shape) * 9 for _ in range(2))
    running = metrics.OpeningVarianceRatio()
    running.update(*(speaking(curve.flatten()).unflatten(0, shape) for curve in (pred, true)))
    variances = [curve.var(-1, correction=0).sum().item() for curve in (pred, true)]
    assert running.compute().item() == pytest.approx(variances[0] / variances[1], rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_values_of_half_precision_are_added_up_in_float32(dtype: torch.dtype) -> None:
    class Own(MeanMetric):
        def values(self, each: Tensor) -> Tensor:
            return each

    running = Own()
    running.update(torch.full((3001,), 30.0, dtype=dtype))  # more than float16 can hold
    running.update(torch.full((2,), 0.5, dtype=dtype))
    assert running.compute().item() == pytest.approx((3001 * 30 + 1) / 3003, rel=1e-6)


def test_opening_correlation_class_is_the_mean_over_clips() -> None:
    true, pred = torch.rand(3, 20) * 9, torch.rand(3, 20) * 9
    pred[2] = 1.0  # a still mouth has no correlation
    a, b = (torch.stack([speaking(row) for row in rows]) for rows in (pred, true))
    running = metrics.OpeningCorrelation()
    running.update(a, b)
    expected = [metrics.opening_correlation(p, t).value for p, t in zip(a[:2], b[:2], strict=True)]
    assert running.compute().item() == pytest.approx(np.mean(expected), abs=1e-6)
