"""Cross-validating the emotion classifier: blocks of speakers, seven classes of eight, a run that is complete."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from talkhead.data.clip import Clip

PATH = Path(__file__).resolve().parents[1] / "examples" / "cross_validate_emotion.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location(PATH.stem, PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_speaker_is_in_two_blocks(example: ModuleType) -> None:
    parts = example.blocks([f"{i % 10:02d}" for i in range(50)], 4)
    assert sorted(sum(parts, [])) == [f"{i:02d}" for i in range(10)]
    assert sorted(map(len, parts)) == [2, 2, 3, 3] or sorted(map(len, parts)) == [2, 2, 2, 4]
    with pytest.raises(SystemExit, match="at most one per speaker"):
        example.blocks(["a", "b"], 3)


def test_calm_counts_as_neutral(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["neutral", "calm", "happy"]
    fold = torch.tensor([[0.3, 0.3, 0.4], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.4, 0.3, 0.3]])
    # Neutral and calm together: 0.6, 0.9, 0.4, 0.7, so that three of three and one of two are right, then all.
    truths = [torch.tensor([0, 1, 2, 2]), torch.tensor([1, 0, 2, 0])]
    example.report_without_calm(names, [fold, fold], truths)
    # 0.75 and 1; their standard deviation is 0.25 / sqrt(2).
    assert "UAR 0.875 ± 0.177" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("seconds", ["0", "0.3"])
def test_a_run_is_complete_and_kept(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds
) -> None:
    def clip(i: int) -> Clip:
        audio = 0.1 * torch.randn(8000)
        return Clip(audio, torch.tensor(i % 3), torch.tensor(0.0), torch.tensor(len(audio)))

    monkeypatch.setattr(
        example, "read_ravdess", lambda root: ([clip(i) for i in range(24)], [f"{i // 6}" for i in range(24)])
    )
    options = "--ravdess any --folds 2 --epochs 1 --batch-size 4 --pitch --frames-per-second 50 --batch-norm".split()
    monkeypatch.setattr(sys, "argv", ["x", *options, "--seconds", seconds, "--output", str(tmp_path)])
    example.main()
    first = capsys.readouterr().out
    assert "| 0 1 | 12 |" in first and "| 2 3 | 12 |" in first and "calm counted as neutral" in first
    monkeypatch.setattr(example, "run_fold", None)  # every fold's answers are there
    example.main()
    assert capsys.readouterr().out == first
    assert (tmp_path / "confusion_matrix.png").is_file() and (tmp_path / "network_1" / "config.json").is_file()
