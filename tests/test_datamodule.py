"""Windows, splits and batches, against a cache whose every value says where it belongs."""

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from safetensors.torch import save_file

from talkhead.data.clip import Clip
from talkhead.data.datamodule import EpochSampler, MEADDataModule, balanced_weights
from talkhead.data.dataset import ClipDataset, collate, num_samples, read_manifest
from talkhead.inventory.merge import merge_caches


def write_cache(root: Path, clips: Sequence[dict[str, Any]]) -> Path:
    """Write a cache in which frame t's pixels and landmarks are t, and sample s is s / 2^20."""
    (root / "clips").mkdir(parents=True)
    entries = []
    for clip in clips:
        fps, frames = clip.get("fps", "25"), clip.get("frames", 20)
        samples = num_samples(frames, Fraction(fps)) if frames else clip["samples"]
        tensors = {"audio": torch.arange(samples) / 2**20}
        if frames:
            time = torch.arange(frames)
            tensors["frames"] = time.byte()[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
            tensors["landmarks"] = time.float()[:, None, None].expand(-1, 68, 2).contiguous()
            tensors["landmarks"][clip.get("faceless", [])] = torch.nan
            tensors["confidence"] = torch.ones(frames)
        save_file(tensors, root / "clips" / f"{clip['name']}.safetensors")
        base = {"status": "ok", "identity": "a", "emotion": "happy", "sentence": clip["name"], "fps": fps}
        entries.append(base | clip | {"frames": frames, "samples": samples, "fps": fps if frames else None})
    (root / "manifest.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_cache(tmp_path / "cache", [{"name": f"c{i:02d}", "frames": 20 + i} for i in range(20)])


def equal(a: Clip, b: Clip) -> bool:
    def same(x: Any, y: Any) -> bool:
        return torch.equal(x, y) if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) else x == y

    return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(Clip))


@pytest.mark.parametrize("fps", ["25", "30000/1001"])
def test_a_window_has_its_own_frames_landmarks_and_sound(tmp_path: Path, fps: str) -> None:
    root = write_cache(tmp_path / "c", [{"name": "x", "frames": 40, "fps": fps}])
    dataset = ClipDataset(root, ["x"], num_frames=7, random=True, samples_per_clip=30)
    starts = set()
    for clip in dataset:
        assert clip.frames is not None and clip.landmarks is not None and clip.reference is not None
        start = int(clip.frames[0, 0, 0, 0])
        starts.add(start)
        assert clip.frames[:, 0, 0, 0].tolist() == list(range(start, start + 7)) == clip.landmarks[:, 0, 0].tolist()
        rate = float(Fraction(fps))
        assert len(clip.audio) == round(7 / rate * 16000) == clip.samples
        assert abs(clip.audio[0] * 2**20 - start / rate * 16000) <= 1
        reference = int(clip.reference[0, 0, 0])
        assert not start <= reference < start + 7
        assert clip.reference_landmarks is not None and clip.reference_landmarks[0, 0] == reference
        assert clip.fps == pytest.approx(rate)
    assert len(starts) > 10 and max(starts) <= 33


def test_draws_depend_on_seed_epoch_clip_and_draw_alone(cache: Path) -> None:
    names = [f"c{i:02d}" for i in range(20)]

    def make(seed: int = 0) -> ClipDataset:
        return ClipDataset(cache, names, num_frames=4, random=True, seed=seed, samples_per_clip=2)

    def starts(dataset: ClipDataset, epoch: int) -> list[int]:
        clips = [dataset[epoch, i] for i in range(len(dataset))]
        return [int(c.frames[0, 0, 0, 0]) for c in clips if c.frames is not None]

    dataset = make()
    assert starts(dataset, 1) == starts(make(), 1)
    assert starts(dataset, 0) != starts(dataset, 1) and starts(dataset, 0) != starts(make(seed=1), 0)
    assert starts(dataset, 0)[:20] != starts(dataset, 0)[20:]
    assert equal(dataset[3], dataset[0, 3])


