"""Who a face is, over time: closed forms, and dlib's net on the bundled portrait."""

import pytest
import torch

from talkhead import metrics
from talkhead.speaker.folder import BUNDLED
from talkhead.tracking.identity import can_describe_faces, describe_faces
from talkhead.tracking.portrait import find_face, read_portrait
from talkhead.tracking.track import load_detector


def test_similarity_is_the_cosine_and_leaves_out_missing_faces() -> None:
    portrait = torch.tensor([3.0, 4.0])
    faces = torch.tensor([[6.0, 8.0], [4.0, -3.0], [torch.nan, torch.nan]])
    each = metrics.identity_similarity(faces, portrait, "none")
    torch.testing.assert_close(each[:2], torch.tensor([1.0, 0.0]))
    assert each[2].isnan() and metrics.identity_similarity(faces, portrait).item() == pytest.approx(0.5)
    metric = metrics.IdentitySimilarity()
    metric.update(faces[:1], portrait)
    metric.update(faces[1:], portrait)
    assert metric.compute().item() == pytest.approx(0.5)


def test_drift_is_the_line_through_the_values() -> None:
    time = torch.arange(200) / 25
    values = 0.9 - 0.06 * time / 60 + 0.001 * (-1.0) ** torch.arange(200)
    assert metrics.drift_per_minute(values.double(), 25.0).item() == pytest.approx(-0.06, abs=1e-3)
    gap = values.clone()
    gap[40:90] = torch.nan
    assert metrics.drift_per_minute(gap.double(), 25.0).item() == pytest.approx(-0.06, abs=1e-3)
    assert metrics.drift_per_minute(torch.ones(3, 50), 25.0).abs().max() == 0
    assert metrics.drift_per_minute(torch.ones(1), 25.0).isnan()
    metric = metrics.DriftPerMinute(fps=25.0)
    metric.update(torch.stack([values, 0 * values]))
    assert metric.compute().item() == pytest.approx(-0.03, abs=1e-3)


@pytest.mark.skipif(not can_describe_faces(), reason="dlib-bin and face-recognition-models are not installed")
def test_a_face_is_itself_when_turned_and_darkened_and_noise_is_nobody() -> None:
    picture = read_portrait(BUNDLED / "portrait.png")
    points = find_face(picture, load_detector("dlib"), "largest")
    dark = (picture * 0.8).to(torch.uint8)
    noise = torch.randint(0, 256, picture.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    nowhere = torch.full_like(points, torch.nan)
    faces = describe_faces(torch.stack([picture, dark, noise, picture]), torch.stack([points, points, points, nowhere]))
    same, darkened, other, missing = metrics.identity_similarity(faces, faces[0], "none")
    assert same.item() == pytest.approx(1) and darkened > 0.98 and other < 0.9 and missing.isnan()
