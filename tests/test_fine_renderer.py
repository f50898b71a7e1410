"""Large faces are painted by the finer renderer, where a speaker has one; all others are painted as without it."""

from pathlib import Path

import pytest
import torch
from conftest import shaken, speech, tiny_face, tiny_pipeline

from talkhead.media.write import write_image
from talkhead.nets.renderer import Renderer
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.speaker.folder import FINE, load_fine_renderer
from talkhead.speaker.hub import speaker_files
from talkhead.speaker.references import fitting_renderer

POINTS = tiny_face(150)  # of a face whose square is larger than 64 px


def fine() -> Renderer:
    torch.manual_seed(2)
    return shaken(Renderer(size=64, widths=(8, 16), patch=4), 0.1).eval()


def picture(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    noise = torch.nn.functional.interpolate(torch.rand(1, 3, 30, 30) * 255, (150, 150), mode="bilinear")[0]
    write_image(tmp_path / "portrait.png", noise.to(torch.uint8))
    return tmp_path / "portrait.png"


def video(pipe: TalkingHeadPipeline, image: Path, **options) -> torch.Tensor:
    return pipe(image, speech(0.4), reference_landmarks=POINTS, emotion="neutral", **options).frames


def test_the_portrait_and_what_is_shown_decide():
    """Nine tenths of its 64 px are enough, in both."""
    plain, finer = Renderer(size=32, widths=(8, 16), patch=2), fine()
    chosen = {
        (side, shown): fitting_renderer(plain, finer, side, shown) is finer
        for side, shown in [(57.7, None), (57.5, None), (200.0, 58), (200.0, 57), (40.0, 512)]
    }
    assert chosen == {
        (57.7, None): True,
        (57.5, None): False,
        (200.0, 58): True,
        (200.0, 57): False,
        (40.0, 512): False,
    }
    assert fitting_renderer(plain, None, 512.0, None) is plain


@pytest.mark.parametrize("options", [{}, {"frame": "full"}, {"size": 80}])
def test_a_large_face_is_painted_by_it(tmp_path: Path, options: dict):
    both, alone, plain = tiny_pipeline(), tiny_pipeline(), tiny_pipeline()
    both.fine_renderer, alone.renderer = fine(), fine()
    image = picture(tmp_path)
    painted = video(both, image, **options)
    assert torch.equal(painted, video(alone, image, **options))
    assert not torch.equal(painted, video(plain, image, **options))


def test_small_frames_are_painted_as_without_it(tmp_path: Path):
    both, plain = tiny_pipeline(), tiny_pipeline()
    both.fine_renderer = fine()
    image = picture(tmp_path)
    assert torch.equal(video(both, image, size=48), video(plain, image, size=48))


def test_it_is_kept_in_the_speakers_folder_and_may_be_kept_in_half_precision(tmp_path: Path):
    pipe = tiny_pipeline()
    pipe.fine_renderer = fine()
    pipe.save_pretrained(tmp_path / "speaker")
    again = TalkingHeadPipeline.from_pretrained(tmp_path / "speaker", device="cpu")
    assert again.fine_renderer is not None
    for name, value in pipe.fine_renderer.state_dict().items():
        assert torch.equal(again.fine_renderer.state_dict()[name], value), name
    assert f"{FINE}/config.json" in speaker_files(tmp_path / "speaker")
    fine().half().save_pretrained(tmp_path / "half" / FINE)
    half = load_fine_renderer(tmp_path / "half")
    assert half is not None and half.dtype == torch.float32
    for name, value in pipe.fine_renderer.state_dict().items():
        torch.testing.assert_close(half.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    assert load_fine_renderer(tmp_path) is None


def test_kept_in_half_precision_it_does_not_grow(tmp_path: Path):
    """Loaded and saved it is the same file but for its head, and loaded again the same network."""
    pipe = tiny_pipeline()
    fine().half().save_pretrained(tmp_path / "first" / FINE)
    pipe.fine_renderer = once = load_fine_renderer(tmp_path / "first")
    assert once is not None
    pipe.save_pretrained(tmp_path / "second")
    again = load_fine_renderer(tmp_path / "second")
    assert again is not None and once.dtype == again.dtype == torch.float32  # the one that is saved stays as it was
    for name, value in once.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    weights = [next((tmp_path / which / FINE).glob("*.safetensors")).stat().st_size for which in ("first", "second")]
    assert weights[0] == weights[1]
    next(once.parameters()).data.view(-1)[0] = 1 / 3  # one weight that half precision has not
    pipe.save_pretrained(tmp_path / "third")
    third = load_fine_renderer(tmp_path / "third")
    assert third is not None and next(third.parameters()).view(-1)[0].item() == pytest.approx(1 / 3, abs=1e-7)


def test_a_damaged_one_is_named(tmp_path: Path):
    fine().save_pretrained(tmp_path / FINE)
    (tmp_path / FINE / "config.json").write_text("{")
    with pytest.raises(ValueError, match="damaged or incomplete"):
        load_fine_renderer(tmp_path)
