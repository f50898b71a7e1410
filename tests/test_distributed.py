"""Two processes train as one: through the command line, as a person types it, on the CPU (gloo)."""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import tiny_face, tiny_frames
from safetensors.torch import load_file, save_file

from talkhead.cli import main
from talkhead.pipeline import TalkingHeadPipeline

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = (["--trainer.max_epochs=2"], ["--trainer.max_epochs=3", "--ckpt_path=last"])
ALIKE = ("landmark", "video")  # the Conformer normalises each process's batch by itself, so it learns otherwise
HANGS = 600  # s: an idle machine needs ten; two processes that wait for each other never end
TINY = {
    # Nets without dropout, no augmentation, and (threshold) no mask: nothing is drawn but the clips and their windows.
    "landmark": [
        *("--model.net.init_args.width=8", "--model.net.init_args.dropout=0", "--model.net.init_args.portrait_noise=0"),
        *("--model.net.init_args.spec_augment=false", "--model.portrait=1", "--model.augment=0", "--model.size=32"),
        *("--data.num_frames=8", "--trainer.check_val_every_n_epoch=1"),
    ],
    "video": [
        *("--model.renderer.init_args.size=32", "--model.renderer.init_args.widths=[8,16]"),
        *("--model.renderer.init_args.threshold=1e6", "--model.own_share=0", "--model.class_dropout=0"),
        *("--data.bank=0", "--model.change_weight=0"),  # pictures taken away are drawn; the region is the whole batch's
        *("--model.recolour=0", "--model.mirror=0", "--model.jitter=0", "--model.reshape=0", "--model.mingle=0"),
        "--model.num_inference_steps=1",
        *("--data.num_frames=4", "--data.samples_per_clip=1", "--trainer.precision=32-true", "--trainer.max_steps=-1"),
    ],
    "emotion": ["--model.net.init_args.size=XS", "--data.split=clip", "--trainer.check_val_every_n_epoch=1"],
}


def arguments(verb: str, module: str, cache: Path, output: Path, batch: int, *more: str) -> list[str]:
    """Return a command line: 8 clips to train on, and 3 to validate with, which two processes cannot share evenly."""
    return [
        *(verb, f"--config={module}", f"--data.root={cache}", f"--trainer.default_root_dir={output}"),
        *(f"--data.batch_size={batch}", "--data.val_fraction=0.25", "--data.test_fraction=0.1"),
        *("--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"),
        *TINY[module],
        *more,
    ]


