"""What the pipeline refuses: in one sentence, before the work, without half a file."""

import math
import wave
from pathlib import Path

import pytest
import torch
from conftest import POINTS, OneFace, speech, tiny_face

from talkhead.face.portrait import crop_portrait
from talkhead.media.read import write_audio, write_image
from talkhead.nets.renderer import Renderer
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.pipeline.motion import LandmarkSequence

REFUSED = [
    ({"detector": OneFace(None), "reference_landmarks": None}, ValueError, "image: no face was found by"),
    (
        {"image": "nobody.png", "detector": OneFace(None), "reference_landmarks": None},
        ValueError,
        "image: no face was found in 'nobody.png' by",
    ),
    ({"image": "absent.png"}, FileNotFoundError, "no such file"),
    ({"image": "text.png"}, ValueError, "image: .* cannot be read"),
    ({"image": torch.zeros(3, 8, 8)}, ValueError, r"image must be .* got shape \(3, 8, 8\), torch.float32"),
    ({"image": None}, ValueError, "image must be .* got NoneType"),
    ({"audio": "absent.wav"}, FileNotFoundError, "no such file"),
    ({"audio": "text.png"}, ValueError, "audio: .* (cannot be read|has no sound)"),
    ({"audio": "empty.wav"}, ValueError, "audio: .* has no sound"),
    ({"audio": torch.zeros(0)}, ValueError, "S >= 1"),
    ({"audio": torch.zeros(2, 100)}, ValueError, r"got shape \(2, 100\)"),
    ({"audio": torch.zeros(100, dtype=torch.int16)}, ValueError, "int16"),
    ({"audio": torch.full((100,), 3000.0)}, ValueError, "up to 3000"),
    ({"audio": torch.full((100,), math.nan)}, ValueError, "got values up to nan"),
    ({"audio": None}, ValueError, "audio must be given"),
    ({"audio": b"RIFF"}, ValueError, "audio must be a file's name, .* got bytes"),
    ({"sample_rate": 0}, ValueError, "sample_rate"),
    ({"emotion": "joyful"}, ValueError, "emotion must be one of angry"),
    ({"emotion": {"happy": 0.5}}, ValueError, "sum to 1"),
    ({"emotion": {}}, ValueError, "sum to 1"),
    ({"emotion": ["happy", "sad"]}, ValueError, r"emotion must be a name, .* got \['happy', 'sad'\]"),
    ({"emotion": ["no", "so"]}, ValueError, r"emotion must be a name, .* got \['no', 'so'\]"),
    ({"emotion": [0, 1]}, ValueError, r"must have 8 probabilities .* got shape \(2,\)"),
    ({"emotion": torch.eye(8)[:2]}, ValueError, r"emotion must be a name, .* got shape \(2, 8\)"),
    ({"size": 256.0}, ValueError, "size must be a whole number .* got 256.0"),
    ({"size": "256"}, ValueError, "size must be a whole number .* got '256'"),
    ({"emotion": {"happy": "0.5", "sad": 0.5}}, ValueError, r"^emotion: .*names and numbers.* got \{'happy': '0.5'\}$"),
    ({"emotion": [(0, {"happy": None})]}, ValueError, r"^emotion: .*names and numbers.* got \{'happy': None\}$"),
    ({"emotion": [(None, "happy")]}, ValueError, "^emotion: the times of a track must be seconds, .* got None$"),
    ({"emotion": 5.5}, ValueError, "^emotion must be a name, .* got 5.5$"),
    ({"emotion_strength": "1"}, ValueError, "^emotion_strength must lie in 0..2, .* got '1'$"),
    ({"window": 16.0}, ValueError, "^window must be a whole number; got 16.0$"),
    ({"window": "16"}, ValueError, "^window must be a whole number; got '16'$"),
    ({"overlap": 2.0}, ValueError, "^overlap must be a whole number; got 2.0$"),
    ({"num_inference_steps": 2.0}, ValueError, "^num_inference_steps must be a whole number; got 2.0$"),
    ({"start_timestep": 5.0}, ValueError, "^start_timestep must be a whole number; got 5.0$"),
    ({"windows_per_call": "2"}, ValueError, "^windows_per_call must be a whole number; got '2'$"),
    ({"fps": "25"}, ValueError, "^fps must lie in .* got '25'$"),
    ({"mouth": "1"}, ValueError, "^mouth must be a gain .* got '1'$"),
    ({"guidance_scale": None}, ValueError, "^guidance_scale must be a gain .* got None$"),
    ({"teeth": "1"}, ValueError, r"^teeth must be in \[0, 1\], .* got '1'$"),
    ({"sample_rate": math.inf}, ValueError, "^sample_rate must be a whole number .* got inf$"),
    ({"sample_rate": "16000"}, ValueError, "^sample_rate must be a whole number .* got '16000'$"),
    (
        {"sample_rate": 1e12},
        ValueError,
        "^sample_rate must be a whole number .* from 1000 to 768000; got 1000000000000.0$",
    ),
    ({"fps": 0}, ValueError, "fps"),
    ({"fps": -25}, ValueError, "fps"),
    ({"frame": "whole"}, ValueError, "frame must be 'crop' or 'full'"),
    ({"mouth": -1}, ValueError, "mouth"),
    ({"mouth": 1e9}, ValueError, "mouth must be a gain from 0 to 10"),
    ({"idle": math.nan}, ValueError, "idle"),
    ({"guidance_scale": math.nan}, ValueError, "guidance_scale"),
    ({"guidance_scale": 11}, ValueError, "guidance_scale must be a gain from 0 to 10"),
    ({"overlap": 99}, ValueError, "overlap"),
    ({"seed": 2**64}, ValueError, "seed must be a whole number"),
    ({"seed": 0.5}, ValueError, "seed must be a whole number"),
    ({"num_inference_steps": 0}, ValueError, "num_inference_steps"),
    ({"num_inference_steps": 2000}, ValueError, "num_inference_steps must lie in 1..1000"),
    ({"start_timestep": 1000}, ValueError, "start_timestep"),
    ({"reference_landmarks": torch.zeros(67, 2)}, ValueError, r"reference_landmarks must have shape \(68, 2\)"),
    ({"reference_landmarks": torch.full((68, 2), math.nan)}, ValueError, "reference_landmarks must be finite"),
    ({"reference_landmarks": POINTS / 72}, ValueError, "reference_landmarks must be px of the picture, 72 x 61, not"),
    ({"reference_landmarks": torch.zeros(68, 2), "frame": "full"}, ValueError, r"from \(0, 0\) to \(0, 0\): give px"),
    ({"reference_landmarks": POINTS + 5000}, ValueError, "reference_landmarks must be px of the picture"),
    ({"reference_landmarks": POINTS * 1e4}, ValueError, "reference_landmarks must be px of the picture"),
    ({"landmarks": POINTS.expand(5, 68, 2) / 72, "emotion": None}, ValueError, "first face is 0.014 times as large"),
    ({"landmarks": POINTS.expand(5, 68, 2) * 5, "emotion": None}, ValueError, "first face is 5 times as large"),
    (
        {"landmarks": LandmarkSequence(POINTS.expand(5, 68, 2) / 72, 25, (61, 72)), "emotion": None},
        ValueError,
        "landmarks must be px of the portrait's picture",
    ),
    ({"landmarks": torch.zeros(5, 67, 2)}, ValueError, r"landmarks must have shape \(T, 68, 2\)"),
    ({"landmarks": POINTS.expand(50, 68, 2), "emotion": None}, ValueError, "equally long within one frame"),
    ({"landmarks": LandmarkSequence(POINTS.expand(5, 68, 2), 25, (99, 99)), "emotion": None}, ValueError, "retarget"),
    (
        {"landmarks": LandmarkSequence(POINTS.expand(5, 68, 2), 25, (61, 72)), "fps": 30, "emotion": None},
        ValueError,
        "fps must be 25",
    ),
    ({"landmarks": "text.png"}, ValueError, "no landmark sequence"),
    ({"landmarks": POINTS.expand(5, 68, 2), "audio": None, "emotion": None}, ValueError, "no audio to hear it in"),
]


