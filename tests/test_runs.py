"""What a training run leaves behind: always the newest state, whole, and never another run's."""

import os
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning import Trainer
from safetensors.torch import load_file, save_file
from test_fit import fit, fit_words, interrupt, keep_ctrl_c, losses  # noqa: F401

from talkhead.cli import main
from talkhead.modules.checkpoint import newest_whole, read_checkpoint, write_checkpoint
from talkhead.modules.landmark import LandmarkGenerator
from talkhead.modules.run import RunGuard
from talkhead.modules.run_checkpoint import RunCheckpoint


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[int], str]:
    """Return a function that expects exit code 2 and returns the one line that was printed."""

    def check(code: int) -> str:
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("talkhead: error: ")]
        assert (code, len(said)) == (2, 1), said
        return said[0]

    return check


@pytest.fixture
def run(tiny_cache: Path, tmp_path: Path) -> Path:
    """A run of one epoch."""
    assert fit("landmark", tiny_cache, tmp_path / "run", "--trainer.max_epochs=1") == 0
    return tmp_path / "run"


def last(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_where_there_is_no_last_checkpoint_the_newest_is_taken(
    run: Path, tiny_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoints" / "last.ckpt").unlink()  # a full disk took the epoch's checkpoint, and not this one
    (left,) = (run / "checkpoints").glob("*.ckpt")
    assert fit("landmark", tiny_cache, run, "--trainer.max_epochs=2", "--ckpt_path=last") == 0
    assert f"taking '{left.name}'" in capsys.readouterr().err
    assert last(run)["epoch"] == 1


def test_a_clip_that_cannot_be_read_costs_no_step_and_is_named_without_a_trace(
    tiny_cache: Path, tmp_path: Path, refused: Callable[[int], str]
) -> None:
    """Met by a process that reads, in the second epoch: neither its trace nor torch's words are the user's business."""
    cache = shutil.copytree(tiny_cache, tmp_path / "cache")
    options = ("--trainer.max_epochs=1", "--data.num_workers=1", "--data.batch_size=4")
    assert fit("emotion", cache, tmp_path / "run", *options) == 0
    steps = last(tmp_path / "run")["global_step"]
    for file in (cache / "clips").iterdir():
        file.write_bytes(file.read_bytes()[:-100])
    said = refused(fit("emotion", cache, tmp_path / "run", *options, "--trainer.max_epochs=2", "--ckpt_path=last"))
    assert re.fullmatch(r"talkhead: error: data\.root: the clip '[\w-]+' .*", said) and "Traceback" not in said
    assert last(tmp_path / "run")["global_step"] == steps


@pytest.mark.parametrize("fault", [OSError("the disk is away"), RuntimeError("the other process is gone")])
@pytest.mark.parametrize("world", [1, 2])
def test_a_fault_keeps_what_was_learnt_and_asks_no_other_process(
    world: int, fault: Exception, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait in another collective, or are gone: whoever asks them waits for ever."""

    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("another process was asked")

    def step(self: LandmarkGenerator, batch: Any, index: int) -> Any:
        if self.global_step == 3:
            raise fault
        return learn(self, batch, index)

    def among(self: RunCheckpoint, trainer: Trainer, *rest: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "world_size", world)
            patch.setattr("talkhead.modules.run_checkpoint.DDPStrategy", type(trainer.strategy))
            for name in ("barrier", "broadcast", "reduce", "all_gather") if world > 1 else ():
                patch.setattr(trainer.strategy, name, asked)
            keep(self, trainer, *rest)

    learn, keep = LandmarkGenerator.training_step, RunCheckpoint.on_exception
    monkeypatch.setattr(LandmarkGenerator, "training_step", step)
    monkeypatch.setattr(RunCheckpoint, "on_exception", among)
    assert fit("landmark", tiny_cache, tmp_path, "--trainer.max_epochs=5") == 2
    assert last(tmp_path)["global_step"] == 3


def with_nan(cache: Path, output: Path, clip: str) -> Path:
    """Return a copy of a cache in whose clip one sample is NaN."""
    shutil.copytree(cache, output)
    tensors = load_file(output / "clips" / f"{clip}.safetensors")
    tensors["audio"][3000] = torch.nan
    save_file(tensors, output / "clips" / f"{clip}.safetensors")
    return output


@pytest.mark.parametrize("module", ["emotion", "landmark"])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_clip(
    module: str, tiny_cache: Path, tmp_path: Path, refused: Callable[[int], str]
) -> None:
    cache, options = (
        with_nan(tiny_cache, tmp_path / "cache", "clip03"),
        ("--data.val_fraction=0", "--trainer.limit_val_batches=0", "--data.batch_size=12"),
    )
    said = refused(fit(module, cache, tmp_path / "run", "--trainer.max_epochs=2", "--data.test_fraction=0", *options))
    assert "train/loss is nan in step 0 of epoch 0, on the clips clip03, whose sound is not finite" in said
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_loss_that_is_not_finite_in_another_process_stops_this_one() -> None:
    """Or this one waits for the other's gradients for ever."""
    strategy = SimpleNamespace(reduce_boolean_decision=lambda mine: False)
    trainer = SimpleNamespace(strategy=strategy, global_step=3, current_epoch=1)
    with pytest.raises(ValueError, match="train/loss is not finite in step 3 of epoch 1, on another process's clips"):
        RunGuard().on_before_backward(trainer, None, torch.ones(()))  # type: ignore[arg-type]


def test_weights_that_are_not_finite_are_never_written_over_good_ones(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(path, {"state_dict": {"w": torch.ones(2)}})
    with pytest.raises(ValueError, match=r"1 of its weights are not finite \(w, \.\.\.\)"):
        write_checkpoint(path, {"state_dict": {"w": torch.tensor([1.0, torch.inf])}})
    assert read_checkpoint(path)["state_dict"]["w"].tolist() == [1, 1]


def test_what_is_typed_wins_over_the_checkpoint(tiny_cache: Path, run: Path) -> None:
    again = ("--trainer.max_epochs=2", "--ckpt_path=last", "--model.learning_rate=0.5")
    assert fit("landmark", tiny_cache, run, *again) == 0
    (schedule,) = last(run)["lr_schedulers"]
    assert schedule["base_lrs"] == [0.5]
    rates = [float(row.split(",")[1]) for row in (run / "logs/version_1/metrics.csv").read_text().splitlines()[1:2]]
    assert rates == [0.25], "half way along the cosine of the new length"
    assert (
        yaml.safe_load((run / "logs/version_1/config.yaml").read_text())["model"]["init_args"]["learning_rate"] == 0.5
    )


def test_a_second_run_does_not_touch_the_first(tiny_cache: Path, run: Path, refused: Callable[[int], str]) -> None:
    before = content(run)
    said = refused(fit("landmark", tiny_cache, run, "--trainer.max_epochs=1", "--seed_everything=7"))
    assert "holds the checkpoints of another run" in said and "--ckpt_path last" in said
    other = run / "checkpoints" / "epoch=0-step=3.ckpt"
    shutil.copy(other, run.parent / "other.ckpt")
    assert "another run" in refused(fit("landmark", tiny_cache, run, f"--ckpt_path={run.parent / 'other.ckpt'}"))
    assert content(run) == before


def test_a_run_without_a_step_leaves_everything_as_it_is(
    tiny_cache: Path, run: Path, refused: Callable[[int], str]
) -> None:
    assert fit("landmark", tiny_cache, run, "--trainer.max_epochs=2", "--ckpt_path=last") == 0
    before = content(run)
    said = refused(fit("landmark", tiny_cache, run, "--trainer.max_epochs=1", "--ckpt_path=last"))
    assert "trainer.max_epochs" in said and "2 epochs" in said
    assert content(run) == before
    assert fit("landmark", tiny_cache, run, "--trainer.max_epochs=2", "--ckpt_path=last") == 0  # nothing is left to do
    assert content(run / "checkpoints") == content_of(before, "checkpoints")


def content_of(content: dict[str, bytes], folder: str) -> dict[str, bytes]:
    return {name.removeprefix(f"{folder}/"): data for name, data in content.items() if name.startswith(f"{folder}/")}


def test_a_saved_configuration_belongs_where_it_lies(
    tiny_cache: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[[int], str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config, before = run / "logs" / "version_0" / "config.yaml", content(run)
    assert main(["fit", f"--config={config}", "--trainer.default_root_dir=d"]) == 0
    assert content(run) == before and sorted(os.listdir("d")) == ["checkpoints", "logs"]
    assert "run/checkpoints" in refused(main(["fit", f"--config={config}"]))
    run.rename("moved")
    again = ["fit", "--config", "moved/logs/version_0/config.yaml", "--ckpt_path=last", "--trainer.max_epochs=2"]
    assert main(again) == 0
    assert not run.exists() and sorted(os.listdir("moved/checkpoints")) == ["epoch=1-step=6.ckpt", "last.ckpt"]
    assert sorted(losses(tmp_path / "moved")) == list(range(6)) and last(tmp_path / "moved")["global_step"] == 6


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_measuring_needs_a_checkpoint(
    verb: str, tiny_cache: Path, tmp_path: Path, refused: Callable[[int], str]
) -> None:
    arguments = [verb, "--config=landmark", f"--data.root={tiny_cache}", "--trainer.callbacks=[]"]
    assert "give --ckpt_path" in refused(main(arguments))
    arguments.append(f"--trainer.default_root_dir={tmp_path / 'none'}")
    assert "none/checkpoints/last.ckpt" in refused(main([*arguments, "--ckpt_path=last"]))
    assert "no.ckpt" in refused(main([*arguments, "--ckpt_path=no.ckpt"]))
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")  # the averages are what is saved
@pytest.mark.parametrize("module", ["landmark", "emotion", "video"])
def test_predict_writes_what_it_makes_of_each_clip(module: str, tiny_cache: Path, tmp_path: Path) -> None:
    words = fit_words(module, tiny_cache, tmp_path, "--trainer.max_epochs=1", "--trainer.limit_train_batches=1")
    assert main(words) == 0
    assert main(["predict", *words[1:], "--ckpt_path=last"]) == 0
    (path,) = (tmp_path / "predictions").iterdir()
    shape = {"landmark": (12, 68, 2), "emotion": (8,), "video": (12, 3, 32, 32)}[module]
    assert path.stem.startswith("clip") and load_file(path)["prediction"].shape == shape


def test_a_checkpoint_that_does_not_fit_is_refused_by_name(
    tiny_cache: Path, run: Path, tmp_path: Path, refused: Callable[[int], str]
) -> None:
    file = run / "checkpoints" / "last.ckpt"
    said = refused(fit("landmark", tiny_cache, run, "--model.net.init_args.width=16", "--ckpt_path=last"))
    assert "model.net.init_args.width is 8 there and 16 here" in said
    said = refused(fit("emotion", tiny_cache, tmp_path / "other", f"--ckpt_path={file}"))
    assert "is a checkpoint of LandmarkGenerator, not of EmotionClassifier" in said
    weights = {"state_dict": last(run)["state_dict"]}
    torch.save(weights, tmp_path / "weights.ckpt")
    said = refused(fit("landmark", tiny_cache, tmp_path / "other", f"--ckpt_path={tmp_path / 'weights.ckpt'}"))
    assert "holds weights alone" in said
    assert not (tmp_path / "other").exists()


def test_a_torn_checkpoint_is_named_with_the_newest_whole_one(
    tiny_cache: Path, run: Path, tmp_path: Path, refused: Callable[[int], str]
) -> None:
    file, whole = run / "checkpoints" / "last.ckpt", run / "checkpoints" / "epoch=0-step=3.ckpt"
    data = file.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for torn in (b"", data[: len(data) // 2], bytes(flipped), b"PK\x03\x04 and so on"):
        file.write_bytes(torn)
        said = refused(fit("landmark", tiny_cache, run, "--trainer.max_epochs=2", "--ckpt_path=last"))
        assert f"'{file}' is torn or no checkpoint" in said and f"newest whole one beside it is '{whole}'" in said
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "empty.ckpt").touch()
    assert newest_whole(tmp_path / "alone") is None
    with pytest.raises(ValueError, match=r"the file is empty.*there is no whole one beside it"):
        read_checkpoint(tmp_path / "alone" / "empty.ckpt")


class Payload:
    """What a pickle can do to those who load it."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_a_hostile_checkpoint_runs_nothing(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[[int], str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "evil": Payload()}, "evil.ckpt")
    assert "no checkpoint" in refused(fit("landmark", tiny_cache, tmp_path / "run", "--ckpt_path=evil.ckpt"))
    for name, text in {"binary": b"\x89PNG\xff\xfe\x00", "empty": b"", "list": b"- 1", "yaml": b"a: [1"}.items():
        Path(f"{name}.yaml").write_bytes(text)
        said = refused(main(["fit", f"--config={name}.yaml"]))
        assert f"{name}.yaml" in said, said
    for hostile in ("!!python/object/apply:os.mkdir [executed]", "{class_path: os.mkdir, init_args: {path: executed}}"):
        Path("evil.yaml").write_text(f"trainer:\n  callbacks:\n  - {hostile}\n")
        refused(fit("landmark", tiny_cache, tmp_path / "run", "--config=evil.yaml"))
    assert not Path("executed").exists() and not Path("run").exists()


@pytest.mark.parametrize("off", ["enable_progress_bar", "logger", "enable_checkpointing"])
def test_what_is_switched_off_is_off(off: str, tiny_cache: Path, tmp_path: Path) -> None:
    assert fit("landmark", tiny_cache, tmp_path, "--trainer.max_epochs=1", f"--trainer.{off}=false") == 0
    made = {path.name for path in tmp_path.iterdir()}
    wanted = {"enable_progress_bar": {"checkpoints", "logs"}, "logger": {"checkpoints", "config.yaml"}}
    assert made == wanted.get(off, {"logs"})


@pytest.mark.usefixtures("keep_ctrl_c")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_within_a_step_waits_for_its_end(
    number: int, code: int, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent after the weights have moved, before the step is counted: the run goes on as an unbroken one."""
    options = ("--trainer.max_epochs=3",)
    assert fit("landmark", tiny_cache, tmp_path / "whole", *options) == 0
    made, step = [], torch.optim.Adam.step

    def pressed(self: Any, *arguments: Any, **named: Any) -> Any:
        result = step(self, *arguments, **named)
        made.append(1)
        if len(made) == 2:
            os.kill(os.getpid(), number)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", pressed)
        assert fit("landmark", tiny_cache, tmp_path / "run", *options) == code
    # Of SIGTERM Lightning's own handler knows, too: it ends the epoch.
    assert last(tmp_path / "run")["global_step"] == (2 if number == signal.SIGINT else 3)
    assert fit("landmark", tiny_cache, tmp_path / "run", *options, "--ckpt_path=last") == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    for name, value in last(tmp_path / "whole")["state_dict"].items():
        assert torch.equal(last(tmp_path / "run")["state_dict"][name], value), name


def test_sigterm_saves_and_exits_with_143(tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(trained: Any) -> bool:
        if trained.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return False

    interrupt(monkeypatch, ended)
    assert fit("landmark", tiny_cache, tmp_path, "--trainer.max_epochs=5") == 143
    assert last(tmp_path)["global_step"] == 5
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_validation_that_is_broken_off_keeps_the_weights_apart(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a validation the averaged weights are in the module; the checkpoint holds them as the averaged ones."""
    from talkhead.modules.landmark import LandmarkGenerator

    options = ("--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=1")
    assert fit("landmark", tiny_cache, tmp_path / "whole", *options, "--trainer.limit_val_batches=0") == 0
    whole = last(tmp_path / "whole")

    def broken(self: Any, *_: Any) -> None:
        if self.current_epoch == 1:
            raise ValueError("broken off")

    monkeypatch.setattr(LandmarkGenerator, "validation_step", broken)
    monkeypatch.setattr(LandmarkGenerator, "on_validation_epoch_end", lambda self: None)
    assert fit("landmark", tiny_cache, tmp_path / "run", *options) == 2
    kept = last(tmp_path / "run")
    for state in ("state_dict", "current_model_state"):
        assert all(torch.equal(kept[state][name], value) for name, value in whole[state].items()), state


def test_export_gives_the_averaged_weights(run: Path) -> None:
    from talkhead.speaker.trained import load_landmark

    trained, saved = load_landmark(run / "checkpoints" / "last.ckpt"), last(run)
    assert trained.facts == {"fps": "25", "size": 32, "detector": "dlib"}
    for name, weight in trained.parts["net"].state_dict().items():
        assert torch.equal(weight, saved["state_dict"][f"net.{name}"]), name
    assert any(not torch.equal(w, saved["current_model_state"][name]) for name, w in saved["state_dict"].items())


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Return a function that lets no file grow beyond so many bytes, as a full disk would not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_leaves_the_last_good_checkpoint(
    tiny_cache: Path, run: Path, small_disk: Callable[[int], None], refused: Callable[[int], str]
) -> None:
    before = content(run / "checkpoints")
    small_disk((run / "checkpoints" / "last.ckpt").stat().st_size // 2)
    said = refused(fit("landmark", tiny_cache, run, "--trainer.max_epochs=2", "--ckpt_path=last"))
    assert "checkpoints/epoch=1-step=6.ckpt' cannot be written" in said and "untouched" in said
    assert content(run / "checkpoints") == before


def test_leftovers_of_killed_runs_are_swept(tiny_cache: Path, run: Path) -> None:
    scrap = run / "checkpoints" / ".last.1-0123456789ab.tmp.ckpt"
    scrap.touch()
    assert fit("landmark", tiny_cache, run, "--trainer.max_epochs=2", "--ckpt_path=last") == 0
    assert not scrap.exists() and last(run)["global_step"] == 6
