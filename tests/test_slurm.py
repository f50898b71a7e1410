"""`examples/train_slurm.sh` on a cluster's stand-in: two tasks on this machine, told who they are as SLURM tells it."""

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_distributed import HANGS, arguments, free_port, logged

from talkhead.cli import main

ROOT = Path(__file__).resolve().parents[1]
SRUN = """#!/bin/bash
shift # --kill-on-bad-exit=1
for rank in 0 1; do
    SLURM_PROCID=$rank SLURM_NODEID=$rank SLURM_LOCALID=0 "$@" &
done
wait -n && wait -n
status=$?
kill $(jobs -p) 2>/dev/null
exit $status
"""


def cluster(folder: Path) -> dict[str, str]:
    """Return the environment of a job of two nodes with a task each; its `srun` and `scontrol` lie in ``folder``."""
    commands = {
        "srun": SRUN,
        "scontrol": f'#!/bin/bash\necho "$@" >>{folder}/scontrol.said\n',
        "talkhead": '#!/bin/bash\nexec python -m talkhead "$@"\n',
    }
    folder.mkdir()
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    job = {"JOB_ID": "7", "JOB_NAME": "talkhead", "NNODES": "2", "NTASKS": "2", "NTASKS_PER_NODE": "1"}
    return {
        **os.environ,
        **{f"SLURM_{name}": value for name, value in job.items()},
        "SLURM_NODELIST": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PATH": os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]]),
    }


def start(environment: dict[str, str], cache: Path, run: Path, *more: str) -> subprocess.Popen[str]:
    given = arguments("fit", "landmark", cache, run, 2)[4:]  # the script says the rest
    command = ["bash", str(ROOT / "examples" / "train_slurm.sh"), "landmark", str(cache), str(run)]
    return subprocess.Popen(
        [*command, *given, *more], env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def said_by(job: subprocess.Popen[str]) -> str:
    try:
        return job.communicate(timeout=HANGS)[0]
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)


@pytest.mark.storm
def test_two_tasks_train_as_one_process(tiny_cache: Path, tmp_path: Path) -> None:
    job = start(cluster(tmp_path / "bin"), tiny_cache, tmp_path / "two", "--trainer.max_epochs=2")
    said = said_by(job)
    assert job.returncode == 0, said[-3000:]
    assert "MEMBER: 2/2" in said
    assert main(arguments("fit", "landmark", tiny_cache, tmp_path / "one", 4, "--trainer.max_epochs=2")) == 0
    assert [log.name for log in (tmp_path / "two" / "logs").iterdir()] == ["version_0"]
    found, expected = logged(tmp_path / "two")["train/loss"], logged(tmp_path / "one")["train/loss"]
    assert len(expected) == 4 and found == pytest.approx(expected, rel=5e-3)


@pytest.mark.storm
def test_a_job_whose_time_is_up_is_queued_again_and_goes_on(tiny_cache: Path, tmp_path: Path) -> None:
    """SIGUSR1 to the tasks, as `#SBATCH --signal` asks for; what they saved is what the next start reads."""
    environment, run = cluster(tmp_path / "bin"), tmp_path / "run"
    job = start(environment, tiny_cache, run, "--trainer.max_epochs=2000")
    begun = time.monotonic()
    while not (run / "checkpoints" / "last.ckpt").exists() and time.monotonic() - begun < HANGS:
        time.sleep(0.1)
    tasks = subprocess.run(
        ["pgrep", "-s", str(job.pid), "-f", "python -m talkhead"], capture_output=True, text=True, check=True
    )
    for task in tasks.stdout.split():
        os.kill(int(task), signal.SIGUSR1)
    while not (tmp_path / "bin" / "scontrol.said").exists() and time.monotonic() - begun < HANGS:
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGKILL)  # SLURM ends a job that it has put into the queue again
    said_by(job)
    assert (tmp_path / "bin" / "scontrol.said").read_text() == "requeue 7\n"
    (saved,) = run.glob("hpc_ckpt_*.ckpt")
    done = torch.load(saved, weights_only=True)["epoch"]
    job = start(environment, tiny_cache, run, f"--trainer.max_epochs={done + 2}")
    said = said_by(job)
    assert job.returncode == 0, said[-3000:]
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == done + 1
    assert sorted(log.name for log in (run / "logs").iterdir()) == ["version_0", "version_1"]


def test_a_mistyped_option_does_not_reach_a_cluster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = runpy.run_path(str(ROOT / "examples" / "train_ray.py"))
    words = ["train_ray.py", "--", "--config", "landmark", "--data.root", "cache", "--trainer.max_epochz=3"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setitem(sys.modules, "ray", None)  # its import would fail
    assert script["main"]() == 2
    assert "max_epochz" in capsys.readouterr().err
