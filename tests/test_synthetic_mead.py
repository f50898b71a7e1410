"""The class path (Eq. 3) learns: on a synthetic MEAD, exchanging the class alone changes landmarks and pixels."""

import importlib.util
import sys
from pathlib import Path

import torch
from lightning import seed_everything

from talkhead.face.expression import average_face
from talkhead.modules.landmark import LandmarkGenerator
from talkhead.modules.video import VideoDiffusion
from talkhead.nets.landmark import LandmarkNet
from talkhead.nets.renderer import Renderer

spec = importlib.util.spec_from_file_location(
    "synthetic_mead", Path(__file__).parents[1] / "examples" / "synthetic_mead.py"
)
assert spec is not None and spec.loader is not None
mead = sys.modules["synthetic_mead"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mead)


def test_exchanging_the_class_alone_shows_its_own_shape():
    seed_everything(0)
    face = average_face()[:, :2] * torch.tensor([1.3, -1.3]) + 15.5
    picture = torch.full((3, 32, 32), 160, dtype=torch.uint8)
    speech = 0.1 * torch.randn(40_000, generator=torch.Generator().manual_seed(0))
    train, test = (
        [clip for *_, clip in mead.all_clips(picture, face, speech, 4, each, first)] for each, first in ((1, 0), (1, 9))
    )
    net = LandmarkNet(width=16, layers=1, attention_layers=0, heads=2, fusion="concat", dropout=0.0)
    generator = mead.fit(LandmarkGenerator(net, learning_rate=2e-2, size=32), train, 12, 120)
    found, ceiling = mead.landmark_confusions(generator.net, train, test)
    assert found.diagonal().mean() >= 0.75 and ceiling.diagonal().mean() >= 0.75  # chance 0.125
    renderer = Renderer(32, widths=(16, 32), patch=4, attention_levels=0, output="residual")
    video = mead.fit(VideoDiffusion(renderer, learning_rate=1e-2, last_step_share=1.0), train, 8, 150)
    found, ceiling = mead.pixel_confusions(video, test)
    assert found.diagonal().mean() >= 0.5 and ceiling.diagonal().mean() >= 0.9
    assert video.renderer.config["trained_on"] == sorted(mead.EMOTIONS) == generator.net.config["trained_on"]