def as_two(*given: str) -> None:
    """Run `python -m talkhead` on two processes, and end both where they hang."""
    command = [sys.executable, "-m", "talkhead", *given, "--trainer.devices=2", "--trainer.strategy=ddp"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = running.communicate(timeout=HANGS)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        said, _ = running.communicate()
        pytest.fail(f"hung: {said[-2000:]}")
    assert running.returncode == 0, said[-3000:]
    assert "MEMBER: 2/2" in said


def logged(output: Path) -> dict[str, dict[int, float]]:
    """Return every curve of a run by its name: step -> value, the newest log's where two hold the same step."""
    curves: dict[str, dict[int, float]] = {}
    for log in sorted((output / "logs").glob("version_*/metrics.csv")):
        for row in csv.DictReader(log.read_text().splitlines()):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    curves.setdefault(name, {})[int(row["step"])] = float(value)
    return curves


def state(output: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a run's last checkpoint."""
    return torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def lengths_of(module: str) -> tuple[list[str], ...]:
    """Return the runs of a module: how it is gone on with is the Trainer's and the data's, and the same for all."""
    return LENGTHS if module == "landmark" else LENGTHS[:1]


@pytest.fixture(scope="module")
def trained_by_two(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Return what gives the run of a module: two epochs on two processes (landmark: and a third, gone on with).

    Two modules at a time: most of a run is its start, which keeps one core busy.
    """

    def train(module: str, folder: Path) -> Path:
        for epochs in lengths_of(module):
            as_two(*arguments("fit", module, tiny_cache, folder, 2, *epochs))
        return folder

    with ThreadPoolExecutor(2) as pool:
        runs = {module: pool.submit(train, module, tmp_path_factory.mktemp(module)) for module in TINY}
        yield lambda module: runs[module].result()


@pytest.mark.parametrize("module", ALIKE)
def test_two_processes_with_half_the_batch_train_as_one(
    module: str, trained_by_two: Callable[[str], Path], tiny_cache: Path, tmp_path: Path
) -> None:
    """Loss, validation, weights, and of the landmark net all of them again after going on from a checkpoint."""
    for epochs in lengths_of(module):
        assert main(arguments("fit", module, tiny_cache, tmp_path, 4, *epochs)) == 0
    found, expected = logged(trained_by_two(module)), logged(tmp_path)
    assert set(found) == set(expected) and len(found["train/loss"]) == 2 + 2 * len(lengths_of(module))
    for name, curve in expected.items():
        # Sums in another order: float32 rounding, which six steps of Adam and correlations enlarge.
        slack = 1e-3 if "correlation" in name else 0
        assert found[name] == pytest.approx(curve, rel=5e-3, abs=slack, nan_ok=True), name


def test_two_processes_measure_as_one(trained_by_two: Callable[[str], Path], tiny_cache: Path, tmp_path: Path) -> None:
    """Of a network that learns otherwise, what is measured can be compared all the same."""
    names = ("val/accuracy", "val/uar", "val/temperature")
    run = trained_by_two("emotion")
    found = [list(logged(run)[name].values())[-1] for name in names]
    last = f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}"
    assert main(arguments("validate", "emotion", tiny_cache, tmp_path, 1, last)) == 0
    assert found == pytest.approx([list(logged(tmp_path)[name].values())[-1] for name in names], rel=1e-4)


def test_what_two_processes_trained_is_exported_and_speaks(
    trained_by_two: Callable[[str], Path], tmp_path: Path
) -> None:
    """The three modules' checkpoints make a speaker, and the speaker a video."""
    modules = ("landmark", "video", "emotion")
    last = [f"--{module}={trained_by_two(module) / 'checkpoints' / 'last.ckpt'}" for module in modules]
    assert main(["export", *last, f"--output={tmp_path / 'speaker'}"]) == 0
    speaker = TalkingHeadPipeline.from_pretrained(tmp_path / "speaker")
    trained = state(trained_by_two("landmark"))
    assert speaker.landmark_net is not None
    for name, weight in speaker.landmark_net.state_dict().items():
        assert torch.equal(weight, trained[f"net.{name}"]), name
    result = speaker(tiny_frames(tiny_face(32)[None])[0], torch.zeros(7680), reference_landmarks=tiny_face(32))
    assert len(result.frames) == 12 and sum(result.emotion.values()) == pytest.approx(1)


def start_node(rank: int, port: int, *given: str) -> subprocess.Popen[str]:
    """Start `python -m talkhead` as one of two nodes of one process each, as Lightning's own variables say it."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": str(rank),
    }
    command = [sys.executable, "-m", "talkhead", *given, "--trainer.num_nodes=2", "--trainer.devices=1"]
    return subprocess.Popen(
        [*command, "--trainer.strategy=ddp"], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def end(nodes: list[subprocess.Popen[str]]) -> list[str]:
    """Wait for all nodes, and end those that hang; return what they said."""
    said = []
    for node in nodes:
        try:
            said.append(node.communicate(timeout=HANGS)[0])
        except subprocess.TimeoutExpired:
            for each in nodes:
                if each.poll() is None:
                    os.killpg(each.pid, signal.SIGKILL)
            pytest.fail("a node hangs")
    return said


def as_two_nodes(*given: str) -> None:
    port = free_port()
    nodes = [start_node(rank, port, *given) for rank in (0, 1)]
    said = end(nodes)
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(said)[-3000:]


@pytest.mark.storm
def test_two_nodes_train_as_one_process(tiny_cache: Path, tmp_path: Path) -> None:
    """Loss, validation and the rest of the log; log and checkpoints are there once."""
    two, one = tmp_path / "two", tmp_path / "one"
    as_two_nodes(*arguments("fit", "landmark", tiny_cache, two, 2, "--trainer.max_epochs=2"))
    assert main(arguments("fit", "landmark", tiny_cache, one, 4, "--trainer.max_epochs=2")) == 0
    assert [log.name for log in (two / "logs").iterdir()] == ["version_0"]
    names = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (two, one)]
    assert names[0] == names[1]
    found, expected = logged(two), logged(one)
    assert set(found) == set(expected) and len(found["train/loss"]) == 4
    for name, curve in expected.items():
        slack = 1e-3 if "correlation" in name else 0
        assert found[name] == pytest.approx(curve, rel=5e-3, abs=slack, nan_ok=True), name
    weights = state(two)  # averaged ones
    for name, value in state(one).items():
        torch.testing.assert_close(weights[name], value, rtol=5e-3, atol=1e-4)


@pytest.mark.storm
def test_a_loss_that_is_not_finite_on_one_of_two_nodes_ends_both(tiny_cache: Path, tmp_path: Path) -> None:
    cache, port = shutil.copytree(tiny_cache, tmp_path / "cache"), free_port()
    path = cache / "clips" / "clip03.safetensors"
    tensors = load_file(path)
    tensors["audio"][:] = torch.nan
    save_file(tensors, path)
    given = arguments("fit", "landmark", cache, tmp_path / "run", 1, "--trainer.max_epochs=2", "--data.val_fraction=0")
    nodes = [start_node(rank, port, *given, "--data.test_fraction=0") for rank in (0, 1)]
    said = end(nodes)
    assert [node.returncode for node in nodes] == [2, 2], said
    assert sum("on the clips clip03" in text for text in said) == 1
    assert sum("on another process's clips" in text for text in said) == 1


@pytest.mark.storm
def test_torchrun_trains_as_one_process(tiny_cache: Path, tmp_path: Path) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    given = arguments("fit", "landmark", tiny_cache, two, 2, "--trainer.max_epochs=2")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2"]
    torchrun += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "-m", "talkhead"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, *given, "--trainer.devices=2", "--trainer.strategy=ddp"], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=HANGS, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "MEMBER: 2/2" in done.stdout, done.stdout[-3000:]
    assert main(arguments("fit", "landmark", tiny_cache, one, 4, "--trainer.max_epochs=2")) == 0
    assert [log.name for log in (two / "logs").iterdir()] == ["version_0"]
    found, expected = logged(two)["train/loss"], logged(one)["train/loss"]
    assert len(expected) == 4 and found == pytest.approx(expected, rel=5e-3)


@pytest.mark.storm
def test_a_run_goes_on_after_one_of_two_nodes_died(tiny_cache: Path, tmp_path: Path) -> None:
    """The other node ends with an error and does not wait; both, started again, go on from the last checkpoint."""
    last, port = tmp_path / "checkpoints" / "last.ckpt", free_port()
    endless = arguments("fit", "landmark", tiny_cache, tmp_path, 2, "--trainer.max_epochs=2000")
    nodes = [start_node(rank, port, *endless) for rank in (0, 1)]
    begun = time.monotonic()
    while not last.exists() and time.monotonic() - begun < HANGS:
        time.sleep(0.1)
    os.killpg(nodes[1].pid, signal.SIGKILL)
    end(nodes)
    assert nodes[0].returncode not in (0, None)
    done = torch.load(last, weights_only=True)["epoch"] + 1
    rest = [f"--trainer.max_epochs={done + 1}", "--ckpt_path=last"]
    as_two_nodes(*arguments("fit", "landmark", tiny_cache, tmp_path, 2, *rest))
    assert torch.load(last, weights_only=True)["epoch"] == done
    assert sorted(log.name for log in (tmp_path / "logs").iterdir()) == ["version_0", "version_1"]
