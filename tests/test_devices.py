"""What names of devices mean, and that they reach what computes."""

import pytest
import torch

from talkhead.devices import chosen_device
from talkhead.pipeline import TalkingHeadPipeline
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


def test_the_doors_ask_for_the_device_before_they_load_anything(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for door in (
        lambda: TalkingHeadPipeline.from_pretrained("nowhere/at-all", "cuda"),
        lambda: load_detector("dlib", "cuda"),
    ):
        with pytest.raises(ValueError, match="^device"):
            door()


def test_compile_compiles_the_network_alone(monkeypatch) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    plain = TalkingHeadPipeline.from_pretrained("bundled", "cpu")
    assert plain.device == torch.device("cpu") and not compiled
    pipeline = TalkingHeadPipeline.from_pretrained("bundled", "cpu", compile=True)
    assert compiled == [pipeline.renderer.unet]
