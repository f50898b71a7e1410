"""The fused kernel: compiled without a GPU, interpreted on the CPU, run where there is CUDA; always bit for bit.

Triton's interpreter must be chosen before the kernel is imported, so the interpreter's tests run in a process of their
own: this file again, with TRITON_INTERPRET=1.
"""

import itertools
import os
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch

from talkhead.ops.mask_noise import mask_noise, mask_noise_reference

triton = pytest.importorskip("triton", reason="triton is not installed (pip install talkhead[kernels])")

from talkhead.ops.mask_noise_triton import LARGE, SMALL, fitting_tile, mask_noise_fused, mask_noise_kernel  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NARROW = (torch.bfloat16, torch.float16, torch.float32)
ALL = (torch.uint8, *NARROW)


def arguments(
    shape: tuple[int, ...], count: int, source: torch.dtype, out: torch.dtype, overlap: str, device: str = "cpu"
) -> list:
    """Return operator arguments with hard landmarks: sub-pixel, on the border and outside it."""
    batch, frames, _, height, width = shape
    video = torch.randint(0, 256, shape, dtype=torch.uint8)
    clean = torch.randint(0, 256, shape, dtype=torch.uint8)
    if source != torch.uint8:
        video, clean = (video / 255).to(source), (clean / 255).to(source)
    landmarks = torch.rand(batch, frames, count, 2) * torch.tensor([width + 12.0, height + 12.0]) - 6
    if count > 2:
        landmarks[:, :, 0], landmarks[:, :, 1] = torch.tensor([0.0, height - 1.0]), torch.tensor([width - 0.5, 1e20])
    seed, offset = torch.randint(-(2**62), 2**62, (batch,)), torch.randint(0, 2**33, (batch,))
    tensors = [video, landmarks, seed, offset, clean, torch.rand(batch), torch.rand(batch)]
    # 2.3 is no power of two wide: a fused multiply-add anywhere would show.
    return [x.to(device) for x in tensors] + [2.0, 11, 0.01, overlap, -1.0, 1.3, out, True]


def assert_same_bits(args: list, tile: tuple[int, int, int] | None = None) -> None:
    noised, mask = mask_noise_fused(*args, tile=tile)
    expected, expected_mask = mask_noise_reference(*[x.cpu() if isinstance(x, torch.Tensor) else x for x in args])
    assert torch.equal(mask.cpu(), expected_mask)
    assert noised.dtype == expected.dtype and torch.equal(noised.cpu(), expected)


CASES = [
    # B, T, C, H, W, K, in, out, overlap, block
    ((1, 1, 1, 1, 1), 1, torch.uint8, torch.float32, "max", (1, 1)),
    ((2, 2, 3, 17, 23), 5, torch.uint8, torch.bfloat16, "max", (16, 32)),
    ((2, 2, 3, 9, 23), 5, torch.uint8, torch.float32, "sum", (8, 8)),
    ((1, 3, 5, 13, 7), 4, torch.bfloat16, torch.float16, "max", (8, 16)),
    ((1, 3, 2, 7, 31), 6, torch.float16, torch.bfloat16, "sum", (32, 32)),
    ((1, 1, 3, 11, 37), 70, torch.float32, torch.float16, "max", (16, 64)),
    ((1, 1, 3, 11, 37), 70, torch.float32, torch.float32, "sum", (16, 64)),
    ((2, 1, 3, 19, 19), 3, torch.bfloat16, torch.float32, "sum", (4, 64)),
    ((2, 1, 3, 19, 19), 3, torch.float16, torch.float32, "max", (32, 8)),
    ((1, 2, 3, 9, 10), 0, torch.uint8, torch.float32, "sum", (16, 16)),
]

