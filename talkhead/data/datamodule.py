"""The cache as a LightningDataModule, shared by the three modules: splits, windows, loaders."""

from __future__ import annotations

import signal
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from talkhead.data.clip import Clip
from talkhead.data.dataset import ClipDataset, Modality, Reference, collate, read_settings, room
from talkhead.data.draws import run_seed
from talkhead.data.manifest import read_manifest
from talkhead.data.splits import Part, Split, keep_people, split_names

Balance = Literal["identity", "emotion", "view"]


class EpochSampler(DistributedSampler):
    """A shuffled sampler that hands the epoch on with each index, as ``ClipDataset`` takes it.

    The order depends on (seed, epoch) alone. Lightning sets the epoch, also when it resumes a run. Being a
    ``DistributedSampler``, it gives each process of a multi-GPU run its own share.

    Args:
        dataset: what to draw from.
        seed: of the order.
        weights: how often each clip is drawn, with replacement, each time another window; None: each sample once.
        passed_over: of the first pass leave out so many, from which a run that goes on has learnt already.
    """

    def __init__(
        self, dataset: ClipDataset, seed: int = 0, weights: Tensor | None = None, passed_over: int = 0
    ) -> None:
        group = torch.distributed.is_available() and torch.distributed.is_initialized()
        world = torch.distributed.get_world_size() if group else 1
        rank = torch.distributed.get_rank() if group else 0
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=True, seed=seed)
        self.weights, self.passed_over = weights, passed_over

    def __iter__(self) -> Iterator[Any]:
        first, self.passed_over = self.passed_over, 0
        return iter([(self.epoch, index) for index in self._order()[first:]])

    def _order(self) -> list[int]:
        if self.weights is None:
            return list(super().__iter__())
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        times: Counter[int] = Counter()
        order: list[int] = []
        for clip in torch.multinomial(self.weights, self.total_size, replacement=True, generator=generator).tolist():
            order.append(times[clip] * len(self.weights) + clip)
            times[clip] += 1
        return order[self.rank :: self.num_replicas]


