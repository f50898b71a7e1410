"""What is broken on this machine, and how to mend it.

Nothing heavy is imported here: a package that fails to import is exactly what has to be reported, so every import that
can fail runs in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

FACE_ALIGNMENT_WEIGHTS = ("2DFAN4-11f355bf06.pth.tar", "s3fd-619a316812.pth")
DLIB_MODEL = "shape_predictor_68_face_landmarks.dat"


class Check(NamedTuple):
    """One line of the report.

    Attributes:
        status: ``ok``, ``warn`` (talkhead works without it) or ``fail``.
        what: what was looked at.
        found: what was found there.
        how: how to mend it; empty when there is nothing to mend.
    """

    status: str
    what: str
    found: str
    how: str = ""


def doctor(fix: bool = False) -> int:
    """Check this machine and print one line per finding.

    Args:
        fix: mend what can be mended without an installation (the CUDA libraries of torchaudio beside a CPU torch).

    Returns:
        0 when nothing failed, 1 otherwise: an exit code.
    """
    if fix:
        for line in mend_torchaudio():
            print(line)
    with ThreadPoolExecutor(max_workers=2) as pool:
        checks = list(pool.map(lambda check: check(), CHECKS))
    for check in checks:
        print(f"{check.status:<4}  {check.what}: {check.found}")
        if check.how:
            print(f"      -> {check.how}")
    failed = sum(check.status == "fail" for check in checks)
    print("nothing failed" if not failed else f"{failed} failed")
    return 1 if failed else 0


def run_python(code: str) -> tuple[bool, str]:
    """Run a line of Python in a process of its own.

    Args:
        code: the program.

    Returns:
        Whether it succeeded, and the last line that it printed (on success) or that its error ended with.
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else ""


def package_folder(name: str) -> Path | None:
    """Return the folder of an installed top-level package without importing it, or None where it is missing."""
    spec = find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def torchaudio_libraries() -> list[Path]:
    """Return the compiled libraries that the torchaudio wheel brought."""
    folder = package_folder("torchaudio")
    return sorted((folder / "lib").glob("*.so")) if folder else []


def is_cpu_torch() -> bool:
    """Tell whether torch can be imported and was built for the CPU alone."""
    kinds = "any(getattr(torch.version, kind, None) for kind in ('cuda', 'hip', 'xpu'))"
    return run_python(f"import torch; print('card' if {kinds} else 'cpu')") == (True, "cpu")


def mend_torchaudio() -> list[str]:
    """Delete torchaudio's compiled libraries where they keep it from being imported.

    The wheel is a CUDA build. Beside a CPU build of torch its libraries cannot be loaded, and nothing that talkhead
    uses (mel spectrograms, resampling, the Conformer) is in them. Beside any other torch they are left alone: they
    belong to another version, and an installation mends that.

    Returns:
        One line for every library deleted.

    Raises:
        OSError: if a library cannot be deleted.
    """
    libraries = torchaudio_libraries()
    if not libraries or run_python("import torchaudio")[0] or not is_cpu_torch():
        return []  # nothing to delete, nothing broken, or broken for another reason
    for library in libraries:
        library.unlink()
    return [f"fix   torchaudio: deleted lib/{p.name} (it needs CUDA; nothing here uses it)" for p in libraries]


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Check:
    """Python is new enough; pip sees to that, but a folder that was merely copied was never asked."""
    found = ".".join(map(str, version))
    if version >= (3, 11):
        return Check("ok", "python", found)
    return Check("fail", "python", found, "talkhead needs Python 3.11 or later: make a new virtual environment with it")


def check_torch() -> Check:
    """PyTorch can be imported; which device it uses."""
    fine, found = run_python(
        "import torch; cuda = torch.cuda.is_available(); print(torch.__version__, 'on',"
        "torch.cuda.get_device_name() if cuda else f'CPU, {torch.get_num_threads()} threads')"
    )
    if fine:
        return Check("ok", "torch", found)
    return Check("fail", "torch", found, "install it again: pip install -c constraints.txt -e .")


def check_torchaudio() -> Check:
    """Torchaudio can be imported beside this torch."""
    fine, found = run_python("import torchaudio; print(torchaudio.__version__)")
    if fine:
        return Check("ok", "torchaudio", found)
    if torchaudio_libraries() and is_cpu_torch():
        return Check(
            "fail",
            "torchaudio",
            f"its CUDA libraries do not load beside this torch ({found})",
            "run `talkhead doctor --fix`: it deletes torchaudio/lib/*.so, which nothing here uses",
        )
    return Check("fail", "torchaudio", found, "install it again: pip install -c constraints.txt -e .")