@pytest.mark.parametrize(
    "landmarks",
    [
        pytest.param(tiny_face(16) + 20, id="small"),
        pytest.param(tiny_face(64) - tiny_face(64).mean(0), id="half outside"),
        pytest.param(tiny_face(128) - 30, id="larger than the picture"),
    ],
)
def test_a_face_in_the_picture_is_taken_whatever_its_size(landmarks):
    picture = torch.zeros(3, 64, 80, dtype=torch.uint8)
    assert torch.equal(crop_portrait(picture, landmarks, 1.5, 32).landmarks, landmarks)


@pytest.mark.parametrize(("change", "kind", "words"), REFUSED)
def test_refused_in_one_sentence_without_half_a_file(pipe, portrait, tmp_path, monkeypatch, change, kind, words):
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("this is no picture")
    write_image("nobody.png", torch.zeros(3, 8, 8, dtype=torch.uint8))
    with wave.open("empty.wav", "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
    (tmp_path / "out").mkdir()
    arguments = {"image": portrait, "audio": speech(0.2), "reference_landmarks": POINTS, "emotion": "sad"} | change
    with pytest.raises(kind, match=words) as caught:
        pipe.stream(**arguments)  # before the first piece is asked for
    assert "\n" not in str(caught.value)
    with pytest.raises(kind, match=words):
        pipe.generate_file(output="out/video.mp4", progress=False, **arguments)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["talk.mp4", "link.mp4", "hard.mp4", "out/../talk.mp4"])
