"""Networks and training steps on a GPU that is only pretended: is each tensor where it is needed, and who waits?

PyTorch can trace a program without computing (`FakeTensorMode`); a device of another type then stands for the GPU. What
mixes devices fails as it would on CUDA, and what reads a number back, for which the host would have to wait, is seen.
The pretended device is registered for a whole process, so this file runs itself in another one.
"""

import importlib.util
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from importlib.resources import files
from typing import Any

import pytest
import torch

GPU = "pretended"
# Emotions are heard once a video; augmentation and statistics of training copy a few numbers or look at one.
WAITING = {
    *("nets/conformer.py", "nets/standardisation.py", "speech/logmel.py", "augmentation/spectrum.py"),
    *("augmentation/speech.py", "modules/emotion.py"),
}


@pytest.fixture(scope="module")
def seen() -> dict[str, dict[str, list[str]]]:
    """What failed, and which lines waited, by name of the job."""
    home = importlib.util.find_spec("torch.utils.backend_registration")
    if home is None or not hasattr(import_module(home.name), "_setup_privateuseone_for_python_backend"):
        pytest.skip("this PyTorch cannot pretend a device")
    command = [sys.executable, __file__]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_every_tensor_is_where_it_is_needed(seen) -> None:
    assert {name: job["failed"] for name, job in seen.items() if job["failed"]} == {}
    assert {"paint", "train video", "train landmark", "train emotion", "landmark", "emotion", "enlarge"} <= set(seen)


def test_nothing_waits_for_the_card_but_what_is_known_to(seen) -> None:
    waited = {line for job in seen.values() for line in job["waited"]}
    assert {line.split(":")[0] for line in waited} <= WAITING, waited
    for name in ("paint", "enlarge", "landmark", "train paper/video"):
        assert not seen[name]["waited"], name


# --- the other process ---


def main() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils import backend_registration

    backend_registration._setup_privateuseone_for_python_backend(GPU)
    device_module = getattr(torch, GPU)
    device_module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    device_module.is_autocast_enabled = lambda: False
    mode, waited = FakeTensorMode(allow_non_fake_inputs=True), []
    torch.distributions.Distribution.set_default_validate_args(False)  # there are no values to be looked at
    report, tried = {}, jobs(mode)
    watch(mode, waited)
    for name, job in tried.items():
        waited.clear()
        failed = []
        try:
            with mode:
                job()
        except Exception as error:
            places = [f"{t.filename}:{t.lineno} {t.line}" for t in traceback.extract_tb(error.__traceback__)]
            places = [place for place in places if "/talkhead/" in place]
            if (
                type(error).__name__ == "DynamicOutputShapeException"
            ):  # as many as there are True: the host must be told
                waited.append(places[-1].split("/talkhead/")[-1])
            else:
                failed = [f"{type(error).__name__}: {error}"[:300], *places[-2:]]
        report[name] = {"failed": failed, "waited": sorted(set(waited))}
    print(json.dumps(report))


def jobs(mode: Any) -> dict[str, Callable[[], Any]]:
    """Return what is tried, with networks that were built on the CPU and are then moved."""
    from talkhead.face.mouth_region import mouth_region
    from talkhead.finishing.detail import DetailRestorer
    from talkhead.nets.conformer import ConformerClassifier
    from talkhead.nets.landmark import LandmarkNet
    from talkhead.nets.renderer import Renderer
    from talkhead.nets.sync import SyncNet
    from talkhead.schedulers import MaskNoiseBridgeScheduler

    speaker = files("talkhead") / "assets" / "speaker"
    renderer, landmark, emotion = (
        moved(kind.from_pretrained(speaker / name).eval(), mode)
        for kind, name in ((Renderer, "renderer"), (LandmarkNet, "landmark"), (ConformerClassifier, "emotion"))
    )
    sync = moved(SyncNet().eval(), mode)
    bridge = MaskNoiseBridgeScheduler()
    bridge.set_timesteps(4)

    def on_gpu(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=GPU)

    def paint() -> None:
        with torch.no_grad():
            picture, face, probabilities = on_gpu(1, 3, 128, 128, dtype=torch.uint8), on_gpu(1, 68, 2), on_gpu(1, 8)
            condition = renderer.prepare(picture, face, on_gpu(1, 16, 68, 2))
            x = condition.noise
            for step in (999, 749, 499, 249):
                x = bridge.step(renderer.predict(x, step, condition, probabilities, 1.5), step, x).prev_sample
            assert renderer.decode(x).device.type == GPU

    def paint_with_bank() -> None:
        pictures = on_gpu(1, 4, 3, 128, 128, dtype=torch.uint8), on_gpu(1, 4, 68, 2)
        picture, face = on_gpu(1, 3, 128, 128, dtype=torch.uint8), on_gpu(1, 68, 2)
        condition = renderer.prepare(picture, face, on_gpu(1, 16, 68, 2), bank=pictures)
        assert renderer.predict(condition.noise, 999, condition, on_gpu(1, 8)).device.type == GPU

    def enlarge() -> None:
        square, face = on_gpu(3, 300, 300, dtype=torch.uint8), on_gpu(3, 128, 128, dtype=torch.uint8)
        restore = DetailRestorer(square, face, on_gpu(68, 2), 0.1)
        assert restore(on_gpu(2, 3, 128, 128, dtype=torch.uint8), on_gpu(2, 68, 2)).device.type == GPU

    return {
        "paint": paint,
        "paint with bank": paint_with_bank,
        "enlarge": enlarge,
        "repaint": lambda: mouth_region(on_gpu(2, 68, 2), on_gpu(2, 68, 2), 128),
        "sync": lambda: sync(on_gpu(2, 50, 68, 2), on_gpu(2, 32_000)),
        "landmark": lambda: landmark(on_gpu(2, 32_000), on_gpu(2, 68, 2), on_gpu(2, 8), 50),
        "emotion": lambda: emotion.probabilities(on_gpu(1, 32_000)),
        **{f"train {name}": training(name, mode, on_gpu) for name in ("video", "landmark", "emotion", "paper/video")},
    }