def check_torchvision() -> Check:
    """Torchvision, which talkhead does not use, is absent or matches torch."""
    if package_folder("torchvision") is None:
        return Check("ok", "torchvision", "absent, as it should be")
    fine, found = run_python("import torchvision; print(torchvision.__version__)")
    if fine:
        return Check("ok", "torchvision", f"{found} (not used)")
    return Check(
        "fail",
        "torchvision",
        f"does not match this torch, and breaks transformers and diffusers ({found})",
        "talkhead does not use it: pip uninstall torchvision",
    )


def check_media() -> Check:
    """PyAV brings FFmpeg with the encoders that mp4 needs."""
    fine, found = run_python(
        "import av; [av.codec.Codec(n, 'w') for n in ('libx264', 'aac', 'flac', 'png')];"
        "print('PyAV', av.__version__, 'with H.264 and AAC')"
    )
    if fine:
        return Check("ok", "ffmpeg", found)
    return Check(
        "fail", "ffmpeg", found, "install PyAV's own wheel, which brings FFmpeg: pip install --force-reinstall av"
    )


def torch_home() -> Path:
    """Return the folder where torch keeps downloaded weights."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", Path(cache) / "torch")).expanduser()


def check_face_alignment() -> Check:
    """The default landmark detector's weights are on this machine."""
    folder = torch_home() / "hub" / "checkpoints"
    missing = [name for name in FACE_ALIGNMENT_WEIGHTS if not (folder / name).is_file()]
    if not missing:
        return Check("ok", "face-alignment", f"weights in {folder}")
    return Check(
        "warn",
        "face-alignment",
        "its weights are not here: the first use downloads them",
        f"without network put {' and '.join(missing)} into {folder}, or use --detector dlib",
    )


def check_dlib() -> Check:
    """The offline landmark detector and its model are installed."""
    how = 'for landmarks without network: pip install -c constraints.txt -e ".[dlib]"'
    if package_folder("face_recognition_models") is None or find_spec("dlib") is None:
        return Check("warn", "dlib", "not installed", how)
    folder = package_folder("face_recognition_models")
    if folder is None or not (folder / "models" / DLIB_MODEL).is_file():
        return Check("fail", "dlib", f"its model file {DLIB_MODEL} is missing", how)
    fine, found = run_python("import dlib; print(dlib.__version__)")
    return (
        Check("ok", "dlib", f"{found} (its 68-point model is for research use)")
        if fine
        else Check("fail", "dlib", found, how)
    )


def check_triton() -> Check:
    """The fused mask-noise kernel can run; the PyTorch reference does the same work without it."""
    if find_spec("triton") is not None:
        return Check("ok", "triton", "installed (used on CUDA devices)")
    return Check("ok", "triton", "absent: mask noise runs as plain PyTorch")


def nearest_folder(path: Path) -> Path:
    """Return the folder itself, or the nearest one above it that exists."""
    return path if path.exists() else nearest_folder(path.parent)


def check_talkhead() -> Check:
    """The library itself can be imported, with all that videos and trainings are made by."""
    fine, found = run_python("import lightning, talkhead.pipeline; print(talkhead.__version__)")
    if fine:
        return Check("ok", "talkhead", found)
    return Check("fail", "talkhead", found, "install it again: pip install --force-reinstall -c constraints.txt -e .")


def check_cache() -> Check:
    """Downloaded weights can be written."""
    hub = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    closed = [str(p) for p in (torch_home(), hub) if not os.access(nearest_folder(p), os.W_OK)]
    if not closed:
        return Check("ok", "cache", f"{torch_home()} and {hub} can be written")
    return Check(
        "warn", "cache", f"cannot write {' and '.join(closed)}", "set TORCH_HOME and HF_HOME to folders you own"
    )


def check_disk() -> Check:
    """There is room for frames and checkpoints in the working folder."""
    free = shutil.disk_usage(".").free / 2**30
    if free >= 2:
        return Check("ok", "disk", f"{free:.0f} GiB free in the working folder")
    how = "a cache of 1000 clips takes about 4 GiB: make room or work elsewhere"
    return Check("fail" if free < 0.2 else "warn", "disk", f"{free:.1f} GiB free in the working folder", how)


CHECKS: tuple[Callable[[], Check], ...] = (
    check_python,
    check_torch,
    check_torchaudio,
    check_torchvision,
    check_media,
    check_face_alignment,
    check_dlib,
    check_triton,
    check_talkhead,
    check_cache,
    check_disk,
)
