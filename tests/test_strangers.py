"""The bundled renderer on faces it has never seen: better than the spline, and still that person."""

import importlib.util
from itertools import islice
from statistics import fmean

import pytest
import torch
from torch import Tensor

from talkhead.data.clip import EMOTIONS, Clip, emotion_probabilities
from talkhead.evaluate.rows import Truth, make_truth, paint_model, paint_repeated, paint_warped, score_pictures
from talkhead.face.crop import crop_frames
from talkhead.face.portrait import crop_portrait
from talkhead.face.warp import thin_plate_spline_warp
from talkhead.media.read import iter_frames, read_audio
from talkhead.metrics import mouth_box, psnr
from talkhead.pipeline import Portrait, TalkingHeadPipeline
from talkhead.tracking.portrait import find_face, read_portrait
from talkhead.tracking.track import LandmarkDetector, load_detector, track_landmarks

HAS_DLIB = all(importlib.util.find_spec(name) for name in ("dlib", "face_recognition_models"))
pytestmark = pytest.mark.skipif(not HAS_DLIB, reason="dlib-bin and face-recognition-models are not installed")

# One clip of each of GRID's speakers s2 to s9; the renderer was trained on s1.
CLIPS = (
    "s2_pbwp6s.mp4",
    "s3_lwwz6n.mp4",
    "s4_lgbmzs.mp4",
    "s5_srahzn.mp4",
    "s6_bbae7n.mp4",
    "s7_bbae6n.mp4",
    "s8_bbae5n.mp4",
    "s9_bbae4n.mp4",
)
FRAMES = 25
STILL_THAT_PERSON = 25.0  # dB; the test holds it against pictures in which the training speaker shows


@pytest.fixture(scope="module")
def pipe() -> TalkingHeadPipeline:
    return TalkingHeadPipeline.from_pretrained("bundled")


@pytest.fixture(scope="module")
def detector() -> LandmarkDetector:
    return load_detector("dlib")


def read_truth(path, pipe: TalkingHeadPipeline, detector: LandmarkDetector) -> Truth:
    """Read a clip's first frames, cut as the pipeline cuts a portrait: around the face in the first of them."""
    frames = torch.stack(list(islice(iter_frames(path), FRAMES)))
    landmarks, _ = track_landmarks(frames, detector)
    portrait = crop_portrait(frames[0], landmarks[0], pipe.info["crop_scale"], pipe.renderer.config.size)
    clip = Clip(
        audio=torch.zeros(FRAMES * 640),
        emotion=torch.tensor(EMOTIONS.index("neutral")),
        fps=torch.tensor(25.0),
        samples=torch.tensor(FRAMES * 640),
        frames=crop_frames(frames, portrait.crop, pipe.renderer.config.size),
        landmarks=portrait.to_face(landmarks),
    )
    return make_truth(clip, None)


def score_rows(truth: Truth, pipe: TalkingHeadPipeline) -> dict[str, dict[str, float]]:
    """Score the still portrait, the warp and the renderer at the bundle's own settings."""
    options = {key: pipe.info[key] for key in ("num_inference_steps", "window", "overlap")}
    rows = {
        "still": paint_repeated(truth),
        "warp": paint_warped(truth),
        "ours": paint_model(pipe, truth, truth.landmarks, emotion_probabilities("neutral"), options),
    }
    return {row: score_pictures(painting.frames, truth, None, 0, 1) for row, painting in rows.items()}


def test_strangers_are_painted_no_worse_than_the_warp_paints_them(shared_data, pipe, detector):
    folder = shared_data("grid_other")
    clips = {name: score_rows(read_truth(folder / name, pipe, detector), pipe) for name in CLIPS}
    mean = {
        row: {key: fmean(clip[row][key] for clip in clips.values()) for key in ("psnr", "ssim")}
        for row in ("still", "warp", "ours")
    }
    assert mean["warp"]["psnr"] > mean["still"]["psnr"] + 1  # the landmarks are right, so the bar is a bar
    assert mean["ours"]["psnr"] >= mean["warp"]["psnr"], clips
    assert mean["ours"]["ssim"] >= mean["warp"]["ssim"], clips


def bend(portrait: Portrait, landmarks: Tensor) -> Tensor:
    """Return (T, 3, s, s) uint8: the portrait bent to (T, 68, 2) px landmarks of its crop."""
    face, source = portrait.face[None].float(), portrait.reference_landmarks[None]
    return thin_plate_spline_warp(face, source, landmarks[None])[0].round().clamp(0, 255).to(torch.uint8)


def test_a_photograph_speaks_and_stays_that_person(pipe, detector):
    data = pytest.importorskip("skimage.data")
    picture = read_portrait(data.astronaut())
    points = find_face(picture, detector, "largest")
    speech = read_audio(pipe.folder / "speech.flac")[8000:32000]
    result = pipe(
        picture, speech, reference_landmarks=points, emotion="neutral", mouth=1.5, size=pipe.renderer.config.size
    )
    frames = result.frames.permute(0, 3, 1, 2)
    size, scale = pipe.renderer.config.size, pipe.info["crop_scale"]
    portrait = crop_portrait(picture, points, scale, size)
    trained = torch.tensor(pipe.info["reference_landmarks"])
    speaker = crop_portrait(read_portrait(pipe.folder / "portrait.png"), trained, scale, size)
    person, other = bend(portrait, result.landmarks), bend(speaker, result.landmarks)

    # What the bar must keep out: the training speaker, and his face laid over hers by half.
    blend = ((person.int() + other.int()) // 2).to(torch.uint8)
    assert psnr(other, person) < psnr(blend, person) < STILL_THAT_PERSON - 3
    assert psnr(frames, person) > STILL_THAT_PERSON
    assert psnr(frames, other) < psnr(blend, other)

    # And the mouth moves: where the landmarks say so, the frames are nearer to them than the portrait is.
    box = mouth_box(result.landmarks, size)
    still = portrait.face.expand_as(person)
    moving = psnr(still, person, box, "none").argsort()[: len(person) // 2]
    assert psnr(frames[moving], person[moving], box) > psnr(still[moving], person[moving], box) + 1
