"""Several people in one cache: whose clips train, who is seen how often, who is kept for the test."""

import json
import math
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import tiny_entry

from talkhead.data.clip import EMOTIONS
from talkhead.data.datamodule import MEADDataModule, balanced_weights
from talkhead.evaluate.evaluation import by_acquaintance
from talkhead.modules.seen_emotions import count_emotions
from talkhead.training import CONFIGS

PEOPLE = ["anna"] * 8 + ["ben"] * 2 + ["cleo"] * 2


@pytest.fixture
def cache(tiny_cache: Path, tmp_path: Path) -> Path:
    """Return a cache of three people, anna four times as often as the others, the last clip of each from the left."""
    (tmp_path / "clips").symlink_to(tiny_cache / "clips")
    entries = [tiny_entry(i) | {"identity": person, "view": "front"} for i, person in enumerate(PEOPLE)]
    for last in (7, 9, 11):
        entries[last]["view"] = "left_30"
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    return tmp_path


def people_of(data: MEADDataModule, part: str) -> set[str]:
    return {data.entries[name]["identity"] for name in data.names(part)}  # type: ignore[arg-type]


def test_unseen_people_are_test_and_move_nobody_else(cache: Path) -> None:
    arguments = {"num_frames": 4, "test_fraction": 0.25, "val_fraction": 0.2}
    plain, held = MEADDataModule(str(cache), **arguments), MEADDataModule(str(cache), unseen=["cleo"], **arguments)
    assert people_of(held, "train") == {"anna", "ben"} and "cleo" not in people_of(held, "val")
    theirs = {name for name, entry in held.entries.items() if entry["identity"] == "cleo"}
    assert theirs <= set(held.names("test"))
    for part in ("train", "val", "test"):
        assert set(held.names(part)) - theirs == set(plain.names(part)) - theirs


def test_identities_keeps_these_people_and_those_held_out(cache: Path) -> None:
    data = MEADDataModule(str(cache), identities=["anna"], unseen=["ben"], val_fraction=0)
    assert {e["identity"] for e in data.entries.values()} == {"anna", "ben"}
    assert people_of(data, "train") == {"anna"}
    with pytest.raises(ValueError, match="data.identities: 'zoe' has no usable clip .* anna, ben, cleo; choose"):
        _ = MEADDataModule(str(cache), identities=["zoe"]).entries
    with pytest.raises(ValueError, match="data.unseen: 'zoe'"):
        _ = MEADDataModule(str(cache), unseen=["zoe"]).entries


def test_balanced_groups_are_drawn_equally_often_by_hand(cache: Path) -> None:
    entries = list(MEADDataModule(str(cache)).entries.values())
    for fields, groups in (("identity", 3), ("view", 2), (["identity", "view"], 6), (["identity", "emotion"], 7)):
        weights = balanced_weights(entries, fields, 0.0)
        names = [fields] if isinstance(fields, str) else fields
        share: dict[tuple[str, ...], float] = {}
        for entry, weight in zip(entries, (weights / weights.sum()).tolist(), strict=True):
            key = tuple(entry[name] for name in names)
            share[key] = share.get(key, 0.0) + weight
        assert list(share.values()) == pytest.approx([1 / groups] * groups)
    # With power 1 everybody is seen as often as their frames say: all clips alike.
    assert balanced_weights(entries, ["identity", "view"], 1.0).unique().numel() == 1
    # By the root: anna's 8 clips against ben's 2 are seen twice as often, not four times.
    rooted = balanced_weights(entries, "identity", 0.5)
    assert (rooted[:8].sum() / rooted[8:10].sum()).item() == pytest.approx(math.sqrt(4))
    with pytest.raises(ValueError, match="data.balance must be of identity, emotion, view; got 'age'"):
        MEADDataModule(str(cache), balance=["identity", "age"])  # type: ignore[list-item]


def test_sound_is_balanced_by_its_own_length(tiny_cache: Path, tmp_path: Path) -> None:
    """A recording without a picture has no frames, and is heard as often as one with."""
    (tmp_path / "clips").symlink_to(tiny_cache / "clips")
    entries = [tiny_entry(i) | {"identity": person} for i, person in enumerate(PEOPLE)]
    for entry in entries[:8]:
        entry["frames"] = 0
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    data = MEADDataModule(
        str(tmp_path), 4, None, modality="audio", test_fraction=0, val_fraction=0, balance="emotion", balance_power=1.0
    )
    weights = data.train_dataloader().sampler.weights
    assert len(weights) == len(entries) and weights.unique().numel() == 1


def test_an_emotion_counts_as_often_as_it_is_drawn(tiny_cache: Path, tmp_path: Path) -> None:
    """Two of twelve are sad: without balance 10 to 2, balanced 6 to 6, so that no class is corrected twice."""
    (tmp_path / "clips").symlink_to(tiny_cache / "clips")
    entries = [tiny_entry(i) | {"emotion": "sad" if i < 2 else "happy"} for i in range(12)]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    for balance, (happy, sad) in ((None, (10, 2)), ("emotion", (6, 6))):
        data = MEADDataModule(
            str(tmp_path), 4, None, modality="audio", test_fraction=0, val_fraction=0, balance=balance
        )
        counts = count_emotions(data.train_dataloader(), EMOTIONS)
        assert [counts[EMOTIONS.index(name)].item() for name in ("happy", "sad")] == pytest.approx([happy, sad])
        assert counts.sum().item() == pytest.approx(12)