if INTERPRETED:

    @pytest.mark.parametrize("case", CASES)
    def test_same_bits(case: tuple) -> None:
        *problem, block = case
        assert_same_bits(arguments(*problem), (*block, 4))

    def test_reference_frame_strides_and_no_extras() -> None:
        args = arguments((2, 3, 3, 12, 13), 4, torch.uint8, torch.float32, "max")
        args[0] = torch.randint(0, 256, (2, 12, 13, 3), dtype=torch.uint8)[:, None].expand(2, 3, 12, 13, 3)
        args[0] = args[0].permute(0, 1, 4, 2, 3)
        args[4:7] = [None, None, None]
        args[2] = args[2][:1].expand(2)
        assert_same_bits(args, (16, 16, 4))
        args[-1] = False
        noised, mask = mask_noise_fused(*args)
        assert mask.numel() == 0 and torch.equal(noised, mask_noise_reference(*args)[0])

    @pytest.mark.parametrize("change", [{7: 1.1, 8: 3}, {7: 0.5, 9: 0.5}, {8: 1, 9: 0.0}])
    def test_other_regions(change: dict[int, float]) -> None:
        args = arguments((1, 2, 3, 12, 13), 6, torch.uint8, torch.float32, "max")
        for place, value in change.items():
            args[place] = value
        assert_same_bits(args)

    def test_channels_that_lie_a_gigabyte_apart() -> None:
        """16,384 frames of 256 px with their channels in front; all but four pages of it are never touched."""
        apart = 2**30
        video = torch.empty(2 * apart + 4096, dtype=torch.uint8).as_strided(
            (1, 1, 3, 4, 4), (3 * apart, 16, apart, 4, 1)
        )
        for channel in range(3):
            video[0, 0, channel] = 10 * channel
        args = arguments((1, 1, 3, 4, 4), 0, torch.uint8, torch.float32, "max")
        assert_same_bits([video, *args[1:4], None, None, None, *args[7:]])

    @pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
    def test_missed_face(bad: float) -> None:
        args = arguments((1, 2, 3, 4, 13), 40, torch.uint8, torch.float32, "max")
        args[1][0, 1, 35, 1] = bad
        with pytest.warns(UserWarning, match="stays clean"):
            assert_same_bits(args)

