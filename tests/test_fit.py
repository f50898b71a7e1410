"""Training as a person types it: the shipped configurations, made small."""

import csv
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from talkhead import training
from talkhead.cli import main
from talkhead.data.clip import Clip

SHIPPED = ["landmark", "emotion", "video", "paper/landmark", "paper/emotion", "paper/video"]
SMALL = {
    "landmark": ["--model.net.init_args.width=8", "--model.size=32", "--data.num_frames=8"],
    "emotion": ["--model.net.init_args.size=XS", "--data.split=clip", "--trainer.check_val_every_n_epoch=1"],
    "video": [
        "--model.renderer.init_args.size=32",
        "--model.renderer.init_args.widths=[8,16]",
        "--data.num_frames=4",
        "--data.samples_per_clip=1",
        "--trainer.max_steps=-1",
        "--trainer.precision=32-true",
    ],
}


@pytest.fixture
def keep_ctrl_c() -> Iterator[None]:
    """Hear Ctrl-C, which a shell's background jobs do not, and restore its handler: Lightning switches it off."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def fit(module: str, cache: Path, output: Path, *more: str) -> int:
    """Train one of the modules for a moment."""
    return main(fit_words(module, cache, output, *more))


def fit_words(module: str, cache: Path, output: Path, *more: str) -> list[str]:
    """Return the command line that trains one of the modules for a moment."""
    return [
        "fit",
        *(f"--config={module}", f"--data.root={cache}", f"--trainer.default_root_dir={output}"),
        *("--data.batch_size=4", "--data.val_fraction=0.2", "--data.test_fraction=0.1"),
        *("--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"),
        *SMALL[module],
        *more,
    ]


def losses(output: Path) -> dict[int, float]:
    """Return the training loss at each step from all logs of a run, the later log's where two hold the same step."""
    found = {}
    for log in sorted((output / "logs").glob("version_*/metrics.csv")):
        for row in csv.DictReader(log.read_text().splitlines()):
            if row.get("train/loss"):
                found[int(row["step"])] = float(row["train/loss"])
    return found