def training(name: str, mode: Any, on_gpu: Callable[..., torch.Tensor]) -> Callable[[], Any]:
    """Return a training step of a shipped configuration, forwards and backwards."""
    sys.path.insert(0, str(files("talkhead").joinpath("..", "examples")))
    import yaml
    from gpu_report_training import built

    from talkhead.data.clip import Clip

    config = yaml.safe_load((files("talkhead") / "configs" / f"{name}.yaml").read_text())
    drawn = {"mingle", "jitter", "reshape"} & config["model"]["init_args"].keys()
    config["model"]["init_args"] |= dict.fromkeys(drawn, 0.0)  # which samples is drawn, and of draws nothing is known
    module = moved(built(config["model"]), mode)
    module.log = module.log_dict = module.log_loss = lambda *_, **__: None
    type(module).device = property(lambda _: torch.device(GPU, 0))

    def step() -> None:
        frames, whole = config["data"].get("num_frames") or 62, {"dtype": torch.int64}
        clip = Clip(
            on_gpu(4, frames * 640), on_gpu(4, **whole), on_gpu(4), on_gpu(4, **whole),
            on_gpu(4, frames, 3, 128, 128, dtype=torch.uint8), on_gpu(4, frames, 68, 2),
            on_gpu(4, 3, 128, 128, dtype=torch.uint8), on_gpu(4, 68, 2),
        )  # fmt: skip
        module.training_step(clip, 0).backward()

    return step


def moved(net: Any, mode: Any) -> Any:
    """Put a network's weights on the pretended device."""
    for module in net.modules():
        for home in (module._parameters, module._buffers):
            for name, value in home.items():
                if value is not None:
                    with mode:
                        there = mode.from_tensor(value.data).to(GPU)
                    learnt = home is module._parameters
                    home[name] = torch.nn.Parameter(there, value.requires_grad) if learnt else there
    return net


def watch(mode: Any, waited: list[str]) -> None:
    """Note which of our lines read a number from the card or copy to it and wait; answer with a number made up."""
    from torch._subclasses.fake_tensor import FakeTensor

    def note() -> None:
        ours = [
            t for t in traceback.extract_stack() if "/talkhead/" in t.filename and "/site-packages/" not in t.filename
        ]
        if ours:
            waited.append(f"{ours[-1].filename.split('/talkhead/')[-1]}:{ours[-1].lineno} {ours[-1].line}")

    def reading(name: str, answer: Callable[[torch.Tensor], Any]) -> None:
        real = getattr(torch.Tensor, name)

        def method(self: torch.Tensor, *arguments: Any) -> Any:
            if not isinstance(self, FakeTensor):
                return real(self, *arguments)
            if self.device.type == GPU:
                note()
            return answer(self)

        setattr(torch.Tensor, name, method)

    for name, answer in {"__bool__": False, "__int__": 40, "__float__": 1.0, "item": 1, "__index__": 40}.items():
        reading(name, lambda _, answer=answer: answer)
    reading("tolist", lambda tensor: [1] * tensor.numel() if tensor.ndim else 1)
    real_to, real_get = torch.Tensor.to, torch.Tensor.__getitem__

    def to(self: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        target = arguments[0] if arguments else options.get("device")
        place = target.device if isinstance(target, torch.Tensor) else target
        if GPU not in str(place):
            return real_to(self, *arguments, **options)
        if self.device.type != GPU and not options.get("non_blocking"):
            note()
        return real_to(self if isinstance(self, FakeTensor) else mode.from_tensor(self.detach()), *arguments, **options)

    def get(self: torch.Tensor, index: Any) -> torch.Tensor:
        if isinstance(self, FakeTensor) and self.device.type == GPU:  # a list becomes a tensor where no mode can see it
            parts = list(index) if isinstance(index, tuple) else [index]
            for place, part in enumerate(parts):
                if isinstance(part, list | tuple) or (isinstance(part, torch.Tensor) and part.device.type != GPU):
                    note()  # torch copies it to the card, and waits
                if isinstance(part, list | tuple):
                    axis = place - len(parts) if any(p is ... for p in parts[:place]) else place
                    self = self.index_select(axis, torch.empty(len(part), dtype=torch.int64, device=GPU))
                    parts[place] = slice(None)
            index = tuple(parts)
        return real_get(self, index)

    def new_tensor(self: torch.Tensor, data: Any, **options: Any) -> torch.Tensor:
        if self.device.type == GPU:
            note()
        shape = (len(data),) if isinstance(data, list | tuple) else ()
        return torch.empty(shape, dtype=options.get("dtype", self.dtype), device=self.device)

    torch.Tensor.to, torch.Tensor.__getitem__, torch.Tensor.new_tensor = to, get, new_tensor  # type: ignore[assignment]


if __name__ == "__main__":
    main()
