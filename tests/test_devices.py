"""What names of devices mean, and that they reach what computes."""

import ctypes
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from talkhead.devices import (
    ahead,
    chosen_device,
    give_back_memory,
    has_fast_bf16,
    in_whole_pieces,
    side_by_side,
    usable_threads,
)
from talkhead.nets.renderer import Renderer
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.pipeline.at_once import ready_to_paint
from talkhead.tracking.track import load_detector


@pytest.mark.parametrize(("count", "meant"), [(0, "cpu"), (2, "cuda")])
def test_auto_is_the_gpu_where_there_is_one(count: int, meant: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    assert chosen_device("auto") == chosen_device() == torch.device(meant)


def test_devices_that_are_not_there_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert chosen_device("cuda:1") == torch.device("cuda", 1)
    assert chosen_device(torch.device("cpu")) == torch.device("cpu")
    for name in ("cuda:2", torch.device("cuda", 7)):
        with pytest.raises(ValueError, match="^device .* 2 CUDA devices"):
            chosen_device(name)
    with pytest.raises(ValueError, match="^device must be auto.*'gpu'"):
        chosen_device("gpu")


@pytest.mark.parametrize("name", ["meta", "mps", "mps:0", "xpu", "xpu:1", "hpu", "xla", "mtia"])
def test_devices_of_other_kinds_are_refused_where_they_hold_no_numbers(name: str) -> None:
    kind = name.split(":")[0]
    backend = getattr(torch, kind, None) or getattr(torch.backends, kind, None)
    if hasattr(backend, "is_available") and backend.is_available():
        pytest.skip(f"this machine has {kind}")
    for given in (name, torch.device(name)):
        with pytest.raises(ValueError, match=f"^device must be one that PyTorch finds here; got '{name}'"):
            chosen_device(given)


def test_the_doors_ask_for_the_device_before_they_load_anything(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for door in (
        lambda: TalkingHeadPipeline.from_pretrained("nowhere/at-all", "cuda"),
        lambda: load_detector("dlib", "cuda"),
    ):
        with pytest.raises(ValueError, match="^device"):
            door()


def test_compile_compiles_the_renderers_networks_alone(monkeypatch) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    plain = TalkingHeadPipeline.from_pretrained("bundled", "cpu")
    assert plain.device == torch.device("cpu") and not compiled
    pipeline = TalkingHeadPipeline.from_pretrained("bundled", "cpu", compile=True)
    assert pipeline.fine_renderer is not None
    assert compiled == [pipeline.renderer.unet, pipeline.fine_renderer.unet]


def test_threads_that_overlap_leave_new_ones_as_they_were() -> None:
    """A server with a thread for each request: one that begins beside another begins with one, and ends with it."""
    number, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    first, second = threading.Event(), threading.Event()

    def early() -> None:
        with in_whole_pieces():
            first.set()
            second.wait(10)

    def late() -> None:
        with in_whole_pieces():
            second.set()
            before.join(10)

    def fresh() -> None:
        seen.append(torch.get_num_threads())

    try:
        before, after = threading.Thread(target=early), threading.Thread(target=late)
        before.start()
        first.wait(10)
        after.start()
        after.join(20)
        other = threading.Thread(target=fresh)
        other.start()
        other.join()
        assert seen == [2] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(number)


def test_pieces_side_by_side_share_the_threads_and_keep_their_order() -> None:
    threads, met = torch.get_num_threads(), threading.Barrier(2, timeout=30)

    def work(piece: int) -> tuple[int, int, bool]:
        met.wait()  # nobody passes alone
        return piece, torch.get_num_threads(), torch.is_inference_mode_enabled()

    try:
        torch.set_num_threads(4)
        with torch.inference_mode():
            assert side_by_side(work, [3, 1]) == [(3, 2, True), (1, 2, True)]
        assert side_by_side(work, [1, 2, 3, 4]) == [(piece, 1, False) for piece in (1, 2, 3, 4)]
        assert torch.get_num_threads() == 4
        with ThreadPoolExecutor(1) as later:  # what begins afterwards has all threads again
            assert later.submit(torch.get_num_threads).result() == 4
        with in_whole_pieces():
            assert torch.get_num_threads() == 1 and usable_threads() == 4
            with in_whole_pieces():  # twice is once
                assert side_by_side(work, [3, 1]) == [(3, 2, False), (1, 2, False)]
            assert torch.get_num_threads() == 1 and usable_threads() == 4
        assert torch.get_num_threads() == usable_threads() == 4
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda piece: 1 // piece, [1, 0])
        torch.set_num_threads(1)
        assert side_by_side(lambda piece: threading.current_thread(), [1, 2]) == [threading.main_thread()] * 2
    finally:
        torch.set_num_threads(threads)


def test_pieces_are_made_ahead_of_who_asks_in_order_and_no_further_than_threads():
    threads, begun, go_on = torch.get_num_threads(), [], threading.Semaphore(0)

    def pieces():
        for piece in range(9):
            begun.append((piece, torch.get_num_threads(), usable_threads(), torch.is_inference_mode_enabled()))
            go_on.release()
            yield piece

    def wait_for(count: int) -> None:
        for _ in range(count):
            assert go_on.acquire(timeout=30)
        assert not go_on.acquire(timeout=0.05)

    try:
        torch.set_num_threads(2)
        with torch.inference_mode():
            stream = ahead(pieces())
            assert not begun  # nothing before the first is asked for
            assert next(stream) == 0
            wait_for(3)  # the one that was given and two ahead
            assert begun == [(piece, 1, 2, True) for piece in range(3)]
            assert list(stream) == list(range(1, 9))
        assert torch.get_num_threads() == 2
        begun.clear()
        stream = ahead(pieces())
        next(stream)
        stream.close()  # what is begun ends, no other begins
        made = len(begun)
        assert made <= 3 and not any(thread.name.startswith("ahead") for thread in threading.enumerate())
        torch.set_num_threads(1)
        begun.clear()
        assert next(ahead(pieces())) == 0 and len(begun) == 1  # one thread works for one
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_goes_wrong_ahead_is_heard_at_its_place(threads: int):
    own = torch.get_num_threads()

    def pieces():
        yield 1
        raise ZeroDivisionError

    try:
        torch.set_num_threads(threads)
        stream = ahead(pieces())
        assert next(stream) == 1
        with pytest.raises(ZeroDivisionError):
            next(stream)
        assert list(stream) == []
    finally:
        torch.set_num_threads(own)


def test_weights_are_rounded_beforehand_to_the_same_pictures_and_a_compiled_network_is_kept() -> None:
    renderer = Renderer(size=16, widths=(8, 16), patch=2).eval()
    for weights in renderer.parameters():
        torch.nn.init.normal_(weights, std=0.2)
    face = torch.rand(1, 68, 2) * 15
    condition = renderer.prepare(torch.rand(1, 3, 16, 16), face, face[:, None].repeat(1, 4, 1, 1))
    asked = (condition.noise, 999, condition, torch.full((1, 8), 1 / 8))
    ready = ready_to_paint(renderer)
    assert torch.equal(ready.predict(*asked), renderer.predict(*asked))
    assert (ready.unet.stem.weight.dtype == torch.bfloat16) == has_fast_bf16(renderer.device)
    assert renderer.unet.stem.weight.dtype == torch.float32
    if ready is not renderer:
        assert ready.unet.stem.weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(ready.unet.stem.weight, renderer.unet.stem.weight.bfloat16())
        assert ready.unet.norm.weight is not renderer.unet.norm.weight  # a copy, whatever its type
    renderer.unet._compiled_call_impl = renderer.unet.forward  # as `nn.Module.compile` does
    assert ready_to_paint(renderer) is renderer


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc keeps and gives back holes")
def test_memory_between_what_is_used_goes_back():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    pieces = [bytes(5000) for _ in range(20_000)]  # 100 MB
    pieces[:-1] = []  # the last keeps the heap from shrinking by itself
    before = resident()
    give_back_memory()
    assert before - resident() > 50_000_000


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc can be told what to keep")
def test_memory_that_is_asked_for_again_is_not_cleared_again():
    # In a process of its own: what is chosen stays chosen.
    code = """
import resource, torch
from concurrent.futures import ThreadPoolExecutor
from talkhead.devices import give_back_memory, keep_memory
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):  # 48 MiB, 12,288 pages, in a thread that is new
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: [torch.ones(2**20) for _ in range(12)]).result()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
keep_memory()
kept = [faults() for _ in range(3)][-1]
give_back_memory()
print(kept, faults())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    kept, given_back = map(int, done.stdout.split())
    assert kept < 6000 < 12_000 < given_back  # without, 23,000 or more each time