def test_a_training_draws_people_and_cameras_evenly(cache: Path) -> None:
    data = MEADDataModule(
        str(cache), 8, 4, test_fraction=0, val_fraction=0, balance=["identity", "view"], samples_per_clip=50
    )
    drawn = [name for batch in data.train_dataloader() for name in batch.names]
    for field, groups in (("identity", 3), ("view", 2)):
        count = torch.tensor(
            [
                sum(data.entries[name][field] == value for name in drawn)
                for value in sorted({e[field] for e in data.entries.values()})
            ]
        )
        assert (count / len(drawn) - 1 / groups).abs().max() < 0.06, field  # 600 draws: three deviations of 2%


def test_further_pictures_are_of_the_same_person_by_the_same_camera(cache: Path) -> None:
    dataset = MEADDataModule(str(cache), 1, 4, test_fraction=0, val_fraction=0, bank=3).dataset("train", True, 4)
    for entry in dataset.entries:
        pool = dataset._clips_of[entry["identity"], entry["view"]]
        assert {(e["identity"], e["view"]) for e in pool} == {(entry["identity"], entry["view"])}
    from talkhead.data.dataset import ClipDataset

    for place, entry in enumerate(dataset.entries[7:], 7):  # ben's and cleo's, and anna's from the left: one clip each
        alike = [
            n for n, e in data_entries(cache).items() if (e["identity"], e["view"]) == (PEOPLE[place], entry["view"])
        ]
        frames = torch.cat([ClipDataset(cache, [name])[0].frames for name in alike])  # type: ignore[misc]
        for picture in dataset[place].bank:  # type: ignore[union-attr]
            assert (picture == frames).flatten(1).all(1).any()


def data_entries(cache: Path) -> dict[str, dict[str, str]]:
    return {e["name"]: e for e in map(json.loads, (cache / "manifest.jsonl").read_text().splitlines())}


def test_an_evaluation_tells_seen_from_unseen_people(cache: Path) -> None:
    data = MEADDataModule(str(cache), unseen=["cleo"], test_fraction=0.25, val_fraction=0)
    bench = SimpleNamespace(data=data, names=data.names("test"))
    groups = by_acquaintance(bench)  # type: ignore[arg-type]
    assert {data.entries[n]["identity"] for n in groups["unseen"]} == {"cleo"}
    assert {data.entries[n]["identity"] for n in groups["seen"]} <= {"anna", "ben"}
    assert sorted(sum(groups.values(), [])) == data.names("test")
    everybody = MEADDataModule(str(cache), test_fraction=0.25, val_fraction=0)
    bench = SimpleNamespace(data=everybody, names=everybody.names("test"))
    assert by_acquaintance(bench) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["landmark", "emotion", "video"])
def test_the_recipes_for_many_people_are_the_bundled_ones_but_for_who_is_seen_how_often(name: str) -> None:
    own, many = (yaml.safe_load((CONFIGS / f"{place}{name}.yaml").read_text()) for place in ("", "multi/"))
    assert many["data"]["balance"][0] == "identity" and many["data"]["balance_power"] == 0
    for data in (own["data"], many["data"]):
        for key in ("balance", "balance_power", "test_fraction", "val_fraction"):
            data.pop(key, None)
    own["trainer"].pop("default_root_dir")
    assert many["trainer"].pop("default_root_dir") == f"runs/multi_{name}"
    if name == "emotion":  # even draws need no weights
        assert many["model"]["init_args"].pop("class_weighting") is False
        own["model"]["init_args"].pop("class_weighting")
    assert many == own


def test_videos_of_two_rates_share_a_batch_after_fps(tmp_path: Path) -> None:
    from test_preprocess import render, run

    (tmp_path / "in").mkdir()
    render(tmp_path / "in/a.mp4", frames=12)
    rerated(tmp_path / "in/a.mp4", tmp_path / "in/b.mp4", Fraction(30))
    run(tmp_path / "in", tmp_path / "mixed")
    with pytest.raises(ValueError, match="mixes the frame rates 25, 30; preprocess the recordings with --fps 25"):
        MEADDataModule(str(tmp_path / "mixed"), 2, 4, test_fraction=0, val_fraction=0).setup()
    run(tmp_path / "in", tmp_path / "one", fps=25)
    data = MEADDataModule(str(tmp_path / "one"), 2, 4, test_fraction=0, val_fraction=0)
    data.setup()
    (batch,) = data.train_dataloader()
    assert batch.fps.tolist() == [25, 25] and batch.audio.shape == (2, 2560)


def rerated(source: Path, target: Path, fps: Fraction) -> None:
    """Write a video's frames and sound again at another rate, more frames in the same time."""
    from talkhead.media.read import iter_frames, read_audio
    from talkhead.media.write import VideoWriter

    frames = [frame.permute(1, 2, 0).contiguous() for frame in iter_frames(source, fps)]
    with VideoWriter(target, fps, tuple(frames[0].shape[:2]), read_audio(source)) as writer:  # type: ignore[arg-type]
        for frame in frames:
            writer.append(frame)
