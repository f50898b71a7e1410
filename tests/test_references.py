"""Further pictures of a person: which are kept, how they are cut, and that they reach the frames."""

import io
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest
import torch
from safetensors.torch import save_file

from talkhead.face.mouth_bank import mouth_bank
from talkhead.face.points import EYELIDS
from talkhead.face.portrait import crop_portrait
from talkhead.media.write import MediaWarning, VideoWriter, write_image
from talkhead.metrics.liveliness import NOSE_FORWARD
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer
from talkhead.pipeline import TalkingHeadPipeline, export_pipeline
from talkhead.schedulers import MaskNoiseBridgeScheduler
from talkhead.speaker.references import (
    MOST,
    _as_turned,
    _spread,
    bank_for,
    differing_mouths,
    in_light_of,
    load_bank,
    read_references,
)
from talkhead.tracking.track import Detection
from tests.conftest import speech, tiny_face
from tests.test_mouth_bank import face


class GreyTells:
    """A detector that reads the mouth's opening, px, off the picture's first grey level; 255: no face."""

    name = "grey"

    def __call__(self, image: torch.Tensor, face_: str | int = "largest", **_: object) -> Detection | None:
        opening = float(image[0].float().mean().round())
        return None if opening > 200 else Detection(face(opening), 1.0, (0.0, 0.0, 128.0, 128.0))


def picture(opening: int) -> torch.Tensor:
    return torch.full((3, 128, 128), opening, dtype=torch.uint8)


def pil(pixels: torch.Tensor) -> PIL.Image.Image:
    return PIL.Image.fromarray(pixels.permute(1, 2, 0).numpy())


def png(pixels: torch.Tensor) -> bytes:
    file = io.BytesIO()
    pil(pixels).save(file, "PNG")
    return file.getvalue()


PORTRAIT = crop_portrait(picture(8), face(8.0), 1.5, 32)