def test_windows_without_landmarks_are_never_drawn(tmp_path: Path) -> None:
    root = write_cache(
        tmp_path / "c", [{"name": "x", "faceless": [9]}, {"name": "y", "faceless": list(range(0, 20, 3))}]
    )
    dataset = ClipDataset(root, ["x"], num_frames=5, random=True, samples_per_clip=40)
    starts = {int(c.frames[0, 0, 0, 0]) for c in dataset if c.frames is not None}
    assert starts == {0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15}
    assert all(c.reference_landmarks is not None and c.reference_landmarks.isfinite().all() for c in dataset)
    with pytest.raises(ValueError, match="'y' has no 5 frames in a row with landmarks"):
        ClipDataset(root, ["y"], num_frames=5)[0]


def test_whole_clips_and_middle_windows(cache: Path) -> None:
    whole = ClipDataset(cache, ["c05"], reference="first")[0]
    assert whole.frames is not None and len(whole.frames) == 25 and len(whole.audio) == 16000
    assert whole.reference is not None and whole.reference.max() == 0
    middle = ClipDataset(cache, ["c05"], num_frames=5)[0]
    assert middle.frames is not None and middle.frames[:, 0, 0, 0].tolist() == [10, 11, 12, 13, 14]


def test_landmarks_modality_leaves_the_frames_unread(cache: Path) -> None:
    clip = ClipDataset(cache, ["c00"], num_frames=5, modality="landmarks")[0]
    assert clip.frames is None and clip.reference is None
    assert clip.landmarks is not None and clip.reference_landmarks is not None


def test_sound_is_cropped_padded_or_whole(tmp_path: Path) -> None:
    sounds = [{"name": "long", "frames": 0, "samples": 40000}, {"name": "short", "frames": 0, "samples": 8000}]
    root = write_cache(tmp_path / "c", [*sounds, {"name": "video"}])
    names = ["long", "short", "video"]
    dataset = ClipDataset(root, names, audio_seconds=1.0, random=True, modality="audio", samples_per_clip=10)
    crops = [dataset[i] for i in range(0, 30, 3)]
    assert all(len(c.audio) == 16000 == c.samples and c.fps == 0 for c in crops)
    assert len({float(c.audio[0]) for c in crops}) > 5
    short = dataset[1]
    assert len(short.audio) == 16000 and short.samples == 8000 and short.audio[8000:].abs().max() == 0
    whole = ClipDataset(root, names, modality="audio")
    batch = collate([whole[i] for i in range(3)])
    assert batch.samples.tolist() == [40000, 8000, 12800] and batch.audio.shape == (3, 40000)
    assert batch.frames is None and batch.emotion.tolist() == [4, 4, 4]
    with pytest.raises(ValueError, match="'long' has no picture"):
        ClipDataset(root, names, num_frames=4)


def test_a_batch_that_cannot_be_stacked_says_what_to_do(tmp_path: Path) -> None:
    root = write_cache(tmp_path / "c", [{"name": "x"}, {"name": "y", "fps": "30"}, {"name": "z", "frames": 21}])
    dataset = ClipDataset(root, ["x", "y", "z"])
    with pytest.raises(ValueError, match="a batch mixes frame rates .*25.* 30.*--fps"):
        collate([dataset[0], dataset[1]])
    with pytest.raises(ValueError, match="a batch mixes frames of shapes .*data.num_frames"):
        collate([dataset[0], dataset[2]])


def test_processes_that_read_leave_ctrl_c_to_the_one_that_trains(tiny_cache: Path) -> None:
    """It goes to all of them at once, and the next batch is asked for before the step in hand has been counted."""
    batches = iter(MEADDataModule(str(tiny_cache), 2, 4, num_workers=1).train_dataloader())
    next(batches)
    for worker in batches._workers:  # type: ignore[attr-defined]
        os.kill(worker.pid, signal.SIGINT)
    assert len(list(batches)) > 0 and all(worker.is_alive() for worker in batches._workers)  # type: ignore[attr-defined]


