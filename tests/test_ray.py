"""A real Ray cluster of two nodes on this machine: one is killed in the middle, and nothing is lost."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ray_tasks import odd
from test_distributed import arguments, logged
from test_jobs import home, job, one_thread, write_jobs  # noqa: F401
from test_preprocess import SkinDetector, render
from test_shards import files

from talkhead.cli import main
from talkhead.data.preprocess import preprocess
from talkhead.scale.ray_engine import RayEngine
from talkhead.scale.url_cache import preprocess_to_url
from talkhead.scale.videos import generate_jobs

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is an extra: pip install '.[ray]'"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a second node, a core each; no dashboard, nothing told to anybody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # a busy machine would starve them
        patch.setenv("RAY_health_check_period_ms", "500")  # a death is known after five, and not after 15 s
        patch.setenv("RAY_raylet_start_wait_time_s", "200")  # nor does a busy machine start a node in its 30 s
        from ray.cluster_utils import Cluster

        size = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
        cluster.add_node(**size)
        yield cluster
        cluster.shutdown()


class Dying:
    """An engine that runs something after its n-th result."""

    def __init__(self, engine: RayEngine, after: int, then: Callable[[], object]) -> None:
        self.engine, self.after, self.then = engine, after, then

    def __call__(self, *work: Any) -> Generator[tuple[Any, Any], None, None]:
        for number, result in enumerate(self.engine(*work), 1):
            if number == self.after:
                self.then()
            yield result


def test_a_worker_that_dies_takes_one_source_with_it(cluster: Any) -> None:
    engine = RayEngine(cluster.address)
    results = dict(engine(odd, [1, 13, 2, 3], 10, 0))
    assert results == {1: 10, 2: 20, 3: 30, 13: "the worker process died of it, by a crash or for want of memory"}
    assert engine.note().endswith(" recordings/s")


def test_what_a_task_raises_ends_the_run(cluster: Any) -> None:
    with pytest.raises(OSError, match="disk full"):
        dict(RayEngine(cluster.address)(odd, [1, 99, 2], 10, 0))


def test_what_the_cluster_has_not_is_said(cluster: Any) -> None:
    with pytest.raises(ValueError, match="the cluster has 0 graphics cards, a worker needs 0.25"):
        dict(RayEngine(cluster.address, gpus_per_worker=0.25)(odd, [1], 10, 0))
    with pytest.raises(ValueError, match="gpus_per_worker must lie in"):
        RayEngine(gpus_per_worker=1.5)


def test_videos_are_those_of_this_machine(cluster: Any, home: Path, tmp_path: Path) -> None:  # noqa: F811
    jobs = write_jobs(home / "ray.jsonl", job(), job(audio="none.wav"), job(seed=2, size=48))
    for output, engine in (("here", {}), ("there", {"engine": RayEngine(cluster.address)})):
        common = {"speaker": str(home / "speaker"), "device": "cpu", "progress": False}
        assert generate_jobs(jobs, tmp_path / output, **common, **engine).ok == 2
    assert files(tmp_path / "there") == files(tmp_path / "here")


def test_nodes_bring_their_clips_to_a_url(cluster: Any, tmp_path: Path) -> None:
    talks = tmp_path / "talks"
    talks.mkdir()
    for index in range(3):
        render(talks / f"talk{index}.mp4", 6 + index)
    options = {"size": 16, "detector": SkinDetector(), "progress": False}
    preprocess("folder", talks, tmp_path / "here", **options)
    preprocess_to_url("folder", talks, (tmp_path / "there").as_uri(), engine=RayEngine(cluster.address), **options)
    assert files(tmp_path / "there") == files(tmp_path / "here")


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="Ray Train needs pyarrow: pip install '.[ray]'")
def test_a_training_on_two_nodes_is_that_of_one_process(cluster: Any, tiny_cache: Path, tmp_path: Path) -> None:
    """`examples/train_ray.py`, as a person types it: the losses of one process with the whole batch, one log."""
    two, one = tmp_path / "two", tmp_path / "one"
    words = [sys.executable, ROOT / "examples" / "train_ray.py", "--workers=2", f"--address={cluster.address}", "--"]
    given = arguments("fit", "landmark", tiny_cache, two, 2, "--trainer.max_epochs=2")[1:]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*words, *given], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert main(arguments("fit", "landmark", tiny_cache, one, 4, "--trainer.max_epochs=2")) == 0
    assert [log.name for log in (two / "logs").iterdir()] == ["version_0"]
    found, expected = logged(two)["train/loss"], logged(one)["train/loss"]
    assert len(expected) == 4 and found == pytest.approx(expected, rel=5e-3)
    last = two / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] == 1


def test_a_node_dies_and_the_cache_is_that_of_this_machine(cluster: Any, tmp_path: Path) -> None:
    """The last test: it takes the second node away."""
    talks = tmp_path / "talks"
    talks.mkdir()
    for index in range(10):
        render(talks / f"talk{index}.mp4", 6 + index)
    render(talks / "wall.mp4", 6, face=lambda t: False)

    def run(output: Path, **more: Any) -> None:
        preprocess("folder", talks, output, size=16, detector=SkinDetector(0.05), progress=False, **more)

    run(tmp_path / "here")
    assert len(cluster.list_all_nodes()) == 2
    second = cluster.list_all_nodes()[1]
    dying = Dying(RayEngine(cluster.address), 4, lambda: cluster.remove_node(second, allow_graceful=False))
    run(tmp_path / "there", engine=dying)
    assert cluster.list_all_nodes() == [cluster.head_node]
    made = files(tmp_path / "there")
    assert {name: made[name] for name in made if ".tmp" not in name} == files(tmp_path / "here")
    run(tmp_path / "there", engine=RayEngine(cluster.address))  # sweeps what the dead node left half-written
    assert files(tmp_path / "there") == files(tmp_path / "here")


def test_only_a_cluster_has_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["preprocess", "--layout", "folder", "--input", "i", "--output", "o", "--address", "auto"]
    assert main(words) == 2
    assert "--address: only a cluster has that; add --engine ray" in capsys.readouterr().err
