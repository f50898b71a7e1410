"""The mask-noise section of `gpu_report.py`: device times by graph replay, and the kernel's block sizes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from benchmark_mask_noise import (
    KERNEL_SIZE,
    SIGMA,
    THRESHOLD,
    blur,
    bytes_to_move,
    clock,
    copy_bandwidth,
    make_inputs,
    ours,
)
from torch import Tensor

SIZES = ((8, 32, 256, 256), (1, 16, 128, 128), (8, 32, 512, 512))
SMALL = ((1, 2, 32, 32),)
MAIN = SIZES[0]
BLOCKS = (
    *((8, 64, 4), (4, 128, 4), (16, 64, 4), (8, 128, 4), (4, 64, 2), (8, 32, 2), (2, 128, 2), (4, 64, 1), (8, 32, 1)),
    *(
        (16, 32, 4),
        (2, 256, 4),
        (4, 256, 8),
        (8, 64, 2),
        (16, 64, 8),
        (32, 64, 8),
        (4, 128, 2),
        (2, 128, 1),
        (1, 256, 2),
    ),
    *((16, 32, 2), (32, 32, 4), (8, 16, 1), (8, 128, 8)),
)
"""Rows, columns and warps to be tried, the likeliest first."""
Run = Callable[[Tensor, Tensor], Any]


def measure(log: Any, device: str) -> None:
    """Time the kernel beside eager and compiled PyTorch; on CUDA also its block sizes and the card's bandwidth."""
    with torch.inference_mode():
        if device == "cpu":
            for size in SMALL:
                inputs = make_inputs(size, device)
                log.row("Mask noise", str(size), {k: clock(f, inputs, 3, device)[0] for k, f in rivals(False).items()})
            return
        copy, fill = copy_bandwidth(), fill_bandwidth()
        log.row("Bandwidth", "this card", {"copy (TB/s)": copy / 1e12, "fill (TB/s)": fill / 1e12})
        best = tune(log, MAIN, BLOCKS, copy, fill)
        for size in SIZES:
            log.attempt("Mask noise", str(size), lambda size=size: compared(size, copy, fill), needs=15)
        for size in SIZES[1:]:
            tune(log, size, best[:5], copy, fill)
        log.say(
            "device times in ms: medians of replays of a CUDA graph of several calls with inputs in rotation; `call` "
            "is one call after another as a program makes it, with the host's part; shares count the bytes that no "
            "method can avoid (docs/kernel.md); a fill writes as the kernel does, a copy reads as much as it writes"
        )


def rivals(compiled: bool) -> dict[str, Run]:
    """Return what is compared, by heading."""
    runs: dict[str, Run] = {"eager (ms)": blur, "ours (ms)": ours}
    if compiled:
        runs["compiled (ms)"] = torch.compile(blur, dynamic=False)
    return runs


def compared(size: tuple[int, ...], copy: float, fill: float) -> dict[str, float]:
    """Return one size's row."""
    inputs = make_inputs(size, "cuda")
    row = {heading: device_time(run, inputs) for heading, run in rivals(True).items()}
    row["ours, call (ms)"] = clock(ours, inputs, 30, "cuda")[0]
    row["faster than eager"] = row["eager (ms)"] / row["ours (ms)"]
    row["faster than compiled"] = row["compiled (ms)"] / row["ours (ms)"]
    return row | shares(size, row["ours (ms)"], copy, fill)


def shares(size: tuple[int, ...], milliseconds: float, copy: float, fill: float) -> dict[str, float]:
    """Return how much of the copy and fill bandwidths a time of ours is, in percent."""
    rate = bytes_to_move(size) / milliseconds * 1e3
    return {"% of copy": 100 * rate / copy, "% of fill": 100 * rate / fill}


def tune(
    log: Any, size: tuple[int, ...], blocks: tuple[tuple[int, int, int], ...], copy: float, fill: float
) -> tuple[tuple[int, int, int], ...]:
    """Time the kernel with every block size; say the best, and return all, the fastest first."""
    from talkhead.ops.mask_noise_triton import mask_noise_fused

    (batch, frames), inputs, times = size[:2], make_inputs(size, "cuda"), {}
    seed = torch.ones(batch, dtype=torch.int64, device="cuda")
    title = f"Blocks at {size}"
    for rows, columns, warps in blocks:

        def run(reference: Tensor, landmarks: Tensor, rows=rows, columns=columns, warps=warps) -> Tensor:
            video = reference[:, None].expand(-1, frames, -1, -1, -1)
            settings = (SIGMA, KERNEL_SIZE, THRESHOLD, "max", -1.0, 1.0, torch.float32, False)
            return mask_noise_fused(
                video, landmarks, seed, seed, None, None, None, *settings, tile=(rows, columns, warps)
            )[0]

        def timed(run: Run = run, key: tuple[int, int, int] = (rows, columns, warps)) -> dict[str, float]:
            times[key] = device_time(run, inputs)
            return {"ms": times[key]} | shares(size, times[key], copy, fill)

        log.attempt(title, f"{rows} x {columns}, {warps} warps", timed, needs=25 if size == MAIN else 2)
    ranked = tuple(sorted(times, key=lambda key: times[key]))
    if ranked:
        share = shares(size, times[ranked[0]], copy, fill)["% of copy"]
        rows, columns, warps = ranked[0]
        log.say(f"{size}: the best block is {rows} x {columns} with {warps} warps, {share:.0f}% of the copy bandwidth")
    return ranked


def device_time(run: Run, inputs: Iterator[tuple[Tensor, Tensor]], calls: int = 6, replays: int = 7) -> float:
    """Return a call's time on the card in ms, without the host's: the median of replays of a graph of several calls."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run(*next(inputs))
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph, kept = torch.cuda.CUDAGraph(), [next(inputs) for _ in range(calls)]
    with torch.cuda.graph(graph):
        for arguments in kept:
            run(*arguments)
    times = []
    for _ in range(replays + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / calls)
    return statistics.median(times[2:])


def fill_bandwidth(repeats: int = 30) -> float:
    """Return how fast the card writes, in bytes per second: what a method that only writes can reach."""
    target, times = torch.empty(2**27, device="cuda"), []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        target.fill_(0.5)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return 4 * 2**27 / statistics.median(times) * 1e3
