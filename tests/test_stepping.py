"""Stepping several levels out of one scheduler: what it draws, and what it remembers."""

import pytest
import torch
from conftest import POINTS, speech, tiny_face, tiny_frames, tiny_pipeline, tiny_portrait
from diffusers import DDPMScheduler

from talkhead.dubbing.dub import paint_each
from talkhead.pipeline import TalkingHeadPipeline

PORTRAIT = tiny_portrait()  # which sets torch's own seed


@pytest.fixture
def drawing() -> TalkingHeadPipeline:
    """A pipeline whose scheduler draws noise in each step but the last, as the paper's does."""
    pipe = tiny_pipeline()
    pipe.scheduler = DDPMScheduler(prediction_type="sample", clip_sample=False)
    return pipe


def live(pipe: TalkingHeadPipeline, seed: int) -> torch.Tensor:
    face = pipe.live(PORTRAIT, reference_landmarks=POINTS, size=32, seed=seed, num_inference_steps=2)
    return torch.cat([face.push(speech(0.5)).frames, face.flush().frames])


def dubbed(pipe: TalkingHeadPipeline, seed: int) -> torch.Tensor:
    points = tiny_face(32).expand(3, 68, 2)
    return paint_each(pipe, tiny_frames(points, 32), points, points, torch.eye(8)[5], None, 2, seed, 7)


@pytest.mark.parametrize("paint", [live, dubbed])
def test_what_the_scheduler_draws_belongs_to_the_seed(drawing, paint):
    one = paint(drawing, 3)
    torch.manual_seed(99)  # somebody else draws in between
    assert torch.equal(paint(drawing, 3), one)
    assert not torch.equal(paint(drawing, 4), one)