def test_datamodule_names_and_loaders(cache: Path) -> None:
    data = MEADDataModule(str(cache), batch_size=4, num_frames=6)
    data.setup("fit")
    assert {p: len(data.names(p)) for p in ("train", "val", "test")} == {"train": 17, "val": 1, "test": 2}
    batches = list(data.train_dataloader())
    assert [len(b.emotion) for b in batches] == [4, 4, 4, 4, 1]
    first = batches[0]
    assert first.frames is not None and first.frames.shape == (4, 6, 3, 8, 8) and first.frames.dtype == torch.uint8
    assert first.audio.shape == (4, 3840) and first.landmarks is not None and first.landmarks.shape == (4, 6, 68, 2)
    whole = list(data.predict_dataloader())
    assert [len(b.landmarks[0]) for b in whole if b.landmarks is not None] == [
        data.entries[n]["frames"] for n in data.names("test")
    ]
    assert all(equal(a, b) for a, b in zip(data.test_dataloader(), data.test_dataloader(), strict=True))


def test_a_limited_validation_looks_at_everybody(tmp_path: Path) -> None:
    """By name, the first batches were the first person's alone, whose numbers stood for all."""
    people = [{"name": f"{who}{n}", "identity": who, "view": view} for who in "ab" for view in "lr" for n in range(20)]
    clips = [clip | {"name": f"{clip['name']}-{clip['view']}-x"} for clip in people]
    data = MEADDataModule(str(write_cache(tmp_path / "c", clips)), batch_size=4, num_frames=4, val_fraction=0.2)
    batches = [batch.names for batch in data.val_dataloader()]
    assert [sorted(name[0] + name.split("-")[1] for name in names) for names in batches] == [
        ["al", "ar", "bl", "br"]
    ] * 4
    assert sorted(name for names in batches for name in names) == data.names("val")


def test_datamodule_without_test_and_val(cache: Path) -> None:
    data = MEADDataModule(str(cache), num_frames=6, test_fraction=0, val_fraction=0)
    assert len(data.names("train")) == 20 and data.val_dataloader() == [] and data.test_dataloader() == []


def test_short_clips_are_left_out_with_their_count(cache: Path) -> None:
    data = MEADDataModule(str(cache), num_frames=30, test_fraction=0, val_fraction=0)
    with pytest.warns(UserWarning, match="10 of 20 train clips are left out, they are shorter than num_frames=30"):
        assert len(data.train_dataloader().dataset) == 10  # type: ignore[arg-type]
    none = MEADDataModule(str(cache), num_frames=99)
    with pytest.raises(ValueError, match="data.num_frames: no training clip"), pytest.warns(UserWarning):
        none.train_dataloader()


def test_datamodule_says_what_is_wrong_with_its_root(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="data.root: .* run `talkhead preprocess` first"):
        MEADDataModule(str(tmp_path)).setup()
    sound = write_cache(tmp_path / "sound", [{"name": "s", "frames": 0, "samples": 16000}])
    with pytest.raises(ValueError, match="holds sound alone"):
        MEADDataModule(str(sound)).setup()
    mixed = write_cache(tmp_path / "mixed", [{"name": "x"}, {"name": "y", "fps": "30"}])
    with pytest.raises(ValueError, match="mixes the frame rates 25, 30"):
        MEADDataModule(str(mixed)).setup()
    with pytest.raises(ValueError, match="data.modality must be one of video, landmarks, audio; got 'sound'"):
        MEADDataModule(str(mixed), modality="sound")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="data.batch_size must be at least 1; got 0"):
        MEADDataModule(str(mixed), batch_size=0)