def test_no_input_is_written_over(pipe, portrait, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    write_audio("talk.wav", speech(0.2))
    Path("talk.wav").rename("talk.mp4")
    Path("link.mp4").symlink_to("talk.mp4")
    Path("hard.mp4").hardlink_to("talk.mp4")
    before = Path("talk.mp4").read_bytes()
    with pytest.raises(ValueError, match="is the audio and would be written over"):
        pipe.generate_file(portrait, "talk.mp4", name, reference_landmarks=POINTS, progress=False)
    assert Path("talk.mp4").read_bytes() == before


@pytest.mark.parametrize(("output", "read"), [("frames/%05d.png", "image"), ("me.mp4", "reference")])
def test_neither_numbered_portraits_nor_references_are_written_over(
    pipe, portrait, tmp_path, monkeypatch, output, read
):
    monkeypatch.chdir(tmp_path)
    Path("frames").mkdir()
    write_image("frames/00001.png", portrait)
    Path("me.mp4").write_bytes(b"a video of the person")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(ValueError, match=f"is the {read} and would be written over"):
        pipe.generate_file(
            "frames/00001.png", speech(0.2), output, references=("me.mp4",), reference_landmarks=POINTS, progress=False
        )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


@pytest.mark.parametrize("output", ["absent/out.mp4", "folder.mp4", "out.txt"])
def test_an_unwritable_output_is_found_before_the_work(pipe, portrait, tmp_path, output):
    (tmp_path / "folder.mp4").mkdir()
    detector = OneFace(POINTS)
    with pytest.raises((OSError, ValueError), match="folder|output must end"):
        pipe.generate_file(portrait, speech(0.1), tmp_path / output, detector=detector)
    assert not detector.asked
    assert [p.name for p in tmp_path.iterdir()] == ["folder.mp4"]


def test_a_break_in_the_middle_leaves_no_file(pipe, portrait, tmp_path, monkeypatch):
    calls = []

    def broken(*arguments):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return Renderer.predict_displaced(pipe.renderer, *arguments)

    monkeypatch.setattr(pipe.renderer, "predict_displaced", broken)
    with pytest.raises(KeyboardInterrupt):
        pipe.generate_file(
            portrait, speech(1.0), tmp_path / "o.mp4", reference_landmarks=POINTS, emotion="sad", progress=False
        )
    assert not list(tmp_path.iterdir())


def test_a_pipeline_without_ears_wants_the_emotion(pipe, portrait):
    deaf = TalkingHeadPipeline(pipe.landmark_net, None, pipe.renderer, pipe.scheduler, pipe.info)
    with pytest.raises(ValueError, match="probabilities: there is no emotion classifier in this speaker$"):
        deaf(portrait, speech(0.1), reference_landmarks=POINTS)
    assert len(deaf(portrait, speech(0.1), reference_landmarks=POINTS, emotion="sad").frames) == 3
