"""Mask noise in PyTorch: Eqs. 1-2 by dense float64 arithmetic, lattice counts, closed forms, statistics."""

import math
import warnings

import pytest
import torch
from test_philox import scalar_philox
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from talkhead.ops.landmark_mask import landmark_mask
from talkhead.ops.mask_noise import landmark_maps, mask_noise


def landmarks_on_grid(*shape: int, low: float = -6, high: float = 40) -> Tensor:
    """Return random (..., 2) landmarks at multiples of 1/256 px, which the library does not round any further."""
    return torch.randint(int(low * 256), int(high * 256), (*shape, 2)) / 256


def dense(landmarks: Tensor, size: tuple[int, int], sigma: float, kernel_size: int) -> Tensor:
    """Return Eq. 1 of every landmark at every pixel in float64, 0 outside its window: (..., K, H, W)."""
    u, v = landmarks.double()[..., 0, None, None], landmarks.double()[..., 1, None, None]
    y, x = torch.meshgrid(torch.arange(size[0]).double(), torch.arange(size[1]).double(), indexing="ij")
    half = kernel_size // 2
    window = ((x - (u + 0.5).floor()).abs() <= half) & ((y - (v + 0.5).floor()).abs() <= half)
    gaussian = torch.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * sigma**2)) / (2 * math.pi * sigma)
    return gaussian * window


def mask_of(landmarks: Tensor, size: tuple[int, int], **kwargs: object) -> Tensor:
    frames = torch.zeros(landmarks.shape[0], 1, *size)
    return mask_noise(frames, landmarks, return_mask=True, **kwargs)[1]  # type: ignore[arg-type]


@pytest.mark.parametrize(("sigma", "kernel_size", "threshold"), [(2.0, 11, 0.01), (1.3, 5, 0.02), (3.0, 31, 1e-4)])
def test_max_is_equation_2(sigma: float, kernel_size: int, threshold: float) -> None:
    landmarks = landmarks_on_grid(2, 3, 9)
    expected = dense(landmarks, (31, 37), sigma, kernel_size).amax(2) > threshold
    mask = mask_of(landmarks, (31, 37), sigma=sigma, kernel_size=kernel_size, threshold=threshold)
    assert torch.equal(mask, expected)


@pytest.mark.parametrize(("sigma", "kernel_size", "threshold"), [(2.0, 11, 0.01), (1.3, 5, 0.15), (3.0, 31, 0.1)])
def test_sum_is_equation_2(sigma: float, kernel_size: int, threshold: float) -> None:
    landmarks = landmarks_on_grid(2, 3, 40)
    total = dense(landmarks, (31, 37), sigma, kernel_size).sum(2)
    mask = mask_of(landmarks, (31, 37), sigma=sigma, kernel_size=kernel_size, threshold=threshold, overlap="sum")
    # A weight has 22 bits after the point of the peak; 40 of them are off by less than 40 * 2^-21 of it.
    undecided = (total - threshold).abs() < 40 * 2**-21 / (2 * math.pi * sigma)
    assert undecided.float().mean() < 1e-3
    assert torch.equal(mask[~undecided], (total > threshold)[~undecided])


def test_area_is_a_count_of_lattice_points() -> None:
    landmarks = landmarks_on_grid(1, 1, 30, low=8, high=24)
    radius_squared = -2 * 1.5**2 * math.log(2 * math.pi * 1.5 * 0.02)
    inside = {
        (x, y)
        for u, v in landmarks[0, 0].tolist()
        for x in range(32)
        for y in range(32)
        if (x - u) ** 2 + (y - v) ** 2 < radius_squared
    }
    assert mask_of(landmarks, (32, 32), sigma=1.5, threshold=0.02).sum() == len(inside)


def test_exactly_the_threshold_is_not_masked() -> None:
    # 2 pi sigma = 1: the peak of Eq. 1 is exactly 1.
    landmarks, sigma = torch.full((1, 1, 1, 2), 4.0), 1 / (2 * math.pi)
    for overlap in ("max", "sum"):
        assert mask_of(landmarks, (9, 9), sigma=sigma, threshold=1.0, overlap=overlap).sum() == 0
        assert mask_of(landmarks, (9, 9), sigma=sigma, threshold=0.999, overlap=overlap).sum() == 1


