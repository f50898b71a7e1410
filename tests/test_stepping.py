"""Stepping several levels out of one scheduler: what it draws, and what it remembers."""

import json
import shutil

import diffusers
import pytest
import torch
from conftest import POINTS, speech, tiny_face, tiny_frames, tiny_pipeline, tiny_portrait
from test_windows import Blur, motion, run

from talkhead.dubbing.dub import paint_each
from talkhead.pipeline import TalkingHeadPipeline
from talkhead.schedulers import MaskNoiseBridgeScheduler, PaperProcess
from talkhead.speaker.folder import BUNDLED

PORTRAIT = tiny_portrait()  # which sets torch's own seed


@pytest.fixture
def drawing() -> TalkingHeadPipeline:
    """A pipeline whose scheduler draws noise in each step but the last, as the paper's does."""
    pipe = tiny_pipeline()
    pipe.scheduler = diffusers.DDPMScheduler(prediction_type="sample", clip_sample=False)
    return pipe


def live(pipe: TalkingHeadPipeline, seed: int) -> torch.Tensor:
    face = pipe.live(PORTRAIT, reference_landmarks=POINTS, size=32, seed=seed, num_inference_steps=2)
    return torch.cat([face.push(speech(0.5)).frames, face.flush().frames])


def dubbed(pipe: TalkingHeadPipeline, seed: int) -> torch.Tensor:
    points = tiny_face(32).expand(3, 68, 2)
    faces, emotion = tiny_frames(points, 32), torch.eye(8)[5]
    return paint_each(
        pipe.renderer, pipe.scheduler, faces, points, points, emotion, bank=None, steps=2, seed=seed, first=7
    )


@pytest.mark.parametrize("paint", [live, dubbed])
def test_what_the_scheduler_draws_belongs_to_the_seed(drawing, paint):
    one = paint(drawing, 3)
    torch.manual_seed(99)  # somebody else draws in between
    assert torch.equal(paint(drawing, 3), one)
    assert not torch.equal(paint(drawing, 4), one)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler"])
def test_a_scheduler_that_fits_steps_each_segment_as_if_it_were_alone(name):
    """The LCM's counts its own steps: shared as it was, it left a tenth of the noise in every segment, silently."""
    scheduler = getattr(diffusers, name)(prediction_type="sample")
    landmarks, options = motion(48), {"num_inference_steps": 4, "window": 12, "overlap": 0}
    video = run(Blur(), landmarks, scheduler=scheduler, **options)
    alone = run(Blur(), landmarks[:12], scheduler=scheduler, **options)
    assert torch.equal(video[:12], alone)
    # The plain walk of diffusers' own pipelines.
    scheduler.set_timesteps(4)
    condition, blur = Blur().prepare(None, None, landmarks[None, :12]), Blur()
    x = condition.noise
    for level, timestep in enumerate(scheduler.timesteps):
        drawn = torch.Generator().manual_seed(level)  # the key of seed 0, frame 0
        extra = {} if name == "DDIMScheduler" else {"generator": drawn}
        x = scheduler.step(blur.predict(x, timestep, condition, None), timestep, x, **extra).prev_sample
    assert torch.allclose(video[:12], blur.decode(x)[0], atol=1e-6)


def test_a_scheduler_that_begins_at_the_noise_end_alone_says_so(pipe, portrait, monkeypatch):
    monkeypatch.setattr(pipe, "scheduler", diffusers.DDIMScheduler(prediction_type="sample"))
    options = {"reference_landmarks": POINTS, "emotion": "neutral", "num_inference_steps": 2}
    with pytest.raises(ValueError, match="start_timestep must be left out beside a DDIMScheduler, which begins at the"):
        pipe.stream(portrait, speech(0.2), start_timestep=499, **options)
    assert len(pipe(portrait, speech(0.2), **options).frames) == 5
    monkeypatch.setattr(pipe, "scheduler", diffusers.DDPMScheduler(prediction_type="sample"))
    assert len(pipe(portrait, speech(0.2), start_timestep=499, **options).frames) == 5


REFUSED = {
    "EulerDiscreteScheduler": "scales what its network is shown",
    "EDMEulerScheduler": "scales what its network is shown",
    "FlowMatchEulerDiscreteScheduler": "does not say what its network predicts",
    "DPMSolverMultistepScheduler": "needs the answers of the steps before",
    "UniPCMultistepScheduler": "needs the answers of the steps before",
    "PNDMScheduler": "needs the answers of the steps before",
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' own, of numpy
@pytest.mark.parametrize("name", REFUSED)
def test_a_scheduler_that_windows_cannot_share_is_refused_by_name(pipe, tmp_path, name):
    with pytest.raises(ValueError, match=f"scheduler must step .*; {name} {REFUSED[name]}"):
        pipe.scheduler = getattr(diffusers, name)()
    assert isinstance(pipe.scheduler, MaskNoiseBridgeScheduler)
    shutil.copytree(BUNDLED, tmp_path / "speaker")
    (tmp_path / "speaker" / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(ValueError, match=f"speaker' .*; {name} {REFUSED[name]}"):
        TalkingHeadPipeline.from_pretrained(tmp_path / "speaker")


@pytest.mark.parametrize("steps", [1, 3, 1000])
def test_the_check_takes_ours_of_any_length_and_draws_nothing(pipe, steps):
    before = torch.get_rng_state()
    pipe.scheduler = PaperProcess(num_train_timesteps=steps, prediction_type="sample")
    pipe.scheduler = MaskNoiseBridgeScheduler(num_train_timesteps=steps)
    assert torch.equal(torch.get_rng_state(), before)
