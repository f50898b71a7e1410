"""Frames in the cache as JPEG: any of them, close to what they were, in less room."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_face, tiny_frames
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from test_preprocess import render, run

from talkhead import metrics
from talkhead.data.dataset import ClipDataset
from talkhead.data.frame_store import pack_frames, read_frames
from talkhead.media.jpeg import decode_jpeg, encode_jpeg
from talkhead.media.read import read_image


def portrait() -> torch.Tensor:
    """Return the bundled speaker's face as 8 frames of 120 px, each a pixel further to the right."""
    from talkhead.speaker.folder import find_folder

    picture = read_image(find_folder("bundled") / "portrait.png")
    return torch.stack([picture[:, 4:124, t : t + 120] for t in range(8)])


@pytest.mark.parametrize(("quality", "least"), [(95, 40.0), (90, 37.0)])
def test_a_round_trip_stays_within_the_stated_psnr(quality: int, least: float, tmp_path: Path) -> None:
    frames = portrait()
    tensors = pack_frames(frames, "jpeg", quality)
    save_file(tensors, tmp_path / "clip.safetensors")
    with safe_open(tmp_path / "clip.safetensors", framework="pt") as file:
        read = read_frames(file, 0, 8)
        parts = torch.cat([read_frames(file, 0, 3), read_frames(file, 3, 4), read_frames(file, 4, 8)])
    assert metrics.psnr(read, frames, reduce="none").min() > least
    assert torch.equal(parts, read)  # any window is the same frames
    assert tensors["jpeg"].numel() < 0.35 * frames.numel()


def test_the_bytes_are_jpeg_that_others_read() -> None:
    frame = portrait()[0]
    content = encode_jpeg(frame, 95)
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "JPEG" and np.array_equal(
            np.asarray(image), decode_jpeg(content).permute(1, 2, 0).numpy()
        )
    with pytest.raises(OSError):
        decode_jpeg(b"\x89PNG")


@pytest.mark.parametrize("quality", [90, 95])
def test_noise_is_encoded_too(quality: int) -> None:
    """It takes more room than Pillow provides for, unless told."""
    noise = torch.randint(0, 2, (3, 300, 300), generator=torch.manual_seed(0), dtype=torch.uint8) * 255
    assert decode_jpeg(encode_jpeg(noise, quality)).shape == noise.shape


def test_raw_is_the_frames_themselves(tmp_path: Path) -> None:
    frames = tiny_frames(torch.stack([tiny_face()] * 4))
    save_file(pack_frames(frames, "raw", 95), tmp_path / "clip.safetensors")
    with safe_open(tmp_path / "clip.safetensors", framework="pt") as file:
        assert torch.equal(read_frames(file, 1, 3), frames[1:3])


def test_a_cache_of_jpeg_serves_the_windows_of_a_raw_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    render(tmp_path / "in/a.mp4", frames=12)
    for store in ("raw", "jpeg"):
        run(tmp_path / "in", tmp_path / store, store=store)
    raw, jpeg = (ClipDataset(tmp_path / store, ["a"], 4, random=True, bank=2)[3, 0] for store in ("raw", "jpeg"))
    assert torch.equal(raw.landmarks, jpeg.landmarks) and torch.equal(raw.audio, jpeg.audio)  # type: ignore[arg-type]
    for one, other in ((raw.frames, jpeg.frames), (raw.reference, jpeg.reference), (raw.bank, jpeg.bank)):
        assert one is not None and other is not None and one.shape == other.shape
        assert metrics.psnr(other.reshape(-1, *other.shape[-3:]), one.reshape(-1, *one.shape[-3:])).mean() > 35
    assert (tmp_path / "jpeg/contact_sheet.png").is_file()
    entry = json.loads((tmp_path / "jpeg/manifest.jsonl").read_text())
    assert (
        "pillow" in entry["versions"]
        and "pillow" not in json.loads((tmp_path / "raw/manifest.jsonl").read_text())["versions"]
    )
    settings = json.loads((tmp_path / "jpeg/preprocess.json").read_text())
    assert (settings["store"], settings["quality"]) == ("jpeg", 95)
    with pytest.raises(ValueError, match="was made with store='jpeg', not None"):
        run(tmp_path / "in", tmp_path / "jpeg")
    with pytest.raises(ValueError, match="store must be one of raw, jpeg; got 'png'"):
        run(tmp_path / "in", tmp_path / "png", store="png")
    with pytest.raises(ValueError, match=r"^quality must lie in 1\.\.95; got 0$"):
        run(tmp_path / "in", tmp_path / "png", store="jpeg", quality=0)
