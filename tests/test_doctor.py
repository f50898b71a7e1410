"""The doctor on this machine, and on broken ones made of files."""

import os
import sys
from pathlib import Path

import pytest

from talkhead import doctor

BROKEN_TORCHAUDIO = """
from pathlib import Path
if list((Path(__file__).parent / "lib").glob("*.so")):
    raise OSError("libcudart.so.13: cannot open shared object file")
__version__ = "2.11.0"
"""


@pytest.fixture
def broken_torchaudio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a torchaudio before the real one that fails to import for as long as its libraries are there."""
    package = tmp_path / "torchaudio"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").write_text(BROKEN_TORCHAUDIO)
    (package / "lib" / "libtorchaudio.so").write_bytes(b"")
    (package / "lib" / "keep.txt").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    return package


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[bool, str]]:
    """Answer `import X` from a table instead of a process; what is not in the table works."""
    answers: dict[str, tuple[bool, str]] = {}
    monkeypatch.setattr(doctor, "run_python", lambda code: answers.get(code.split(";")[0], (True, "1.0")))
    return answers


def test_this_machine_is_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.doctor() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "nothing failed"
    assert {line.split()[0] for line in lines[:-1]} <= {"ok", "warn", "->"}
    for name in (
        "python",
        "torch",
        "torchaudio",
        "torchvision",
        "ffmpeg",
        "face-alignment",
        "dlib",
        "triton",
        "talkhead",
        "cache",
        "disk",
    ):
        assert any(f"  {name}: " in line for line in lines), name


def test_torchaudio_is_mended_and_only_its_libraries_go(broken_torchaudio: Path) -> None:
    before = doctor.check_torchaudio()
    assert before.status == "fail"
    assert "libcudart" in before.found
    assert "--fix" in before.how
    assert doctor.mend_torchaudio() == [
        "fix   torchaudio: deleted lib/libtorchaudio.so (it needs CUDA; nothing here uses it)"
    ]
    assert sorted(p.name for p in (broken_torchaudio / "lib").iterdir()) == ["keep.txt"]
    assert doctor.check_torchaudio() == doctor.Check("ok", "torchaudio", "2.11.0")
    assert doctor.mend_torchaudio() == []


def test_a_working_torchaudio_keeps_its_libraries(broken_torchaudio: Path) -> None:
    (broken_torchaudio / "__init__.py").write_text("__version__ = '2.11.0'")
    assert doctor.mend_torchaudio() == []
    assert (broken_torchaudio / "lib" / "libtorchaudio.so").exists()


def test_a_broken_torch_is_no_reason_to_delete_libraries(
    broken_torchaudio: Path, fake_runs: dict[str, tuple[bool, str]]
) -> None:
    fake_runs["import torch"] = fake_runs["import torchaudio"] = (False, "ImportError: no torch")
    assert doctor.mend_torchaudio() == []
    assert (broken_torchaudio / "lib" / "libtorchaudio.so").exists()


@pytest.mark.parametrize("kind", ["cuda", "hip"])
def test_beside_a_torch_for_cards_no_library_is_deleted(broken_torchaudio: Path, kind: str) -> None:
    """A torch of a file, whose version module says what it was built for, as PyTorch's own does."""
    torch = broken_torchaudio.parent / "torch"
    torch.mkdir()
    (torch / "__init__.py").write_text("from . import version\n__version__ = '2.13.0'\n")
    (torch / "version.py").write_text(f"cuda = hip = None\n{kind} = '13.0'\n")
    assert doctor.mend_torchaudio() == []
    assert (broken_torchaudio / "lib" / "libtorchaudio.so").exists()
    check = doctor.check_torchaudio()
    assert check.status == "fail" and "libcudart" in check.found
    assert "--fix" not in check.how and "install it again" in check.how
    (torch / "version.py").write_text("cuda = hip = None\n")
    assert len(doctor.mend_torchaudio()) == 1


def test_a_failure_is_counted_and_ends_in_one(
    fake_runs: dict[str, tuple[bool, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    fake_runs["import torch"] = (False, "ModuleNotFoundError: No module named 'torch'")
    assert doctor.doctor() == 1
    out = capsys.readouterr().out
    assert "fail  torch: ModuleNotFoundError" in out
    assert "-> install it again" in out
    assert out.endswith("1 failed\n")


def test_a_library_that_cannot_be_imported_is_no_healthy_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lightning.py").write_text("raise ImportError('lightning is broken')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_talkhead,))
    assert doctor.doctor() == 1
    assert "fail  talkhead: ImportError: lightning is broken" in capsys.readouterr().out


def test_a_foreign_torchvision_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_torchvision().status == "ok"
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = doctor.check_torchvision()
    assert check.status == "fail"
    assert "nms does not exist" in check.found
    assert "pip uninstall torchvision" in check.how


def test_an_old_python_is_named() -> None:
    assert doctor.check_python().status == "ok"
    assert doctor.check_python((3, 10, 4)) == doctor.Check(
        "fail", "python", "3.10.4", "talkhead needs Python 3.11 or later: make a new virtual environment with it"
    )


def test_face_alignment_weights_are_looked_for_in_the_torch_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    check = doctor.check_face_alignment()
    assert check.status == "warn"
    assert str(tmp_path / "hub" / "checkpoints") in check.how
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    for name in doctor.FACE_ALIGNMENT_WEIGHTS:
        (tmp_path / "hub" / "checkpoints" / name).touch()
    assert doctor.check_face_alignment().status == "ok"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "not" / "yet"))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert doctor.check_cache().status == "ok"
    monkeypatch.setattr(
        doctor.os, "access", lambda path, mode: False
    )  # root may write anywhere: permissions say nothing
    check = doctor.check_cache()
    assert check.status == "warn"
    assert str(tmp_path / "not" / "yet") in check.found


@pytest.mark.parametrize(("free", "status"), [(100.0, "ok"), (1.0, "warn"), (0.1, "fail")])
def test_the_disk_decides(free: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = doctor.shutil.disk_usage(".")._replace(free=int(free * 2**30))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert doctor.check_disk().status == status