def further_of(pipe: TalkingHeadPipeline, references) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the pipeline is given for the portrait."""
    own, crop = (PORTRAIT.face, PORTRAIT.reference_landmarks), (1.5, PORTRAIT.crop.side)
    return bank_for(references, pipe.folder, pipe.renderer.config, GreyTells, "largest", crop, own)


@pytest.fixture(autouse=True)
def no_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talkhead.speaker.references.can_describe_faces", lambda: False)


def test_the_most_open_mouth_and_those_furthest_from_it_are_kept():
    landmarks = torch.stack([face(opening) for opening in (10, 12, 0, 11, 24, 1)])
    chosen = differing_mouths(landmarks, 3)
    assert chosen[:2] == [4, 2] and chosen[2] in (0, 1, 3)
    assert sorted(differing_mouths(landmarks[:2])) == [0, 1]
    turned = landmarks[4].clone()
    turned[30] += torch.tensor([6.0, 0.0])  # the nose's tip
    assert differing_mouths(torch.cat([landmarks[4:5].repeat(3, 1, 1), turned[None]]), 2) == [0, 3]


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
        for time in range(50):
            video.append(picture(255 if time < 5 else time).permute(1, 2, 0))
    pictures, _ = read_references(path, GreyTells(), "largest", 1.5, 64)
    levels = sorted(pictures.float().mean((1, 2, 3)).round().tolist())
    assert len(levels) == MOST < 45 and levels[0] <= 6 and levels[-1] >= 48


@pytest.mark.parametrize("name", ["talk", "talk.MTS", "talk.gif"])
def test_what_moves_is_a_video_whatever_its_name(name: str, tmp_path: Path):
    path, levels = tmp_path / name, [10, 40, 70]
    if name.endswith("gif"):
        first, *others = (pil(picture(level)) for level in levels)
        first.save(path, save_all=True, append_images=others, duration=40)
    else:
        with VideoWriter(tmp_path / "talk.mp4", 25, (128, 128)) as video:
            for level in levels:
                video.append(picture(level))
        (tmp_path / "talk.mp4").rename(path)
    found, _ = read_references(path, GreyTells(), "largest", 1.5, 64)
    assert sorted(found.float().mean((1, 2, 3)).round().tolist()) == pytest.approx(levels, abs=1)


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_what_stands_still_is_a_picture_whatever_its_name(kind: str, tmp_path: Path):
    pil(picture(10)).save(tmp_path / f"one.{kind[:1]}", kind)
    assert len(read_references(tmp_path / f"one.{kind[:1]}", GreyTells(), "largest", 1.5, 64)[0]) == 1


def test_few_frames_of_a_large_video_are_held():
    frames = (torch.tensor(n, dtype=torch.uint8).expand(3, 2160, 3840) for n in range(200))
    kept = [int(frame[0, 0, 0]) for frame in _spread(frames)]
    assert 16 <= len(kept) <= 43 and len({after - before for before, after in itertools.pairwise(kept)}) == 1
    small = [int(frame[0, 0, 0]) for frame in _spread(torch.tensor([n]).expand(3, 8, 8) for n in range(200))]
    assert 60 <= len(small) <= 120 and small[-1] > 190


def test_what_shows_no_face_is_refused_by_name(tmp_path: Path):
    with pytest.raises(ValueError, match="references: no face"):
        read_references([picture(255)], GreyTells(), "largest", 1.5, 64)
    with pytest.raises(ValueError, match="references must hold at least one"):
        read_references([], GreyTells(), "largest", 1.5, 64)


@pytest.mark.parametrize("kind", [lambda p: p, lambda p: p.permute(1, 2, 0).numpy(), pil, png, lambda p: (p,)])
def test_one_picture_of_any_kind_is_one_reference(kind: Callable[[torch.Tensor], object]):
    listed, _ = read_references([picture(20)], GreyTells(), "largest", 1.5, 64)
    alone, _ = read_references(kind(picture(20)), GreyTells(), "largest", 1.5, 64)
    assert torch.equal(alone, listed)


def test_what_is_no_picture_is_refused_as_a_reference(tmp_path: Path):
    for wrong in (torch.zeros(3, 8, 8), 7, [None]):
        with pytest.raises(ValueError, match="^references must be a file, its bytes"):
            read_references(wrong, GreyTells(), "largest", 1.5, 64)
    with pytest.raises(FileNotFoundError, match="^references: no such file"):
        read_references(tmp_path / "absent.png", GreyTells(), "largest", 1.5, 64)


class Several(GreyTells):
    """A detector that sees as many faces as the picture's second channel says, each 2 px further open."""

    def __call__(self, image: torch.Tensor, face: str | int = "largest") -> Detection | None:
        place = face if isinstance(face, int) else 0
        return super().__call__(image[:1] + 2 * place) if place < int(image[1, 0, 0]) else None


def several(count: int, opening: int = 20) -> torch.Tensor:
    one = picture(opening)
    one[1] = count
    return one


@pytest.mark.parametrize("index", [1, 2])
def test_a_reference_with_one_face_leaves_no_choice(index: int, tmp_path: Path):
    """``face`` is of the group portrait: of a group again that one, alone the only one, and never another's."""
    expected = read_references([several(1)], Several(), "largest", 1.5, 64)
    assert torch.equal(read_references([several(1)], Several(), index, 1.5, 64)[1], expected[1])
    group = read_references([several(3)], Several(), index, 1.5, 64)[1]
    assert torch.equal(group, read_references([several(1, 20 + 2 * index)], Several(), 0, 1.5, 64)[1])
    for none in (several(0), several(index)) if index > 1 else (several(0),):
        with pytest.raises(
            ValueError, match=rf"references: no face \({index}\) was found in picture 0 by the detector"
        ):
            read_references([none], Several(), index, 1.5, 64)