class TrainingLoader(DataLoader[Clip]):
    """A loader that Lightning may go on with in the middle of an epoch: its sampler begins where that was broken off.

    All that is to be known of it Lightning keeps itself, in its counts of batches; so the state is empty.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


def balanced_weights(
    entries: list[dict[str, Any]], fields: str | Sequence[str], power: float, length: str = "frames"
) -> Tensor:
    """Return how often each clip is to be drawn, so that a group's share goes with a power of its length.

    Args:
        entries: of the manifest.
        fields: what makes a group, such as ``identity``; of several every combination that occurs is one.
        power: 1: a group is seen as often as its length says; 0: all groups equally often; 0.5: between, by the root.
        length: the field that says how long a clip is; of those with sound alone ``samples``.

    Returns:
        (N,) float64 weights.
    """
    names = [fields] if isinstance(fields, str) else list(fields)
    group = [tuple(entry.get(name, "") for name in names) for entry in entries]
    lengths = [max(entry[length], 1) for entry in entries]
    size: dict[Any, float] = {}
    for key, count in zip(group, lengths, strict=True):
        size[key] = size.get(key, 0.0) + count
    share = [size[key] ** power * count / size[key] for key, count in zip(group, lengths, strict=True)]
    return torch.tensor(share, dtype=torch.float64)


class MEADDataModule(LightningDataModule):
    """The clips of one cache for training, validation and test; any layout, not MEAD's alone.

    Batches are ``Clip`` records with a leading B. Training draws random windows with a reference frame from elsewhere
    in the clip; validation and test take each clip's middle window; predict gives the test part's clips whole, one at
    a time, with the first frame as reference. Clips shorter than ``num_frames`` are left out, with a warning that
    counts them.

    Args:
        root: the cache folder that ``talkhead preprocess`` wrote.
        batch_size: clips per batch, B.
        num_frames: T of a window; None: whole clips.
        modality: ``video`` and ``landmarks`` use the clips with a picture, ``landmarks`` without reading the frames;
            ``audio`` uses the sound of everything: in training a random stretch of ``audio_seconds``, otherwise whole
            recordings padded to the batch's longest.
        split: by ``clip``, ``sentence`` or ``identity``; see ``split_names``.
        test_fraction: of the clips, sentences or speakers.
        val_fraction: likewise.
        split_seed: of the split alone. Order and windows belong to the run's seed (``run_seed``), so that a second run
            on the same split is one with another ``seed_everything``.
        fold: which test part of a cross-validation.
        held_out: names of the clips that are the test part, in place of a split: all others are for training.
        num_workers: processes that read; on a GPU enough that it never waits (``--config gpu``: 8).
        prefetch: batches that each of them has ready.
        pin_memory: hand batches over in page-locked memory, from which a GPU copies beside its work; None: where there
            is a GPU.
        audio_seconds: length of the stretches in modality ``audio``.
        samples_per_clip: windows drawn from each training clip per epoch.
        reference: ``random`` or ``first`` frame of the clip.
        bank: further pictures of the same person in each training sample; see ``ClipDataset``.
        balance: ``identity``, ``emotion``, ``view``, or a list of them: draw training clips so that these, or their
            combinations, are seen more evenly; None: each clip once an epoch.
        balance_power: 0: all groups equally often; 0.5: in proportion to the root of their length; see
            ``balanced_weights``.
        identities: take these people's clips alone; None: everybody's.
        unseen: people all of whose clips are test: nobody learns from them, and ``evaluate`` tells them apart.

    Raises:
        FileNotFoundError: if ``root`` is no cache (when first used).
        ValueError: if an argument is out of range, or no clip of the cache can be used.
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 8,
        num_frames: int | None = 16,
        modality: Modality = "video",
        split: Split = "clip",
        test_fraction: float = 0.1,
        val_fraction: float = 0.05,
        split_seed: int = 0,
        fold: int = 0,
        held_out: list[str] | None = None,
        num_workers: int = 0,
        prefetch: int = 2,
        pin_memory: bool | None = None,
        audio_seconds: float = 4.0,
        samples_per_clip: int = 1,
        reference: Reference = "random",
        bank: int = 0,
        balance: Balance | list[Balance] | None = None,
        balance_power: float = 0.0,
        identities: list[str] | None = None,
        unseen: list[str] | None = None,
    ) -> None:
        super().__init__()
        root = str(root)  # a Path in a checkpoint would need unsafe loading
        for name, value, choices in (("modality", modality, Modality), ("reference", reference, Reference)):
            if value not in get_args(choices):
                raise ValueError(f"data.{name} must be one of {', '.join(get_args(choices))}; got {value!r}")
        counts = {"batch_size": batch_size, "num_frames": num_frames or 1, "samples_per_clip": samples_per_clip}
        counts["prefetch"] = prefetch
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"data.{name} must be at least 1; got {count}")
        for field in [balance] if isinstance(balance, str) else balance or ():
            if field not in get_args(Balance):
                raise ValueError(f"data.balance must be of {', '.join(get_args(Balance))}; got {field!r}")
        if audio_seconds <= 0:
            raise ValueError(f"data.audio_seconds must be above 0; got {audio_seconds}")
        # Not to the logger: the module's own hyperparameters may use the same names.
        self.save_hyperparameters(logger=False)
        self.root = root
        self.batch_size = batch_size
        self.num_frames = num_frames
        self.modality: Modality = modality
        self.num_workers, self.prefetch = num_workers, prefetch
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.audio_seconds = audio_seconds
        self.samples_per_clip = samples_per_clip
        self.reference: Reference = reference
        self.bank = bank
        self.balance, self.balance_power = balance, balance_power
        self.identities, self.unseen = identities, list(unseen or ())
        self._split = (split, test_fraction, val_fraction, split_seed, fold)
        self._held_out = held_out

    @cached_property
    def entries(self) -> dict[str, dict[str, Any]]:
        """The manifest's usable entries by name."""
        done = [e for e in read_manifest(self.root) if e["status"] == "ok"]
        if not done:
            raise ValueError(f"data.root: {self.root!r} has no usable clip; see the reasons in its manifest.jsonl")
        return {e["name"]: e for e in keep_people(done, self.identities, self.unseen)}

    @cached_property
    def _parts(self) -> dict[str, list[str]]:
        if self._held_out is not None:
            names = sorted(self.entries)
            if unknown := sorted(set(self._held_out) - set(names)):
                raise ValueError(
                    f"data.held_out: {unknown[0]!r} is no usable clip of {self.root!r}; choose of its manifest"
                )
            test = [name for name in names if name in self._held_out]
            return {"train": [name for name in names if name not in test], "val": [], "test": test}
        return split_names(list(self.entries.values()), *self._split, unseen=self.unseen)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What all clips with a picture have in common and a speaker made of them must know.

        ``size`` (px), ``fps`` (a fraction as text), ``crop_scale`` and ``detector``, each where it is one for all.
        """
        settings = read_settings(self.root)
        video = [e for e in self.entries.values() if e["frames"]]
        told = {name: {e.get(name) for e in video} - {None} for name in ("size", "fps", "detector")}
        told["crop_scale"] = {settings["scale"]} if video and "scale" in settings else set()
        return {name: values.pop() for name, values in told.items() if len(values) == 1}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the cache: ``facts``."""
        return {"cache": self.facts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with a training on a cache of other frames."""
        before = state_dict.get("cache", {})
        fitting = self.trainer is not None and self.trainer.state.fn == "fit"
        for name, value in self.facts.items() if fitting else ():
            if before.get(name, value) != value:
                raise ValueError(
                    f"data.root: {self.root!r} has {name}={value}, and the checkpoint was trained with "
                    f"{name}={before[name]}; give a cache made with the same, or start anew"
                )

    def names(self, part: Part) -> list[str]:
        """Return the names of the clips of ``part`` (train, val or test) that this modality can use, sorted."""
        if part not in self._parts:
            raise ValueError(f"part must be train, val or test; got {part!r}")
        return [n for n in self._parts[part] if self._usable(self.entries[n])]

    def _usable(self, entry: dict[str, Any]) -> bool:
        """Still pictures show no motion and say nothing: they are for pictures alone."""
        if entry.get("stills"):
            return self.modality == "video"
        return self.modality == "audio" or bool(entry["frames"])

    def setup(self, stage: str | None = None) -> None:
        """Read the manifest, so that a wrong ``root`` is reported before anything else starts."""
        video = [e for e in self.entries.values() if e["frames"]]
        if self.modality == "audio":
            return
        if not video:
            raise ValueError(f"data.root: {self.root!r} holds sound alone; this module needs clips with a picture")
        rates = sorted({e["fps"] for e in video})
        if len(rates) > 1 and self.batch_size > 1:
            raise ValueError(
                f"data.root: {self.root!r} mixes the frame rates {', '.join(rates)}; preprocess the recordings with "
                f"--fps {rates[0]}, keep a cache for each, or set data.batch_size=1"
            )

    def dataset(self, part: Part, random: bool = False, num_frames: int | None = None) -> ClipDataset:
        """Return the clips of ``part``.

        Args:
            part: train, val or test.
            random: random windows (and stretches of ``audio_seconds``) instead of middle ones (whole recordings).
            num_frames: T of the windows; None: whole clips.

        Returns:
            The dataset; clips shorter than ``num_frames`` are left out with a warning that counts them.
        """
        names = self.names(part)
        if self.modality != "audio" and num_frames:
            long_enough = [n for n in names if room(self.entries[n]) >= num_frames]
            if len(long_enough) < len(names):
                warnings.warn(
                    f"data: {len(names) - len(long_enough)} of {len(names)} {part} clips are left out, "
                    f"they are shorter than num_frames={num_frames}",
                    stacklevel=2,
                )
            names = long_enough
        return ClipDataset(
            self.root,
            names,
            num_frames,
            self.audio_seconds if random else None,
            random,
            run_seed(),
            modality=self.modality,
            samples_per_clip=self.samples_per_clip,
            reference=self.reference,
            bank=self.bank if random else 0,
        )

    def train_dataloader(self) -> DataLoader[Clip]:
        """Return shuffled batches of random windows."""
        dataset = self.dataset("train", random=True, num_frames=self.num_frames)
        if not len(dataset):
            raise ValueError(
                f"data.num_frames: no training clip of {self.root!r} has {self.num_frames} frames; lower it"
            )
        weights = None
        if self.balance:
            length = "samples" if self.modality == "audio" else "frames"
            weights = balanced_weights(dataset.entries, self.balance, self.balance_power, length)
        sampler = EpochSampler(dataset, run_seed(), weights, self._batches_learnt() * self.batch_size)
        if self.trainer is not None:  # processes begin to read before Lightning says which epoch it is
            sampler.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        return TrainingLoader(dataset, self.batch_size, sampler=sampler, **self._reading())

    def _batches_learnt(self) -> int:
        """Return from how many batches a run that goes on within an epoch has learnt."""
        if self.trainer is None or not self.trainer.fit_loop.epoch_loop.restarting:
            return 0
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        ended = progress.is_last_batch and progress.current.processed == progress.current.ready
        return 0 if ended else progress.current.processed

    def val_dataloader(self) -> DataLoader[Clip] | list[Any]:
        """Return batches of each validation clip's middle window; nothing if there are none.

        People and cameras take turns, each in order of name: ``limit_val_batches`` looks at all of them, not at one.
        """
        return self._ordered("val")

    def test_dataloader(self) -> DataLoader[Clip] | list[Any]:
        """Return batches of each test clip's middle window, in order of name; nothing if there are none."""
        return self._ordered("test")

    def predict_dataloader(self) -> DataLoader[Clip]:
        """Return the test part's whole clips, one at a time, the first frame as reference, in order of name."""
        dataset = self.dataset("test")
        dataset.reference = "first"
        return self._loader(dataset, batch_size=1)

    def _ordered(self, part: Part) -> DataLoader[Clip] | list[Any]:
        dataset = self.dataset(part, num_frames=self.num_frames)
        if part == "val":
            dataset.entries = _taking_turns(dataset.entries)
        whole = self.num_frames is None and self.modality != "audio"
        return self._loader(dataset, batch_size=1 if whole else self.batch_size) if len(dataset) else []

    def _loader(self, dataset: ClipDataset, batch_size: int) -> DataLoader[Clip]:
        return DataLoader(dataset, batch_size=batch_size, **self._reading())  # by name: predict sets it anew

    def _reading(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "prefetch_factor": self.prefetch if self.num_workers else None,
            "collate_fn": collate,
            "pin_memory": self.pin_memory,
            "worker_init_fn": _leave_ctrl_c,
        }


def _taking_turns(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return entries so that the first of each person from each camera come first, then the second, and so on."""
    seen: Counter[Any] = Counter()
    turns: list[int] = []
    for entry in entries:
        whose = entry["identity"], entry.get("view", "")
        turns.append(seen[whose])
        seen[whose] += 1
    return [entries[place] for place in sorted(range(len(entries)), key=turns.__getitem__)]


def _leave_ctrl_c(_: int) -> None:
    """Leave Ctrl-C to the process that trains: it still asks for a batch before it hears of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
