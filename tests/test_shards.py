"""One run's recordings in parts: what the parts make together is what one run makes, byte for byte."""

import json
from pathlib import Path

import pytest
from test_preprocess import SkinDetector, render

from talkhead.cli import main
from talkhead.data.preprocess import preprocess
from talkhead.data.shards import check_all_shards, in_shard
from talkhead.inventory.merge import merge_caches


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five recordings: one has no face, one is no video, one is long enough for two clips."""
    talks = tmp_path_factory.mktemp("talks")
    for name in ("a", "b"):
        render(talks / f"{name}.mp4", 6)
    render(talks / "long.mp4", 30)
    render(talks / "wall.mp4", 6, face=lambda t: False)
    (talks / "broken.mp4").write_bytes(b"no video")
    return talks


def test_the_shards_of_a_run_make_what_one_run_makes(talks: Path, tmp_path: Path) -> None:
    def run(output: Path, shard: tuple[int, int] | None) -> None:
        detector = SkinDetector()
        preprocess("folder", talks, output, size=16, segment_seconds=1, detector=detector, shard=shard, progress=False)

    run(tmp_path / "whole", None)
    parts = [tmp_path / f"part{i}" for i in range(1, 8)]  # of seven parts of five recordings, some are empty
    for i, part in enumerate(parts, 1):
        run(part, (i, 7))
    manifests = [(part / "manifest.jsonl").read_text() for part in parts]
    assert any(manifests) and not all(manifests)
    merge_caches(parts[::-1], tmp_path / "merged")
    whole = files(tmp_path / "whole")
    assert len(json.loads(b"[" + b",".join(whole["manifest.jsonl"].splitlines()) + b"]")) == 6
    assert files(tmp_path / "merged") == whole
    with pytest.raises(ValueError, match="the shard 2/7, 5/7 of 'talks.*' is missing"):
        merge_caches([part for i, part in enumerate(parts, 1) if i not in (2, 5)], tmp_path / "other")
    with pytest.raises(ValueError, match=r"was made with shard=\[1, 7\], not \[2, 7\]"):
        run(parts[0], (2, 7))
    with pytest.raises(ValueError, match=r"was made with shard=\[1, 7\], not None"):
        run(parts[0], None)
    with pytest.raises(ValueError, match="shard must be i/n with i from 1 to n; got 0/7"):
        run(tmp_path / "zero", (0, 7))


def test_no_run_lends_another_its_shards() -> None:
    def part(index: int, folder: str, layout: str = "folder", count: int = 2) -> dict[str, object]:
        return {"layout": layout, "input": f"/data/{folder}", "view": "front", "shard": [index, count]}

    mead, grid = [part(1, "MEAD", "mead"), part(2, "MEAD", "mead")], [part(1, "GRID"), part(2, "GRID")]
    check_all_shards([*mead, *grid, {"layout": "stills"}])
    check_all_shards([part(1, "job17"), part(2, "job18")])  # one run, its folder called after each job
    for given in ([*mead, grid[0]], [*grid, part(1, "CREMA")], [mead[0], grid[1]], [grid[0], part(1, "GRID")]):
        with pytest.raises(ValueError, match=r"the shard [12]/2 of '(MEAD|GRID|CREMA)' is missing"):
            check_all_shards(given)


def test_each_recording_has_one_shard_and_keeps_it() -> None:
    places = [f"s{n}/clip{n:04d}.mp4" for n in range(4000)]
    sizes = [sum(in_shard(place, (i, 8)) for place in places) for i in range(1, 9)]
    assert sum(sizes) == 4000
    assert all(abs(size - 500) < 4 * (4000 * 7 / 64) ** 0.5 for size in sizes)  # four standard deviations of a fair die


@pytest.mark.parametrize("shard", ["0/4", "5/4", "4", "x/4", "1/0", "-1/4"])
def test_what_is_no_shard_is_refused(shard: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["preprocess", "--layout", "folder", "--input", "i", "--output", "o", f"--shard={shard}"])
    assert f"expected I/N with I from 1 to N, such as 3/8; got '{shard}'" in capsys.readouterr().err