def last_state(output: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a run's last checkpoint."""
    return torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def interrupt(patch: pytest.MonkeyPatch, when: Callable[[Any], bool]) -> None:
    """Press Ctrl-C at the first training step of which ``when`` is true."""
    from talkhead.modules import emotion, landmark, video

    def interrupted(self: Any, batch: Any, index: int) -> Any:
        if when(self):
            raise KeyboardInterrupt
        return steps[type(self)](self, batch, index)

    modules = [emotion.EmotionClassifier, landmark.LandmarkGenerator, video.VideoDiffusion]
    steps = {module: module.training_step for module in modules}
    for module in modules:
        patch.setattr(module, "training_step", interrupted)


def test_config_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = str(training.CONFIGS / "paper" / "video.yaml")
    assert training.shipped_configs(["fit", "--config", "paper/video"]) == ["fit", "--config", shipped]
    assert training.shipped_configs(["fit", "--config=paper/video.yaml"]) == ["fit", f"--config={shipped}"]
    assert training.shipped_configs(["fit", "-c", "video", "-c", "paper/video"])[4] == shipped
    Path("video.yaml").write_text("{}")
    assert training.shipped_configs(["--config", "video.yaml"]) == ["--config", "video.yaml"]
    assert training.shipped_configs(["--data.root", "video"]) == ["--data.root", "video"]


def test_an_unknown_config_lists_the_shipped_ones(sentence: Callable[..., str]) -> None:
    said = sentence("fit", "--config", "papr/video")
    assert "'papr/video'" in said
    for name in SHIPPED:
        assert name in said


@pytest.mark.parametrize("name", SHIPPED)
def test_print_config_round_trips(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*arguments: str) -> str:
        assert main(["fit", *arguments, "--print_config"]) == 0
        return capsys.readouterr().out

    first = printed("--config", name, "--data.root", "cache")
    (tmp_path / "again.yaml").write_text(first)
    assert printed("--config", str(tmp_path / "again.yaml")) == first
    # What was written is what is used: every entry of the shipped file is still in the result.
    assert_contains(yaml.safe_load(first), yaml.safe_load((training.CONFIGS / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", ["landmark", "emotion", "video256"])
def test_gpu_goes_behind_any_recipe_and_changes_its_speed_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = f"--data.root={tmp_path}"
    assert main(["fit", "--config", name, "--config", "gpu", root, "--print_config"]) == 0
    both = yaml.safe_load(capsys.readouterr().out)
    recipe = yaml.safe_load((training.CONFIGS / f"{name}.yaml").read_text())
    assert_contains(both, yaml.safe_load((training.CONFIGS / "gpu.yaml").read_text()))
    recipe["trainer"].pop("precision", None)
    assert_contains(both, recipe)
    set_to: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", set_to.append)
    away = f"--trainer.default_root_dir={tmp_path}"
    assert main(["fit", "--config", name, root, away]) == 2  # there is no cache
    assert main(["fit", "--config", name, "--config", "gpu", root, away]) == 2
    assert set_to == ["highest", "high"]


def assert_contains(whole: Any, part: Any) -> None:
    """Assert that each entry of nested ``part`` is in ``whole``."""
    if isinstance(part, dict):
        for key, value in part.items():
            assert_contains(whole[key], value)
    elif isinstance(part, list):
        assert len(whole) == len(part)
        for a, b in zip(whole, part, strict=True):
            assert_contains(a, b)
    else:
        assert whole == part


@pytest.mark.parametrize("typo", ["--data.batchsize=3", "--trainer.max_epoch=3", "--model.learning_rat=1"])
def test_a_typo_on_the_command_line_is_refused_with_its_name(typo: str, sentence: Callable[..., str]) -> None:
    said = sentence("fit", "--config", "video", "--data.root", "cache", typo)
    assert typo.split("=")[0].split(".")[-1] in said


def test_a_typo_in_a_file_is_refused_with_its_name(sentence: Callable[..., str], tmp_path: Path) -> None:
    text = (training.CONFIGS / "video.yaml").read_text()
    for right, wrong in [("mouth_weight", "mouth_wait"), ("patch", "pitch"), ("batch_size", "batch_seize")]:
        assert right in text
        (tmp_path / "typo.yaml").write_text(text.replace(right, wrong))
        assert wrong in sentence("fit", "--config", str(tmp_path / "typo.yaml"), "--data.root", "cache")


def test_a_cache_that_is_not_there(sentence: Callable[..., str], tmp_path: Path) -> None:
    said = sentence("fit", "--config", "landmark", f"--data.root={tmp_path}", f"--trainer.default_root_dir={tmp_path}")
    assert "manifest.jsonl" in said


@pytest.mark.parametrize("module", ["landmark", "emotion", "video"])
def test_fit_resumes_with_the_same_loss_curve(
    module: str, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, kept = tmp_path / "run", tmp_path / "kept"

    def keep_what_a_power_cut_would_leave(trained: Any) -> bool:
        if trained.current_epoch == 2 and not kept.exists():
            shutil.copytree(run, kept)
        return False

    interrupt(monkeypatch, keep_what_a_power_cut_would_leave)
    assert fit(module, tiny_cache, run, "--trainer.max_epochs=4") == 0
    curve, end = losses(run), last_state(run)
    shutil.rmtree(run)
    kept.rename(run)
    done = losses(run)
    assert len(done) < len(curve)
    assert fit(module, tiny_cache, run, "--trainer.max_epochs=4", "--ckpt_path=last") == 0
    # The same draws, the same weights, the same machine: not one bit differs.
    assert losses(run) == curve
    for name, value in last_state(run).items():
        assert torch.equal(value, end[name]), name


@pytest.mark.parametrize(
    ("module", "at", "more"),
    [
        ("emotion", (1, 1), ["--trainer.max_epochs=3", "--data.num_workers=2"]),
        (  # in the middle of a step, too
            "video",
            (1, 3),
            ["--trainer.max_epochs=-1", "--trainer.max_steps=8", "--trainer.accumulate_grad_batches=2"],
        ),
    ],
)
def test_fit_goes_on_in_the_middle_of_an_epoch(
    module: str, at: tuple[int, int], more: list[str], tiny_cache: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, keep_ctrl_c: None,
) -> None:  # fmt: skip
    """Bit for bit, wherever the run was broken off."""
    run, more = tmp_path / "run", ["--data.batch_size=2", *more]
    assert fit(module, tiny_cache, tmp_path / "whole", *more) == 0
    curve, end = losses(tmp_path / "whole"), last_state(tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, lambda trained: (trained.current_epoch, trained.trainer.fit_loop.batch_idx) == at)
        assert fit(module, tiny_cache, run, *more) == 130
    done = losses(run)
    assert len(done) < len(curve)
    assert fit(module, tiny_cache, run, *more, "--ckpt_path=last") == 0
    assert losses(run) == curve
    for name, value in last_state(run).items():
        assert torch.equal(value, end[name]), name


@pytest.mark.parametrize(
    ("native", "typed", "taken"),
    [(False, (), "32-true"), (True, (), "bf16-mixed"), (False, ("--trainer.precision=bf16-mixed",), "bf16-mixed")],
)
def test_bf16_is_emulated_only_where_it_is_asked_for(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    native: bool, typed: tuple[str, ...], taken: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("talkhead.devices.has_fast_bf16", lambda device: native)
    few = ("--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.enable_model_summary=false")
    words = fit_words("video", tiny_cache, tmp_path, *few, *typed)
    assert main([word for word in words if word != "--trainer.precision=32-true"]) == 0
    assert ("no bf16 arithmetic" in capsys.readouterr().err) == (taken == "32-true")
    (config,) = tmp_path.rglob("config.yaml")
    assert yaml.safe_load(config.read_text())["trainer"]["precision"] == taken


def test_fit_starts_from_a_speakers_network(tiny_cache: Path, tmp_path: Path, sentence: Callable[..., str]) -> None:
    from talkhead.modules.video import VideoDiffusion
    from talkhead.nets.renderer import Renderer
    from talkhead.speaker.folder import FINE, load_video
    from talkhead.speaker.start import start_from

    assert fit("video", tiny_cache, tmp_path / "first", "--trainer.max_epochs=1") == 0
    parts = load_video(tmp_path / "first" / "checkpoints" / "last.ckpt").parts
    renderer, scheduler = parts["renderer"], parts["scheduler"]
    speaker = tmp_path / "speaker"
    renderer.save_pretrained(speaker / "renderer")
    scheduler.save_pretrained(speaker / "scheduler")
    (speaker / "pipeline.json").write_text("{}")
    still = (f"--init_from={speaker}", "--trainer.max_epochs=1", "--model.learning_rate=0", "--trainer.callbacks=[]")
    assert fit("video", tiny_cache, tmp_path / "second", *still) == 0
    again = load_video(next((tmp_path / "second").rglob("*.ckpt"))).parts["renderer"]
    for name, value in again.state_dict().items():
        assert torch.equal(value, renderer.state_dict()[name]), name
    wider = ("--model.renderer.widths=[16,32]", "--trainer.max_epochs=1", f"--init_from={speaker}")
    said = sentence(*fit_words("video", tiny_cache, tmp_path / "third", *wider))
    assert "init_from" in said and "built otherwise" in said
    finer = {name: 2 * renderer.config[name] for name in ("size", "patch")}
    module = VideoDiffusion(Renderer.from_config({**renderer.config, **finer}))
    start_from(speaker, module)  # twice the size in twice the patch: the same network, grown
    grown = module.renderer.state_dict()
    assert torch.equal(grown["unet.up.0.0.conv1.weight"], renderer.state_dict()["unet.up.0.0.conv1.weight"])
    assert len(grown["unet.head.bias"]) == 4 * len(renderer.state_dict()["unet.head.bias"])
    large = Renderer.from_config({**renderer.config, **finer})
    large.half().save_pretrained(speaker / FINE)
    start_from(speaker, module)  # from the one of its size, where the speaker has it
    for name, value in module.renderer.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, large.state_dict()[name].float()), name


def test_emotions_that_the_start_knows_stay_known(tmp_path: Path) -> None:
    """A speaker of eight emotions, taught by neutral clips alone, showed every other emotion as neutral."""
    from talkhead.modules.landmark import LandmarkGenerator
    from talkhead.nets.landmark import LandmarkNet
    from talkhead.speaker.start import start_from

    LandmarkNet(width=8, trained_on=["happy", "sad"]).save_pretrained(tmp_path / "landmark")
    module = LandmarkGenerator(LandmarkNet(width=8))
    start_from(tmp_path, module)
    loader = [Clip(torch.zeros(2, 8), torch.tensor([5, 5]), torch.ones(2), torch.tensor([8, 8]))]
    module._trainer = SimpleNamespace(train_dataloader=loader, world_size=1)  # type: ignore[assignment]
    module.on_train_start()
    assert module.net.config["trained_on"] == ["happy", "neutral", "sad"]


def test_fit_starts_from_no_strangers_damage(tmp_path: Path) -> None:
    """What a pipeline refuses of a folder, a training refuses: the same door, the same sentence."""
    from talkhead.modules.landmark import LandmarkGenerator
    from talkhead.nets.landmark import LandmarkNet
    from talkhead.speaker.start import start_from

    net = LandmarkNet(width=16, heads=2, layers=1)
    module = LandmarkGenerator(LandmarkNet(width=16, heads=2, layers=1))

    def spoil_weights(folder: Path) -> None:
        path = folder / "diffusion_pytorch_model.safetensors"
        save_file({name: weight * torch.nan for name, weight in load_file(path).items()}, path)

    def pickle_weights(folder: Path) -> None:
        torch.save(net.state_dict(), folder / "diffusion_pytorch_model.bin")
        (folder / "diffusion_pytorch_model.safetensors").unlink()

    def lead_out(folder: Path) -> None:
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")

    def name_an_encoder(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"encoder": "someone/somewhere"}))

    def write_nonsense(folder: Path) -> None:
        (folder / "config.json").write_text('{"_class_name": "LandmarkNet", "layers": "x"}')

    for number, spoil in enumerate((spoil_weights, pickle_weights, lead_out, name_an_encoder, write_nonsense)):
        speaker = tmp_path / str(number)
        net.save_pretrained(speaker / "landmark")
        start_from(speaker, module)
        spoil(speaker / "landmark")
        with pytest.raises(ValueError, match="is damaged or incomplete"):
            start_from(speaker, module)


def test_last_goes_on_where_it_stopped_and_a_checkpoint_knows_its_net(tiny_cache: Path, tmp_path: Path) -> None:
    from talkhead.modules.video import VideoDiffusion

    assert fit("video", tiny_cache, tmp_path, "--trainer.max_epochs=1") == 0
    assert fit("video", tiny_cache, tmp_path, "--trainer.max_epochs=2", "--ckpt_path=last") == 0
    steps = losses(tmp_path)
    assert sorted(steps) == list(range(len(steps))), "a step is missing or was done twice"
    loaded = VideoDiffusion.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert loaded.renderer.config.size == 32
    assert list(loaded.renderer.config.widths) == [8, 16]


def test_ctrl_c_keeps_what_was_learnt(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_ctrl_c: None
) -> None:
    interrupt(monkeypatch, lambda trained: trained.global_step == 3)
    assert fit("landmark", tiny_cache, tmp_path, "--trainer.max_epochs=5") == 130
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3


def test_what_has_no_clip_to_look_at_is_refused(tiny_cache: Path, tmp_path: Path, sentence: Callable[..., str]) -> None:
    words = fit_words("emotion", tiny_cache, tmp_path, "--trainer.max_epochs=1", "--trainer.limit_train_batches=1")
    assert main(words) == 0
    for verb, part in (("test", "test"), ("predict", "test"), ("validate", "val")):
        said = sentence(verb, *words[1:], "--ckpt_path=last", f"--data.{part}_fraction=0")
        assert f"data.{part}_fraction: {verb} has no clip to look at" in said


def test_outputs_go_where_the_configuration_says(tiny_cache: Path, tmp_path: Path) -> None:
    mine = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": str(tmp_path / "mine"), "save_last": True}}
    callbacks = f"--trainer.callbacks=[{json.dumps(mine)}]"
    assert fit("landmark", tiny_cache, tmp_path / "run", "--trainer.max_epochs=1", callbacks) == 0
    assert (tmp_path / "mine" / "last.ckpt").is_file()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["logs"]


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("fit", "--data.root, --model; --config landmark, emotion or video brings a model"),
        ("fit landmark --data.root c", "did you mean --config landmark?"),
        ("fit --config landmark --data.rot c", "did you mean --data.root by --data.rot?"),
        ("fit --config landmark --data.root c --trainer.max_epoch 3", "did you mean --trainer.max_epochs by"),
        ("fit --config landmark --data.root c --model.learning_rte 3", "did you mean learning_rate by learning_rte?"),
        ("fit --config landmark --data.root c --model.net.zzz 3", "LandmarkNet takes encoder, branches, "),
        ("fit --model LandmarkGenerato --data.root c", "did you mean LandmarkGenerator by LandmarkGenerato?"),
    ],
)
def test_what_fit_refuses_says_what_was_meant(arguments: str, meant: str, sentence: Callable[..., str]) -> None:
    assert meant in sentence(*arguments.split())