def test_of_a_groups_video_no_frame_lends_anothers_mouth(monkeypatch: pytest.MonkeyPatch):
    """Where the second face is seen in one frame, those with the first alone are left out."""
    monkeypatch.setattr("talkhead.speaker.references.iter_frames", lambda _: iter([several(1), several(2), several(1)]))
    assert len(read_references("group.mp4", Several(), 1, 1.5, 64)[0]) == 1
    monkeypatch.setattr("talkhead.speaker.references.iter_frames", lambda _: iter([several(1), several(1)]))
    assert len(read_references("alone.mp4", Several(), 1, 1.5, 64)[0]) == 2


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
        further_of(pipe, "speaker")
    pictures = torch.stack([picture(4), picture(20)])[..., ::4, ::4].contiguous()
    save_file(
        {"pictures": pictures, "landmarks": torch.stack([face(4.0), face(20.0)]) / 4}, tmp_path / "bank.safetensors"
    )
    pipe.folder = tmp_path
    bank = further_of(pipe, "speaker")
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
    bank = further_of(speaker, "speaker")
    assert bank[0].shape == (2, 3, 32, 32) and bank[0][0].float().mean() == 20
    speaker.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "bank.safetensors").read_bytes() == (made / "bank.safetensors").read_bytes()


def test_a_renderer_without_a_bank_refuses_them(pipe: TalkingHeadPipeline):
    pipe.renderer = Renderer(size=32, widths=(8, 16), patch=2)
    with pytest.raises(ValueError, match="looks at one portrait alone"):
        further_of(pipe, [picture(4)])


class Turned(GreyTells):
    """A detector that turns the head by the picture's second channel, in degrees: the nose's tip moves aside."""

    def __call__(self, image: torch.Tensor, face_: str | int = "largest", **_: object) -> Detection | None:
        found = super().__call__(image)
        assert found is not None
        found.landmarks[30] += torch.tensor([NOSE_FORWARD * 50 * math.sin(math.radians(float(image[1, 0, 0]))), 0.0])
        return found


def turned(degrees: int) -> torch.Tensor:
    one = picture(20)
    one[1] = degrees
    return one


def test_a_turned_head_is_refused_by_name_and_left_out_of_a_video(tmp_path: Path):
    portrait = (picture(8), face(8.0))
    given = {"detector": Turned(), "face": "largest", "scale": 1.5, "size": 64, "portrait": portrait}
    assert read_references([turned(24)], **given)[0].shape == (1, 3, 64, 64)
    with pytest.raises(ValueError, match="references: the head in picture 1 is turned 30 degrees .* within 25"):
        read_references([turned(5), turned(30)], **given)
    write_image(tmp_path / "side.png", turned(40))
    with pytest.raises(ValueError, match=r"side.png' is turned 40 degrees"):
        read_references(tmp_path / "side.png", **given)
    kept = _as_turned([(turned(d), Turned()(turned(d)).landmarks) for d in (40, 3)], face(8.0), "a video")
    assert [int(one[1, 0, 0]) for one, _ in kept] == [3]


def test_another_person_is_warned_of_by_name(monkeypatch: pytest.MonkeyPatch):
    """Descriptors 0.59 and 0.61 from the portrait's: the second is said to be another."""
    monkeypatch.setattr("talkhead.speaker.references.can_describe_faces", lambda: True)
    monkeypatch.setattr(
        "talkhead.speaker.references.describe_faces", lambda frames, points: frames[:, :1, 0, 0].float() / 100
    )
    given = (GreyTells(), "largest", 1.5, 64, (picture(0), face(0.0)))
    with pytest.warns(MediaWarning, match="picture 1 seems to show another person"):
        pictures, _ = read_references([picture(59), picture(61)], *given)
    assert len(pictures) == 2  # it is the user's choice
    read_references([picture(59)], *given)  # no warning


def test_a_face_much_smaller_than_the_portraits_is_warned_of():
    """The square around the face is 75 px: half of 150."""
    given = (GreyTells(), "largest", 1.5)
    read_references([picture(8)], *given, 150, (picture(8), face(8.0)))
    with pytest.warns(MediaWarning, match="picture 0 has less than half"):
        read_references([picture(8)], *given, 152, (picture(8), face(8.0)))


