"""Time mask noise against the way one would write it without a kernel (docs/measurements/mask_noise.md).

    OMP_NUM_THREADS=2 python examples/benchmark_mask_noise.py
    python examples/benchmark_mask_noise.py --sizes 8,32,256,256 --repeats 20

On a CPU the time is the median of wall-clock and of processor time (the second hardly feels other work on the machine);
on a GPU the median of CUDA-event timings. Inputs rotate, so that no cache serves a second call.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from talkhead import mask_noise

SIZES = ("1,16,128,128", "8,32,256,256", "8,32,512,512")
SIGMA, KERNEL_SIZE, THRESHOLD = 2.0, 11, 0.01
INPUTS = 3
Timing = tuple[float, float | None]


def blur(reference: Tensor, landmarks: Tensor, separable: bool = True) -> Tensor:
    """Mask noise in plain PyTorch: impulse image, Gaussian blur, threshold, torch.where; (B, C, T, H, W)."""
    (batch, frames), (height, width) = landmarks.shape[:2], reference.shape[-2:]
    x, y = landmarks.round().long().unbind(-1)
    index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(0, 1)
    impulses = torch.zeros(batch * frames, height * width, device=reference.device).scatter_(1, index, 1.0)
    impulses = impulses.view(-1, 1, height, width)
    half = KERNEL_SIZE // 2
    offset = torch.arange(-half, half + 1, device=reference.device)
    line = torch.exp(-offset.square() / (2 * SIGMA**2))
    if separable:
        smooth = F.conv2d(F.conv2d(impulses, line.view(1, 1, 1, -1), padding=(0, half)), line.view(1, 1, -1, 1), padding=(half, 0))  # noqa: E501  # fmt: skip
    else:
        smooth = F.conv2d(impulses, torch.outer(line, line)[None, None], padding=half)
    mask = (smooth / (2 * math.pi * SIGMA) > THRESHOLD).view(batch, 1, frames, height, width)
    noise = torch.rand(batch, reference.shape[1], frames, height, width, device=reference.device)
    return torch.where(mask, noise, (reference / 255)[:, :, None]).mul_(2).sub_(1)


def ours(reference: Tensor, landmarks: Tensor) -> Tensor:
    """Mask noise of this library with the same settings."""
    result = mask_noise(reference, landmarks, sigma=SIGMA, kernel_size=KERNEL_SIZE, threshold=THRESHOLD, seed=1)
    assert isinstance(result, Tensor)
    return result


def make_inputs(size: tuple[int, ...], device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Return an endless rotation of reference frames and face-like landmarks."""
    batch, frames, height, width = size
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([width, height]) * 0.15
    sets = []
    for _ in range(INPUTS):
        reference = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)
        face = torch.randn(batch, 1, 68, 2, generator=generator) * spread + torch.tensor([width, height]) / 2
        motion = torch.randn(batch, frames, 68, 2, generator=generator)
        sets.append((reference.to(device), (face + motion).to(device)))
    return cycle(sets)


def clock(run: Callable[..., Tensor], inputs: Iterator[tuple[Tensor, Tensor]], repeats: int, device: str) -> Timing:
    """Return the median time of a call in ms: (CUDA events, None) on a GPU, (wall, processor) on a CPU."""
    for _ in range(2 if device == "cpu" else 10):
        run(*next(inputs))
    walls, processors = [], []
    for _ in range(repeats):
        arguments = next(inputs)
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run(*arguments)
            end.record()
            end.synchronize()
            walls.append(start.elapsed_time(end))
        else:
            wall, processor = time.perf_counter(), time.process_time()
            run(*arguments)
            walls.append((time.perf_counter() - wall) * 1e3)
            processors.append((time.process_time() - processor) * 1e3)
    return statistics.median(walls), statistics.median(processors) if processors else None


def bytes_to_move(size: tuple[int, ...]) -> int:
    """Return what no method can avoid: the uint8 reference and landmarks read once, the float32 frames written once."""
    batch, frames, height, width = size
    return 3 * batch * height * width + 8 * 68 * batch * frames + 4 * 3 * batch * frames * height * width


def copy_bandwidth(repeats: int = 30) -> float:
    """Return the GPU's measured copy bandwidth in bytes per second, reads and writes counted."""
    pairs = cycle([(torch.rand(2**27, device="cuda"), torch.empty(2**27, device="cuda")) for _ in range(2)])
    milliseconds, _ = clock(lambda source, target: target.copy_(source), pairs, repeats, "cuda")
    return 2 * 4 * 2**27 / milliseconds * 1e3


def print_machine(device: str) -> None:
    """Print what the numbers were measured on."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
    load = f"load {os.getloadavg()[0]:.1f}, " if hasattr(os, "getloadavg") else ""
    print(f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {load}torch {torch.__version__}", end="")
    if device == "cuda":
        import triton

        print(f", {torch.cuda.get_device_name()}, triton {triton.__version__}", end="")
    print("\n")


def print_cpu(size: tuple[int, ...], repeats: int) -> None:
    """Print a size's CPU row: the faster of the separable and the square blur, ours, the ratios."""
    inputs = make_inputs(size, "cpu")
    blurs = [clock(lambda r, x, s=s: blur(r, x, s), inputs, repeats, "cpu") for s in (True, False)]
    (wall, processor), (own_wall, own_processor) = (
        min(blurs, key=lambda t: t[1] or 0),
        clock(ours, inputs, repeats, "cpu"),
    )
    assert processor is not None and own_processor is not None
    print(f"| {size} | CPU | {wall:.0f} ({processor:.0f}) | {own_wall:.0f} ({own_processor:.0f}) "
          f"| {wall / own_wall:.1f} ({processor / own_processor:.1f}) |", flush=True)  # fmt: skip


def print_gpu(size: tuple[int, ...], repeats: int, bandwidth: float) -> None:
    """Print a size's GPU row: eager, compiled, ours, the ratio, the share of the copy bandwidth."""
    inputs = make_inputs(size, "cuda")
    eager, compiled, own = (clock(f, inputs, repeats, "cuda")[0] for f in (blur, torch.compile(blur), ours))
    share = bytes_to_move(size) / (own / 1e3) / bandwidth
    print(f"| {size} | GPU | {eager:.3f} | {compiled:.3f} | {own:.3f} | {eager / own:.1f} | {share:.0%} |", flush=True)


def main() -> None:
    """Print the table for this machine."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="B,T,H,W of each row")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls per cell")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = [tuple(int(part) for part in size.split(",")) for size in options.sizes]
    print_machine(device)
    with torch.inference_mode():
        print("| (B, T, H, W) | device | eager blur, ms (processor) | ours, ms (processor) | faster (processor) |")
        print("|---|---|---|---|---|")
        for size in sizes:
            print_cpu(size, options.repeats)
        if device == "cuda":
            bandwidth = copy_bandwidth()
            print(f"\ncopy bandwidth {bandwidth / 1e12:.2f} TB/s\n")
            print("| (B, T, H, W) | device | eager, ms | compiled, ms | ours, ms | faster | of the copy bandwidth |")
            print("|---|---|---|---|---|---|---|")
            for size in sizes:
                print_gpu(size, max(options.repeats, 50), bandwidth)


if __name__ == "__main__":
    main()