else:

    def test_interpreter_gives_the_same_bits() -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
        environment = os.environ | {"TRITON_INTERPRET": "1"}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]

    def test_counts_are_never_compiled_in() -> None:
        # A launch compiles an integer of 1 in as a constant, which has no type to be converted from.
        for name in ("frames", "height", "count", "half", "limit"):
            place = mask_noise_kernel.arg_names.index(name)
            assert mask_noise_kernel.params[place].do_not_specialize, name

    @pytest.mark.parametrize("capability", [89, 90])
    @pytest.mark.parametrize("summed", [False, True])
    @pytest.mark.parametrize("one", [False, True])
    def test_compiles_without_a_gpu(capability: int, summed: bool, one: bool, tmp_path, monkeypatch) -> None:
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        constants = {"CHANNELS": 3, "SUM": summed, "BLEND": True, "MASK": True}
        constants |= {"INTERPRETED": False, "BLOCK_Y": LARGE[0], "BLOCK_X": LARGE[1]}
        if one:  # what a launch makes of a picture one pixel wide
            strides = [name for name in mask_noise_kernel.arg_names if name.startswith(("video_", "clean_"))]
            constants |= dict.fromkeys([*strides, "width"], 1)
        types = {"video": "*u8", "clean": "*u8", "landmarks": "*fp32", "seed": "*i64", "frame_offset": "*i64"}
        types |= {"a": "*fp32", "b": "*fp32", "table": "*i32", "out": "*bf16", "mask_out": "*i8", "missing_out": "*i32"}
        types |= {"scale": "fp32", "low": "fp32"} | dict.fromkeys(constants, "constexpr")
        signature = {name: types.get(name, "i32") for name in mask_noise_kernel.arg_names}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own
            compiled = triton.compile(
                ASTSource(mask_noise_kernel, signature, constexprs=constants),
                target=GPUTarget("cuda", capability, 32),
                options={"enable_fp_fusion": False, "num_warps": LARGE[2]},
            )
        assert f".target sm_{capability}" in compiled.asm["ptx"]
        # Bit equality with the CPU forbids a multiplication fused with an addition and an approximate division.
        assert "fma" not in compiled.asm["ptx"] and "div." not in compiled.asm["ptx"].replace("div.s32", "")
        assert len(compiled.asm["cubin"]) > 0

    def test_a_thread_writes_the_pixels_that_it_reads(tmp_path, monkeypatch) -> None:
        # Where its layouts differ the compiler moves every channel through shared memory, with barriers.
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        constants = {"CHANNELS": 3, "SUM": False, "BLEND": True, "MASK": False, "INTERPRETED": False}
        constants |= {"BLOCK_Y": LARGE[0], "BLOCK_X": LARGE[1], "video_w": 1, "clean_w": 1}
        types = {"video": "*u8", "clean": "*fp32", "landmarks": "*fp32", "seed": "*i64", "frame_offset": "*i64"}
        types |= {"a": "*fp32", "b": "*fp32", "table": "*i32", "out": "*fp32", "mask_out": "*i8", "missing_out": "*i32"}
        names = mask_noise_kernel.arg_names
        aligned = [n for n in names if n in types or n.startswith(("video_", "clean_")) or n == "width"]
        types |= {"scale": "fp32", "low": "fp32"} | dict.fromkeys(constants, "constexpr")
        attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in aligned if n not in constants}
        signature = {name: types.get(name, "i32") for name in names}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = triton.compile(
                ASTSource(mask_noise_kernel, signature, constexprs=constants, attrs=attributes),
                target=GPUTarget("cuda", 90, 32),
                options={"enable_fp_fusion": False, "num_warps": LARGE[2]},
            )
        assert "convert_layout" not in compiled.asm["ttgir"]
        assert compiled.asm["ptx"].count("st.global.v4.b32") == 2 * 2 * 3  # with and without noise, rows, channels
        assert "ld.global.b8" not in compiled.asm["ptx"]

    @pytest.mark.parametrize(
        ("frames", "height", "width", "tile"),
        [(16, 128, 128, SMALL), (256, 256, 256, LARGE), (1, 1, 1, SMALL), (66, 64, 128, LARGE), (65, 64, 128, SMALL)],
    )
    def test_tiles_are_small_where_large_ones_are_too_few(frames: int, height: int, width: int, tile: tuple) -> None:
        assert fitting_tile(frames, height, width) == tile

    def test_as_many_frames_as_anybody_has_fit_into_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
        """A grid's first axis may have 2^31 - 1 blocks, the others 65535: 44 minutes of frames."""
        grids = []

        class Launched:
            def __getitem__(self, grid: tuple[int, ...]) -> Any:
                grids.append(grid)
                return lambda *_, **__: None

        monkeypatch.setattr("talkhead.ops.mask_noise_triton.mask_noise_kernel", Launched())
        args = arguments((1, 70_000, 3, 1, 1), 1, torch.uint8, torch.float32, "max")
        mask_noise_fused(*args)
        assert grids == [(70_000,)]

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    @pytest.mark.parametrize(
        ("shape", "step"),
        [((1, 1, 3, 1, 1), 5), ((2, 3, 3, 61, 67), 1), ((1, 2, 5, 128, 128), 5), ((3, 5, 1, 31, 257), 5)],
    )
    def test_cuda_gives_the_same_bits(shape: tuple[int, ...], step: int) -> None:
        # Each combination compiles a kernel, which takes a second or more: all pairs of types at one shape only.
        tiles = itertools.cycle([LARGE, SMALL, (8, 128, 4), (4, 128, 2), (32, 32, 8), (8, 32, 1), None])
        counts = itertools.cycle([68, 1, 0])
        for place, (source, out) in list(enumerate(itertools.product(ALL, NARROW)))[::step]:
            overlap = ("max", "sum")[(place + place // 3) % 2]
            args = arguments(shape, next(counts), source, out, overlap, "cuda")
            tile = next(tiles)
            assert_same_bits(args, tile)
            if place % 4 == 0:
                args[4:7], args[-1] = [None, None, None], False  # what inference asks for
                assert_same_bits(args, tile)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    def test_cuda_warns_of_a_missed_face_at_a_later_call() -> None:
        video, landmarks = torch.rand(1, 3, 16, 16, device="cuda"), torch.rand(1, 2, 5, 2, device="cuda") * 16
        landmarks[0, 1, 3] = float("nan")
        with pytest.warns(UserWarning, match="stays clean"):
            mask_noise(video, landmarks)
            torch.cuda.synchronize()
            mask_noise(video, landmarks[:, :1])
            torch.cuda.synchronize()
