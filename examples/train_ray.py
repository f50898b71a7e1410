"""A training on a Ray cluster: `talkhead fit` in every worker, joined by Ray Train.

    python examples/train_ray.py --workers 8 --gpu -- --config video --config gpu --data.root CACHE \
        --trainer.default_root_dir RUN
    python examples/train_ray.py --workers 2 -- --config landmark --data.root CACHE --trainer.default_root_dir RUN

Behind `--` stands what `talkhead fit` takes; data.batch_size is the batch of one worker. CACHE and RUN are folders that
every node sees under these names (absolute ones: workers start elsewhere). Workers that die are started again, all
together, and go on from RUN's last checkpoint, as the same command does after everything has died.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path


def work(config: dict[str, list[str]]) -> None:
    """Train as one of the workers: Ray has joined them already, and tells Lightning which one this is."""
    from talkhead.cli import main as talkhead

    given = ["fit", *config["arguments"], "--ckpt_path=last", "--trainer.devices=auto"]
    given += ["--trainer.strategy={class_path: ray.train.lightning.RayDDPStrategy}"]
    given += ["--trainer.plugins=[{class_path: ray.train.lightning.RayLightningEnvironment}]"]
    if code := talkhead(given):
        raise RuntimeError(f"talkhead fit ended with {code}; what went wrong stands above")


def refused(arguments: list[str]) -> int:
    """Read the arguments as `talkhead fit` does and return its exit code: what it refuses the workers need not try."""
    from talkhead.cli import main as talkhead

    with redirect_stdout(StringIO()):
        return talkhead(["fit", *arguments, "--print_config"])


def main() -> int:
    """Start the workers and wait for them."""
    given = sys.argv[1:]
    border = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--gpu", action="store_true", help="one card for each")
    parser.add_argument("--cpus", type=int, default=1, help="cores for each (%(default)s)")
    parser.add_argument("--address", help="of the cluster, or auto (one on this machine)")
    parser.add_argument("--attempts", type=int, default=3, help="starts after a worker has died (%(default)s)")
    args, fit = parser.parse_args(given[:border]), given[border + 1 :]

    if code := refused(fit):
        return code

    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(address=args.address, include_dashboard=False)
    home = Path(tempfile.mkdtemp(prefix="train_ray_"))
    scaling = ScalingConfig(
        num_workers=args.workers,
        use_gpu=args.gpu,
        resources_per_worker={"CPU": args.cpus} | ({"GPU": 1} if args.gpu else {}),
    )
    running = RunConfig(storage_path=str(home), failure_config=FailureConfig(max_failures=args.attempts))
    TorchTrainer(work, train_loop_config={"arguments": fit}, scaling_config=scaling, run_config=running).fit()
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
