"""Preprocess recordings on a Ray cluster of two nodes on this machine, one killed half way, beside `--workers 2`.

    python examples/measure_ray.py GRID/s1/clips --clips 240

It says for each run how long it took, and whether its cache is that of the local pool, byte for byte. Each node has one
core. The run without a death, at the cores of the local pool, tells what Ray costs; the times count all that a run
does, workers' starts and contact sheet included.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from talkhead.data.preprocess import preprocess
from talkhead.scale.ray_engine import RayEngine


class Killing:
    """An engine that kills a node after a number of results."""

    def __init__(self, engine: RayEngine, cluster: Any, after: int) -> None:
        self.engine, self.cluster, self.after = engine, cluster, after

    def __call__(self, *work: Any) -> Generator[tuple[Any, Any], None, None]:
        for number, result in enumerate(self.engine(*work), 1):
            if number == self.after:
                self.cluster.remove_node(self.cluster.list_all_nodes()[1], allow_graceful=False)
                print(f"a node was killed after {number} recordings; speed then: {self.engine.note()}", flush=True)
            yield result


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a cache and their content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="a folder of recordings")
    parser.add_argument("--clips", type=int, default=240, help="how many of them (%(default)s)")
    parser.add_argument("--detector", default="dlib")
    args = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="measure_ray."))
    try:
        measure(args, scratch)
    finally:
        shutil.rmtree(scratch)


def measure(args: argparse.Namespace, scratch: Path) -> None:
    """Print a line for each run."""
    (scratch / "input").mkdir()
    videos = sorted(p for p in args.input.iterdir() if p.suffix in (".mpg", ".mp4"))[: args.clips]
    for path in videos:
        (scratch / "input" / path.name).symlink_to(path.absolute())
    print(f"{len(videos)} recordings, load before: {os.getloadavg()[0]:.1f}", flush=True)

    def run(name: str, **more: Any) -> float:
        start = time.perf_counter()
        options = {"detector": args.detector, "identity": "s1", "progress": False}
        summary = preprocess("folder", scratch / "input", scratch / name, **options, **more)
        seconds = time.perf_counter() - start
        same = name == "pool" or files(scratch / name) == files(scratch / "pool")
        print(f"{name}: {seconds:.1f} s, {summary}, load {os.getloadavg()[0]:.1f}, as the pool's: {same}", flush=True)
        return seconds

    from ray.cluster_utils import Cluster

    pool = run("pool", workers=2)
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        ray = run("ray", engine=RayEngine(cluster.address))
        print(f"overhead of Ray at equal cores: {100 * (ray / pool - 1):+.1f} %", flush=True)
        run("ray, a node killed", engine=Killing(RayEngine(cluster.address), cluster, max(len(videos) // 2, 1)))
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # the nodes' workers as the pool's
    main()