def test_shut_eyes_change_nothing_below_them(pipe: TalkingHeadPipeline):
    """A further picture gives the lower face alone: with its lids shut the frames stay the same."""
    points = torch.stack([tiny_face(32, 0.8)] * 2)[None]
    shut = points[0, 0].clone()
    for upper, lower in EYELIDS:
        shut[[upper, lower]] = points[0, 0, [upper, lower]].mean(0)
    points[0, 1] = shut
    pictures = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 6), (32, 32), mode="bicubic")[:, None]
    frame, own = tiny_face(32, 0.7)[None, None], tiny_face(32, 0.0)[None]
    seen = [mouth_bank(pictures, one[None, None], pictures[:, 0], own, frame, 1)[0, 0] for one in points[0]]
    below = int(frame[0, 0, 33, 1]) + 2
    assert (seen[0][:3] * seen[0][3:] - seen[1][:3] * seen[1][3:])[..., below:, :].abs().max() < 0.04


def test_pictures_are_brought_to_the_portraits_light(pipe: TalkingHeadPipeline):
    """A picture twice as dark, a third redder, comes out as the portrait is."""
    shades = torch.tensor([120, 90, 60], dtype=torch.uint8)[:, None, None]
    portrait = crop_portrait(shades.expand(3, 72, 72).contiguous(), tiny_face(72), 1.5, 32)
    other = (shades.expand(1, 3, 72, 72) * torch.tensor([0.67, 0.5, 0.5])[:, None, None]).round().to(torch.uint8)
    brought, _ = in_light_of((other, tiny_face(72)[None]), portrait.face, portrait.reference_landmarks)
    assert (brought.float() - shades).abs().max() <= 1


@pytest.mark.parametrize("frame", ["crop", "full"])
def test_a_live_face_has_the_offline_ones_mouths(pipe: TalkingHeadPipeline, frame: str):
    """A renderer that takes all of the nearest picture, a green mouth; full: at the picture's own size, its detail."""
    with torch.no_grad():
        pipe.renderer.unet.head.bias[5 * 4 : 6 * 4] = 100.0
    own, green = picture(8), picture(8)
    green[1, 76:] = 70 + 60 * (torch.arange(128) % 2)
    options = {"reference_landmarks": face(8.0), "detector": GreyTells(), "frame": frame, "teeth": 0.0}
    sound = speech(0.4)
    live = pipe.live(own, references=[green], look_ahead=1.0, hop=4, **options)
    shown = torch.cat((live.push(sound).frames, live.flush().frames)).float()
    options |= {"emotion": "neutral", "num_inference_steps": 1, "window": 4, "overlap": 0}
    offline = pipe(own, sound, references=[green], **options).frames.float()
    alone = pipe(own, sound, **options).frames.float()
    assert (shown - offline).abs().mean() < 0.1, "another order of sums"
    assert (shown - alone).abs().mean() > 1


def test_their_detail_reaches_a_frame_larger_than_painted(pipe: TalkingHeadPipeline):
    """Green lines of one px, which 32 px cannot hold, on an even portrait: at the mouth they are there, above not."""
    with torch.no_grad():
        pipe.renderer.unet.head.bias[5 * 4 : 6 * 4] = 100.0  # the odds of the nearest picture
    own, lined = picture(8), picture(8)
    own[1], lined[1] = 100, 70 + 60 * (torch.arange(128) % 2)
    options = {"landmarks": face(8.0).repeat(4, 1, 1), "reference_landmarks": face(8.0), "detector": GreyTells()}
    frame = pipe(own, emotion="neutral", frame="full", references=[lined], **options).frames[0, ..., 1].float()
    assert frame[84:92, 56:72].diff(dim=1).abs().mean() > 40
    assert frame[45:55, 56:72].diff(dim=1).abs().mean() < 4
