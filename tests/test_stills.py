"""Still pictures as clips: whose they are, how they are cut, and that a training draws them."""

import shutil
from pathlib import Path

import pytest
import torch

from talkhead.data.dataset import ClipDataset, read_manifest
from talkhead.data.preprocess import preprocess
from talkhead.data.stills import people_of
from talkhead.media.write import write_image
from tests.test_references import GreyTells, picture


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    (root / "anna").mkdir(parents=True)
    (root / ".trash").mkdir()
    for name, opening in (("001_neutral", 2), ("001_smiling", 20), ("002_a", 5), ("anna/x", 7), (".trash/z", 9)):
        write_image(root / f"{name}.png", picture(opening))
    write_image(root / "003_faceless.png", picture(255))
    (root / "notes.txt").write_text("no picture")
    return root


def test_pictures_belong_to_the_folder_or_to_the_names_beginning(pictures: Path) -> None:
    people = {person: [path.name for path in paths] for person, paths in people_of(pictures).items()}
    assert people == {
        "001": ["001_neutral.png", "001_smiling.png"],
        "002": ["002_a.png"],
        "003": ["003_faceless.png"],
        "anna": ["x.png"],
    }
    shutil.copy(pictures / "002_a.png", pictures / "004.jfif")  # as Windows calls what a browser saved
    assert "004" in people_of(pictures)
    for name in ("_MG_0001", "_MG_0002"):  # a camera's names begin with an underscore where colours are Adobe's
        write_image(pictures / f"{name}.png", picture(3))
    assert {"_MG_0001", "_MG_0002"} < people_of(pictures).keys() and "" not in people_of(pictures)


def test_each_person_is_one_clip_and_each_picture_a_window(pictures: Path, tmp_path: Path) -> None:
    preprocess("stills", pictures, tmp_path / "cache", size=32, detector=GreyTells())
    entries = {entry["name"]: entry for entry in read_manifest(tmp_path / "cache")}
    assert {name: entry["status"] for name, entry in entries.items()} == {
        "001": "ok", "002": "ok", "003": "failed", "anna": "ok"
    }  # fmt: skip
    assert "no face in 003_faceless.png" in entries["003"]["reason"]
    dataset = ClipDataset(tmp_path / "cache", ["001", "002"], num_frames=4, random=True)
    seen = {float(dataset[epoch, 0].frames.float().mean().round()) for epoch in range(12)}
    assert seen == {2.0, 20.0}
    assert torch.equal(dataset[0, 1].reference, dataset[0, 1].frames[0])  # he has one picture
    shutil.copy(pictures / "001_smiling.png", pictures / "002_b.png")
    preprocess("stills", pictures, tmp_path / "cache", size=32, detector=GreyTells())
    frames = {entry["name"]: entry["frames"] for entry in read_manifest(tmp_path / "cache")}
    assert frames["001"] == frames["002"] == 2  # a picture that came later is seen


def test_a_cache_below_its_pictures_is_none_of_them(pictures: Path) -> None:
    """Its contact sheet, a picture of everybody, was a person of its own in the next run."""
    for _ in range(2):
        assert preprocess("stills", pictures, pictures / "cache", size=32, detector=GreyTells()).ok == 3
    assert (pictures / "cache" / "contact_sheet.png").is_file() and "cache" not in people_of(pictures)
