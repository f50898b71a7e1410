"""`examples/ablate_renderer.py` trains on a smaller copy of any cache."""

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from talkhead.data.dataset import ClipDataset
from talkhead.data.frame_store import Store, pack_frames
from talkhead.data.manifest import checksum, clip_file, damaged_clips, json_lines, read_manifest

EXAMPLE = Path(__file__).parents[1] / "examples" / "ablate_renderer.py"


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_the_smaller_copy_of_a_cache_is_a_cache(store: Store, tiny_cache: Path, tmp_path: Path) -> None:
    """With the checksums of the large clips every one of its own was refused as damaged."""
    cache, (entry, other) = tmp_path / "cache", read_manifest(tiny_cache)[:2]
    (cache / "clips").mkdir(parents=True)
    tensors = load_file(clip_file(tiny_cache, entry["name"]))
    kept = {name: tensors[name] for name in ("landmarks", "audio")}
    content = save(kept | pack_frames(tensors["frames"], store, 95))
    clip_file(cache, entry["name"]).write_bytes(content)
    sound = other | {"frames": 0, "fps": None, "size": None}
    (cache / "manifest.jsonl").write_bytes(json_lines([entry | {"sha256": checksum(content)}, sound]))
    small = runpy.run_path(str(EXAMPLE))["shrink"](cache, tmp_path / "small", 16)
    assert damaged_clips(small) == [] and len(read_manifest(small)) == 1
    clip = ClipDataset(small, [entry["name"]], 12)[0]
    assert clip.frames is not None and clip.frames.shape == (12, 3, 16, 16)
    assert clip.landmarks is not None and torch.allclose(clip.landmarks, (tensors["landmarks"] - 0.5) / 2)
    blocks = tensors["frames"].float().unflatten(-1, (16, 2)).unflatten(-3, (16, 2)).mean((-1, -3))
    assert (clip.frames - blocks).abs().mean() < (0.5 if store == "raw" else 4)