def test_a_torn_manifest_line_is_left_out(cache: Path) -> None:
    with (cache / "manifest.jsonl").open("a") as file:
        file.write('{"name": "c99", "sta')
    assert len(read_manifest(cache)) == 20


def test_workers_read_the_same_as_the_main_process(cache: Path) -> None:
    alone = MEADDataModule(str(cache), batch_size=5, num_frames=6).train_dataloader()
    helped = MEADDataModule(str(cache), batch_size=5, num_frames=6, num_workers=1, prefetch=3).train_dataloader()
    assert helped.prefetch_factor == 3
    for epoch in (0, 1):  # the workers outlive an epoch
        for loader in (alone, helped):
            assert isinstance(loader.sampler, EpochSampler)
            loader.sampler.set_epoch(epoch)
        assert all(equal(a, b) for a, b in zip(alone, helped, strict=True))


class Recorder(LightningModule):
    """A module that notes the windows it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[float]] = []

    def training_step(self, batch: Clip, index: int) -> torch.Tensor:
        assert batch.frames is not None and batch.reference is not None
        self.seen.append([*batch.frames[:, 0, 0, 0, 0].tolist(), *batch.reference[:, 0, 0, 0].tolist()])
        return self.weight * batch.audio.mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def quiet_trainer(epochs: int) -> Trainer:
    return Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, num_sanity_val_steps=0,
    )  # fmt: skip


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*:FutureWarning", "ignore:.*no `validation_step`"
)
def test_a_resumed_run_sees_the_windows_of_an_unbroken_one(cache: Path, tmp_path: Path) -> None:
    def data() -> MEADDataModule:
        return MEADDataModule(str(cache), batch_size=8, num_frames=6)

    unbroken, first, second = Recorder(), Recorder(), Recorder()
    quiet_trainer(4).fit(unbroken, data())
    trainer = quiet_trainer(2)
    trainer.fit(first, data())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    quiet_trainer(4).fit(second, data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert first.seen + second.seen == unbroken.seen
    assert unbroken.seen[:3] != unbroken.seen[3:6]


def test_the_bank_shows_the_same_person_outside_the_window(tmp_path: Path) -> None:
    clips = [{"name": f"{who}{i}", "identity": who, "frames": 20} for who in "ab" for i in range(2)]
    cache = write_cache(tmp_path / "cache", clips)
    dataset = ClipDataset(cache, ["a0", "b0"], num_frames=8, random=True, bank=3)  # one clip each: its own frames
    for index in range(2):
        for epoch in range(5):
            clip = dataset[epoch, index]
            assert clip.bank.shape == (3, 3, 8, 8) and clip.bank_landmarks.shape == (3, 68, 2)
            assert torch.equal(clip.bank[:, 0, 0, 0].float(), clip.bank_landmarks[:, 0, 0])  # both are the frame's time
            window = set(clip.frames[:, 0, 0, 0].tolist())
            assert not window & set(clip.bank[:, 0, 0, 0].tolist())
    assert equal(dataset[3, 1], dataset[3, 1]) and not equal(dataset[3, 1], dataset[4, 1])
    whole = ClipDataset(cache, ["a0"], num_frames=20, random=True, bank=2)[0]
    assert whole.bank_landmarks.isnan().all()  # nothing is left to show


def test_a_still_picture_is_a_window_of_any_length(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", [{"name": "still", "frames": 2, "stills": True}, {"name": "clip"}])
    dataset = ClipDataset(cache, ["still", "clip"], num_frames=8, random=True)
    for epoch in range(8):
        clip = dataset[epoch, 0]
        assert clip.frames.shape[0] == clip.landmarks.shape[0] == 8
        assert len(clip.frames.unique()) == 1 and clip.reference.unique() != clip.frames.unique()
    assert collate([dataset[0, 0], dataset[0, 1]]).frames.shape == (2, 8, 3, 8, 8)


def test_people_are_drawn_by_a_power_of_their_frames() -> None:
    entries = [{"identity": "a", "frames": 100}] * 9 + [{"identity": "b", "frames": 100}]
    shares = {}
    for power in (0.0, 0.5, 1.0):
        weights = balanced_weights(entries, "identity", power)
        shares[power] = (weights[:9].sum() / weights.sum()).item()
    assert shares == pytest.approx({0.0: 0.5, 0.5: 0.75, 1.0: 0.9})  # 30 : 10 by the root


def test_a_balanced_epoch_repeats_and_is_shared_among_processes(cache: Path) -> None:
    dataset = ClipDataset(cache, [f"c{i:02d}" for i in range(20)], num_frames=8, random=True, samples_per_clip=50)
    weights = torch.ones(20)
    weights[0] = 19.0  # the first clip half of the time
    sampler = EpochSampler(dataset, 3, weights)
    sampler.set_epoch(2)
    drawn = list(sampler)
    assert drawn == list(sampler) and {epoch for epoch, _ in drawn} == {2} and len(drawn) == 1000
    assert abs(sum(i % 20 == 0 for _, i in drawn) / 1000 - 0.5) < 0.064  # four binomial deviations
    assert len(set(drawn)) == 1000 and max(i for _, i in drawn) > len(dataset)  # each time another window
    starts = {dataset[sample].landmarks[0, 0, 0].item() for sample in drawn[:100] if sample[1] % 20 == 0}
    assert len(starts) > 5
    parts = []
    for rank in range(2):
        sampler = EpochSampler(dataset, 3, weights)
        sampler.num_replicas, sampler.rank = 2, rank
        sampler.set_epoch(2)
        parts.append(list(sampler))
    assert [i for pair in zip(*parts, strict=True) for i in pair] == drawn


def test_still_pictures_are_for_pictures_alone(tmp_path: Path) -> None:
    clips = [{"name": f"c{i}"} for i in range(8)] + [{"name": "still", "frames": 2, "stills": True}]
    cache = write_cache(tmp_path / "cache", clips)
    for modality, there in (("video", True), ("landmarks", False), ("audio", False)):
        data = MEADDataModule(cache, modality=modality, test_fraction=0, val_fraction=0)
        assert ("still" in data.names("train")) == there


def test_merged_caches_hold_the_clips_of_both(tmp_path: Path) -> None:
    a = write_cache(tmp_path / "a", [{"name": "x", "identity": "a"}, {"name": "both"}])
    b = write_cache(tmp_path / "b", [{"name": "y", "identity": "b"}, {"name": "both"}])
    for cache in (a, b):
        (cache / "preprocess.json").write_text(json.dumps({"size": 8, "scale": 1.5, "layout": cache.name}))
    assert merge_caches([a, b], tmp_path / "all") == 3
    names = [e["name"] for e in read_manifest(tmp_path / "all")]
    assert names == ["both", "x", "y"]
    assert json.loads((tmp_path / "all" / "preprocess.json").read_text()) == {"size": 8, "scale": 1.5}
    for home, name in ((a, "x"), (b, "y")):
        assert equal(ClipDataset(home, [name])[0], ClipDataset(tmp_path / "all", [name])[0])
    with pytest.raises(FileExistsError):
        merge_caches([a, b], tmp_path / "all")
    (b / "preprocess.json").write_text(json.dumps({"size": 16, "scale": 1.5}))
    with pytest.raises(ValueError, match="different size"):
        merge_caches([a, b], tmp_path / "other")
    c = write_cache(tmp_path / "c", [{"name": "x", "identity": "c"}])
    with pytest.raises(ValueError, match="both have a clip 'x'"):
        merge_caches([a, c], tmp_path / "other")
    for none in ([], a, str(a)):
        with pytest.raises(ValueError, match="^caches must be a list of folders; got "):
            merge_caches(none, tmp_path / "other")
    assert not (tmp_path / "other").exists()