def test_threshold_zero_is_the_windows() -> None:
    landmarks = torch.tensor([[[[4.49, 3.5], [0.0, 0.0]]]])  # rounded half up: windows around (4, 4) and (0, 0)
    mask = mask_of(landmarks, (9, 9), sigma=0.4, kernel_size=3, threshold=0)
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[3:6, 3:6], expected[:2, :2] = True, True
    assert torch.equal(mask[0, 0], expected)


def test_many_frames_equal_one_at_a_time() -> None:
    landmarks = landmarks_on_grid(1, 60, 68)  # more windows than one chunk takes
    for overlap in ("max", "sum"):
        whole = mask_of(landmarks, (40, 40), overlap=overlap)
        single = [mask_of(landmarks[:, t : t + 1], (40, 40), overlap=overlap) for t in range(60)]
        assert torch.equal(whole, torch.cat(single, 1))


def scalar_noise(seed: int, frame: int, y: int, x: int, channel: int) -> float:
    word = scalar_philox([frame % 2**32, y, x, channel // 4], [seed % 2**32, seed >> 32])[channel % 4]
    return (word >> 8) / 2**24


@pytest.mark.parametrize("seed", [0, 12345678901234567890, 2**64 - 1])
def test_noise_is_philox_of_frame_y_x_channel(seed: int) -> None:
    video = torch.rand(1, 2, 6, 20, 20)
    offset = 2**32 - 1  # the second frame's counter wraps to 0
    noised, mask = mask_noise(
        video, landmarks_on_grid(1, 2, 5), seed=seed, frame_offset=offset, out_range=(0, 1), return_mask=True
    )
    for _, t, y, x in mask.nonzero()[::37].tolist():
        for channel in range(6):
            assert noised[0, channel, t, y, x].item() == scalar_noise(seed, offset + t, y, x, channel)
    clean = ~mask[:, None].expand_as(noised)
    assert torch.equal(noised[clean], video.transpose(1, 2)[clean])


def test_noise_is_uniform_and_uncorrelated() -> None:
    everywhere = torch.tensor([[[64.0, 64.0]]]).expand(6, 1, 2)
    noise = mask_noise(
        torch.zeros(3, 128, 128), everywhere, kernel_size=255, threshold=0, seed=3, out_range=(0, 1)
    ).double()
    assert noise.min() >= 0 and noise.max() < 1
    n = noise.numel()
    assert abs(noise.mean() - 1 / 2) < 4 * math.sqrt(1 / 12 / n)
    # The fourth central moment of U(0, 1) is 1/80, so the variance of the variance is (1/80 - 1/144) / n.
    assert abs(noise.var() - 1 / 12) < 4 * math.sqrt((1 / 80 - 1 / 144) / n)
    centred = noise - 1 / 2
    pairs = {
        "frames": (centred[:, 1:], centred[:, :-1]),
        "channels": (centred[1:], centred[:-1]),
        "rows": (centred[:, :, 1:], centred[:, :, :-1]),
        "columns": (centred[..., 1:], centred[..., :-1]),
    }
    for name, (first, second) in pairs.items():
        correlation = (first * second).mean() * 12
        assert abs(correlation) < 4 / math.sqrt(first.numel()), name


def test_window_batch_and_reference_change_nothing() -> None:
    video = torch.randint(0, 256, (3, 7, 3, 23, 29), dtype=torch.uint8)
    landmarks, seeds, offsets = landmarks_on_grid(3, 7, 5), torch.tensor([5, -6, 7]), torch.tensor([0, 10, 20])
    whole = mask_noise(video, landmarks, seed=seeds, frame_offset=offsets)
    window = mask_noise(video[:, 3:6], landmarks[:, 3:6], seed=seeds, frame_offset=offsets + 3)
    assert torch.equal(window, whole[:, :, 3:6])
    alone = mask_noise(video[1], landmarks[1], seed=2**64 - 6, frame_offset=10)
    assert torch.equal(alone, whole[1])
    repeated = mask_noise(video[:, :1].expand(-1, 7, -1, -1, -1).contiguous(), landmarks, seed=seeds)
    assert torch.equal(mask_noise(video[:, 0], landmarks, seed=seeds), repeated)
    assert torch.equal(mask_noise(video[0, 0], landmarks[0], seed=5), repeated[0])


def test_seeds_differ_and_repeat() -> None:
    landmarks = landmarks_on_grid(1, 2, 5).expand(2, -1, -1, -1)
    frames = torch.zeros(2, 3, 32, 32)
    shared = mask_noise(frames, landmarks, seed=1)
    own = mask_noise(frames, landmarks, seed=torch.tensor([1, 2]))
    assert torch.equal(shared[0], shared[1]) and torch.equal(shared[0], own[0])
    assert not torch.equal(own[0], own[1])


def test_strides_do_not_matter() -> None:
    video, landmarks = torch.rand(2, 4, 3, 17, 19), landmarks_on_grid(2, 4, 5)
    expected = mask_noise(video, landmarks, seed=4)
    channels_last = video.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    transposed = video.transpose(3, 4).contiguous().transpose(3, 4)
    strided = torch.stack([landmarks, landmarks + 1], -1)[..., 0]
    for frames in (channels_last, transposed):
        assert not frames.is_contiguous()
        assert torch.equal(mask_noise(frames, strided, seed=4), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("overlap", ["max", "sum"])
def test_a_missed_face_stays_clean_with_a_warning(bad: float, overlap: str) -> None:
    video, landmarks = torch.rand(1, 3, 3, 32, 32), landmarks_on_grid(1, 3, 5, low=5, high=25)
    landmarks[0, 1, 2, 0] = bad
    with pytest.warns(UserWarning, match="stays clean"):
        noised, mask = mask_noise(video, landmarks, out_range=(0, 1), overlap=overlap, return_mask=True)
    assert torch.equal(noised[0, :, 1], video[0, 1])
    assert mask.flatten(2).any(-1).tolist() == [[True, False, True]]


def test_no_landmarks_and_far_landmarks_change_nothing() -> None:
    video = torch.rand(1, 2, 3, 8, 8)
    far = torch.tensor([[-1e30, 4.0], [4.0, 1e30], [-7.0, 4.0], [4.0, 13.6]]).expand(1, 2, 4, 2)
    for landmarks in (torch.zeros(1, 2, 0, 2), far):
        assert torch.equal(mask_noise(video, landmarks, out_range=(0, 1)), video.transpose(1, 2))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("out", [torch.bfloat16, torch.float16, torch.float32])
def test_types_and_range(dtype: torch.dtype, out: torch.dtype) -> None:
    bytes_ = torch.randint(0, 256, (1, 2, 3, 16, 16), dtype=torch.uint8)
    bytes_.view(-1)[:2] = torch.tensor([0, 255], dtype=torch.uint8)
    video = bytes_ if dtype == torch.uint8 else (bytes_ / 255).to(dtype)
    result = mask_noise(video, torch.zeros(1, 2, 0, 2), out_range=(-1, 3), dtype=out)
    picture = bytes_.double() / 255 if dtype == torch.uint8 else video.double()
    # Three float32 roundings of numbers up to 4, then one of the result's type.
    tolerance = 3 * 4 * 2**-24 + 3 * torch.finfo(out).eps / 2
    assert result.dtype == out
    assert (result.double() - (4 * picture - 1).transpose(1, 2)).abs().max() <= tolerance
    if dtype == torch.uint8:
        assert result.view(-1)[:2].tolist() == [-1, 3]


def test_blend_is_the_forward_step() -> None:
    reference, clean = torch.rand(2, 3, 16, 16), torch.randint(0, 256, (2, 4, 3, 16, 16), dtype=torch.uint8)
    landmarks, a, b = landmarks_on_grid(2, 4, 6), torch.tensor([0.3, 1.0]), torch.tensor([0.7, 0.0])
    noised = mask_noise(reference, landmarks, seed=8)
    blended = mask_noise(reference, landmarks, seed=8, blend=(clean, a, b))
    target = clean.double().transpose(1, 2) / 255 * 2 - 1
    shape = (2, 1, 1, 1, 1)
    expected = a.double().view(shape) * target + b.double().view(shape) * noised.double()
    # Two products and a sum of numbers up to 1 in float32, after a target of three roundings.
    assert (blended.double() - expected).abs().max() < 8 * 2**-24
    alone = mask_noise(reference[0], landmarks[0], seed=8, blend=(clean[0], a[0], b[0]))
    assert torch.equal(alone, blended[0])


class Noised(torch.nn.Module):
    def forward(self, video: Tensor, landmarks: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        noised, mask = mask_noise(video * 0.5, landmarks, seed=3, blend=(video, a, 1 - a), return_mask=True)
        return noised + 1, mask


def test_compile_and_export_keep_one_graph() -> None:
    inputs = (torch.rand(2, 3, 3, 16, 16), landmarks_on_grid(2, 3, 5), torch.rand(2))
    expected = Noised()(*inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        compiled = torch.compile(Noised(), fullgraph=True, backend="aot_eager")(*inputs)
        program = torch.export.export(Noised(), inputs)
    for result in (compiled, program.module()(*inputs)):
        assert all(torch.equal(x, y) for x, y in zip(result, expected, strict=True))
    assert sum("mask_noise" in str(node.target) for node in program.graph.nodes) == 1


def test_custom_operator_is_sound() -> None:
    video = torch.rand(2, 3, 3, 8, 8)
    integers, weights = torch.zeros(2, dtype=torch.int64), torch.rand(2)
    arguments = (video, landmarks_on_grid(2, 3, 5), integers, integers, video, weights, weights)
    settings = (2.0, 11, 0.01, "max", -1.0, 1.0, torch.float16, True)
    operator = torch.ops.talkhead.mask_noise.default
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.library.opcheck(operator, arguments + settings, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"sigma": 0.0}, "sigma"),
        ({"kernel_size": 10}, "kernel_size"),
        ({"kernel_size": 257}, "kernel_size"),
        ({"threshold": -0.1}, "threshold"),
        ({"threshold": 1e3, "overlap": "sum"}, "threshold"),
        ({"overlap": "mean"}, "overlap"),
        ({"dtype": torch.uint8}, "dtype"),
        ({"seed": torch.zeros(3, dtype=torch.int64)}, "seed"),
        ({"frame_offset": -1}, "frame_offset"),
        ({"landmarks": torch.zeros(2, 3, 5)}, "landmarks"),
        ({"landmarks": torch.zeros(2, 3, 5, 2, dtype=torch.int64)}, "landmarks"),
        ({"video": torch.zeros(2, 4, 3, 8, 8)}, "video"),
        ({"video": torch.zeros(2, 3, 8, 8, dtype=torch.float64)}, "video"),
        ({"blend": (torch.zeros(2, 3, 8, 8), torch.ones(2), torch.ones(2))}, "blend"),
        ({"blend": (torch.zeros(2, 3, 3, 8, 8), torch.ones(1), torch.ones(2))}, "blend"),
    ],
)
def test_errors_name_the_argument(change: dict, name: str) -> None:
    arguments = {"video": torch.zeros(2, 3, 8, 8), "landmarks": torch.zeros(2, 3, 5, 2)} | change
    with pytest.raises(ValueError, match=f"^{name}"):
        mask_noise(**arguments)


class LargestTensor(TorchDispatchMode):
    """Remember the largest number of elements that an operator returned."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result


def test_work_is_that_of_the_windows() -> None:
    # K x H x W would be 68 * 256 * 256 = 4.5 million; the windows are 68 * 11 * 11 and the frame 65536.
    with LargestTensor() as mode:
        landmark_mask(landmarks_on_grid(1, 1, 68, high=256), (256, 256), 2.0, 11, 0.01, "max")
    assert mode.largest == 256 * 256


@pytest.mark.parametrize("sigma", [1.0, 2.5])
def test_maps_are_the_largest_gaussian_of_each_part(sigma: float) -> None:
    landmarks = torch.rand(2, 3, 68, 2) * 50 - 10
    maps = landmark_maps(landmarks, (31, 37), sigma)
    full = dense(landmarks, (31, 37), sigma, 201) * (2 * math.pi * sigma)
    parts = ((0, 17), (17, 27), (27, 36), (36, 48), (48, 60), (60, 68))
    expected = torch.stack([full[:, :, first:last].amax(2) for first, last in parts], 1)
    assert maps.shape == (2, 6, 3, 31, 37)
    # Cut off at five sigma, where the Gaussian is exp(-12.5) = 3.7e-6, from the nearest whole pixel.
    assert (maps - expected).abs().max() < 1e-5


def test_maps_ignore_missing_points() -> None:
    landmarks = torch.rand(1, 2, 68, 2) * 30
    landmarks[0, 1, 48:60] = float("nan")
    maps = landmark_maps(landmarks, (30, 30), dtype=torch.bfloat16)
    assert maps.dtype == torch.bfloat16
    assert maps[0, 4, 1].abs().max() == 0 and maps[0, 5, 1].max() > 0.5
    with pytest.raises(ValueError, match="^landmarks"):
        landmark_maps(landmarks[0], (30, 30))
