"""Further pictures of a person: which are kept, how they are cut, and that they reach the frames."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from talkhead.media.write import VideoWriter, write_image
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.pipeline import TalkingHeadPipeline, export_pipeline
from talkhead.schedulers import MaskNoiseBridgeScheduler
from talkhead.speaker.references import differing_mouths, load_bank, read_references
from talkhead.tracking.track import Detection
from tests.test_mouth_bank import face


class GreyTells:
    """A detector that reads the mouth's opening, px, off the picture's first grey level; 255: no face."""

    name = "grey"

    def __call__(self, image: torch.Tensor, face_: str | int = "largest", **_: object) -> Detection | None:
        opening = float(image[0].float().mean().round())
        return None if opening > 200 else Detection(face(opening), 1.0, (0.0, 0.0, 128.0, 128.0))


def picture(opening: int) -> torch.Tensor:
    return torch.full((3, 128, 128), opening, dtype=torch.uint8)


def test_the_most_open_mouth_and_those_furthest_from_it_are_kept():
    landmarks = torch.stack([face(opening) for opening in (10, 12, 0, 11, 24, 1)])
    chosen = differing_mouths(landmarks, 3)
    assert chosen[:2] == [4, 2] and chosen[2] in (0, 1, 3)
    assert sorted(differing_mouths(landmarks[:2])) == [0, 1]


def test_pictures_are_cut_as_a_portrait_is(tmp_path: Path):
    write_image(tmp_path / "a.png", picture(20))
    pictures, points = read_references([tmp_path / "a.png", picture(4)], GreyTells(), "largest", 1.5, 64)
    assert pictures.shape == (2, 3, 64, 64) and points.shape == (2, 68, 2)
    assert pictures[0].float().mean().round() == 20  # the most open first
    box = points[0].amax(0) - points[0].amin(0)
    assert box.max().item() == pytest.approx(64 / 1.5, rel=0.03)  # the crop is 1.5 boxes, in whole px


def test_a_video_gives_the_mouths_that_differ(tmp_path: Path):
    path = tmp_path / "talk.mp4"
    with VideoWriter(path, 25, (128, 128)) as video:
        for time in range(30):
            video.append(picture(255 if time < 5 else time).permute(1, 2, 0))
    pictures, _ = read_references(path, GreyTells(), "largest", 1.5, 64)
    levels = sorted(pictures.float().mean((1, 2, 3)).round().tolist())
    assert len(levels) == 4 and levels[0] <= 6 and levels[-1] >= 28


def test_what_shows_no_face_is_refused_by_name(tmp_path: Path):
    with pytest.raises(ValueError, match="references: no face"):
        read_references([picture(255)], GreyTells(), "largest", 1.5, 64)
    with pytest.raises(ValueError, match="references must hold at least one"):
        read_references([], GreyTells(), "largest", 1.5, 64)


@pytest.fixture
def pipe() -> TalkingHeadPipeline:
    renderer = Renderer(size=32, widths=(8, 16), patch=2, bank=2)
    return TalkingHeadPipeline(LandmarkNet(width=16), None, renderer, MaskNoiseBridgeScheduler())


def test_further_pictures_reach_the_mouth_and_nothing_else(pipe: TalkingHeadPipeline):
    """A renderer that takes all of the nearest picture: its green shows at the mouth, the portrait's elsewhere."""
    with torch.no_grad():
        pipe.renderer.unet.head.bias[5 * 4 : 6 * 4] = 100.0  # the fifth channel, folded by 2 x 2
    green = picture(8)
    green[1, 76:] = 208  # at the mouth: nose and cheeks tell of the same light
    options = {"landmarks": face(8.0).repeat(4, 1, 1), "reference_landmarks": face(8.0), "detector": GreyTells()}
    alone = pipe(picture(8), emotion="neutral", size=32, **options)
    helped = pipe(picture(8), emotion="neutral", size=32, references=[green], **options)
    other = picture(90)  # a mouth of 90 px is of no use to one of 8
    unhelped = pipe(picture(8), emotion="neutral", size=32, references=[other], **options)
    mouth = helped.landmarks[0, 48:68].mean(0).round().long()
    assert helped.frames[0, mouth[1], mouth[0], 1] > 150 and helped.frames[0, mouth[1], mouth[0], 0] < 20
    assert (helped.frames[:, 1, 1] == alone.frames[:, 1, 1]).all()
    assert torch.equal(unhelped.frames, alone.frames)


def test_a_speaker_brings_its_own(pipe: TalkingHeadPipeline, tmp_path: Path):
    with pytest.raises(ValueError, match="no further pictures of its speaker"):
        pipe._bank("speaker", GreyTells(), "largest")
    pictures = torch.stack([picture(4), picture(20)])[..., ::4, ::4].contiguous()
    save_file(
        {"pictures": pictures, "landmarks": torch.stack([face(4.0), face(20.0)]) / 4}, tmp_path / "bank.safetensors"
    )
    pipe.folder = tmp_path
    bank = pipe._bank("speaker", GreyTells(), "largest")
    assert torch.equal(bank[0], pictures)
    assert load_bank(tmp_path / "elsewhere", 32) is None
    with pytest.raises(ValueError, match=r"must hold pictures \(R, 3, 64, 64\)"):
        load_bank(tmp_path, 64)
    (tmp_path / "bank.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match="is no bank of mouths"):
        load_bank(tmp_path, 32)


def test_export_keeps_a_speakers_mouths(
    pipe: TalkingHeadPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("talkhead.speaker.folder.load_detector", lambda name: GreyTells())
    pipe.landmark_net.save_pretrained(tmp_path / "landmark")
    pipe.renderer.save_pretrained(tmp_path / "video" / "renderer")
    pipe.scheduler.save_pretrained(tmp_path / "video" / "scheduler")
    for opening in (4, 20):
        write_image(tmp_path / f"{opening}.png", picture(opening))
    pictures = [tmp_path / "4.png", tmp_path / "20.png"]
    made = export_pipeline(
        tmp_path / "speaker",
        landmark=tmp_path / "landmark",
        emotion=None,
        video=tmp_path / "video",
        references=pictures,
    )
    speaker = TalkingHeadPipeline.from_pretrained(made, device="cpu")
    bank = speaker._bank("speaker", GreyTells(), "largest")
    assert bank[0].shape == (2, 3, 32, 32) and bank[0][0].float().mean() == 20
    speaker.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "bank.safetensors").read_bytes() == (made / "bank.safetensors").read_bytes()


def test_a_renderer_without_a_bank_refuses_them(pipe: TalkingHeadPipeline):
    pipe.renderer = Renderer(size=32, widths=(8, 16), patch=2)
    with pytest.raises(ValueError, match="looks at one portrait alone"):
        pipe._bank([picture(4)], GreyTells(), "largest")
