"""The notebooks run from top to bottom, with the bundled speaker and small settings, and hold no outputs."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "examples" / "notebooks").glob("*.ipynb"))
# What each leaves behind; 01 and 02 run with a tiny speaker in test_bundle.py.
MADE = {
    "03_emotion.ipynb": ["heard.png"],
    "04_train_a_speaker.ipynb": [
        f"trial/{made}" for made in ("cache/manifest.jsonl", "me/pipeline.json", "me.mp4", "results/evaluation.md")
    ],
    "05_evaluate_a_method.ipynb": ["results/videos.html", "results/videos.md"],
    "06_table_2.ipynb": ["sweep/ablation.md", "sweep/ablation.png"],
}
AGAIN = {"04_train_a_speaker.ipynb"}
"""Whose clips are cached and learnt once more: what is there already must not stand in the way."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_kept_without_outputs(path):
    cells = json.loads(path.read_text())["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("name", MADE)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    pytest.importorskip("dlib", reason="the notebooks find faces with dlib: pip install '.[dlib]'")
    import matplotlib.pyplot as plt

    path = next(path for path in NOTEBOOKS if path.name == name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TALKHEAD_SMALL", "1")
    names = {"__name__": "__main__"}
    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    for cell in cells + [cell for cell in cells if name in AGAIN and re.search('"(preprocess|fit)"', cell)]:
        exec(compile(cell, name, "exec"), names)
    plt.close("all")
    assert not [file for file in MADE[name] if not (tmp_path / file).stat().st_size]
