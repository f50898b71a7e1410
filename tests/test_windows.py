"""Long video: segments, cross-fade, and the wavefront against a plain whole-video computation."""

import weakref
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler

from talkhead.nets.condition import Condition
from talkhead.nets.renderer import Renderer
from talkhead.ops.segments import crossfade, cut_segments
from talkhead.pipeline.windows import render_windows, set_timesteps
from talkhead.schedulers import MaskNoiseBridgeScheduler

EMOTION = torch.eye(8)[5]


class Blur:
    """A stand-in for the network with known arithmetic: each frame is mixed with its neighbours *in the window*."""

    device = torch.device("cpu")
    config = SimpleNamespace(size=4)

    def __init__(self):
        self.calls, self.sizes = [], []

    def prepare(self, reference, reference_landmarks, landmarks, *, bank=None, seed=0, frame_offset=0):
        frames = torch.arange(landmarks.shape[1]) + frame_offset
        noise = torch.stack([torch.sin(frames * 1.7 + c + seed) for c in range(3)])[None, :, :, None, None]
        noise = noise.expand(1, 3, -1, 4, 4).double()
        carrier = landmarks.double().mean((2, 3))[:, None, :, None, None].expand_as(noise)
        return Condition(noise, carrier, carrier[:, :1])

    def predict(self, sample, timestep, condition, emotion, guidance_scale=1.0):
        self.calls.append((sample.shape[2], int(timestep)))
        self.sizes.append(tuple(sample.shape))
        padded = torch.nn.functional.pad(sample, (0, 0, 0, 0, 1, 1), mode="replicate")
        mean = (padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]) / 3
        return 0.5 * condition.carrier + 0.3 * mean + 0.1 * condition.channels

    def predict_displaced(self, *given):
        return self.predict(*given), None

    def decode(self, sample):
        return sample.transpose(1, 2)


def motion(frames: int) -> torch.Tensor:
    return torch.rand(frames, 68, 2) * 3


def run(renderer, landmarks, scheduler=None, chunk=1000, **options):
    """Render with chunks of a given size and join what comes."""
    scheduler = scheduler or MaskNoiseBridgeScheduler()
    reference = torch.zeros(3, 4, 4, dtype=torch.uint8)
    out = render_windows(renderer, scheduler, reference, torch.zeros(68, 2), landmarks.split(chunk), EMOTION, **options)
    return torch.cat(list(out))


def plain(renderer, landmarks, steps, window, overlap):
    """The definition: all levels of the whole video in turn, every window painted, blended, stepped."""
    scheduler = MaskNoiseBridgeScheduler()
    scheduler.set_timesteps(steps)
    condition = renderer.prepare(None, None, landmarks[None])
    x, frames = condition.noise, len(landmarks)
    stride = window - overlap
    starts = [s for s in range(0, frames, stride) if s == 0 or s + overlap < frames]
    for timestep in scheduler.timesteps:
        total = torch.zeros_like(x)
        for s in starts:
            stop = frames if s == starts[-1] else s + window
            weight = torch.ones(stop - s, dtype=torch.float64)
            ramp = torch.sin(torch.arange(1, overlap + 1) / (overlap + 1) * torch.pi / 2) ** 2
            if s > 0:
                weight[:overlap] = ramp.double()
            if stop < frames:
                weight[len(weight) - overlap :] = ramp.flip(0).double()
            painted = renderer.predict(x[:, :, s:stop], timestep, condition.frames(s, stop), None)
            total[:, :, s:stop] += weight[:, None, None] * painted
        x = scheduler.step(total, timestep, x).prev_sample
    return renderer.decode(x)[0]


@pytest.mark.parametrize("frames", [1, 2, 11, 12, 13, 20, 21, 22, 23, 57])
@pytest.mark.parametrize(("window", "overlap"), [(12, 4), (8, 4), (7, 3), (6, 0), (1, 0)])
def test_wavefront_equals_the_definition(frames, window, overlap):
    landmarks = motion(frames)
    got = run(Blur(), landmarks, num_inference_steps=3, window=window, overlap=overlap)
    expected = plain(Blur(), landmarks, 3, window, overlap)
    assert got.shape == expected.shape
    # Weights are float32, everything else double.
    assert torch.allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
def test_chunks_do_not_matter(chunk):
    landmarks = motion(41)
    options = {"num_inference_steps": 3, "window": 8, "overlap": 3}
    assert torch.equal(run(Blur(), landmarks, chunk=chunk, **options), run(Blur(), landmarks, **options))


def test_every_frame_takes_every_step_once_or_twice():
    blur = Blur()
    run(blur, motion(44), num_inference_steps=4, window=12, overlap=4)
    windows = [12, 12, 12, 12, 12]  # starts 0, 8, 16, 24, 32
    for timestep in (999, 749, 499, 249):
        assert [length for length, t in blur.calls if t == timestep] == windows


@pytest.mark.parametrize("together", [2, 3, 8])
def test_windows_share_calls_and_the_video_is_the_same(together):
    landmarks, options = motion(44 + 5 * 32), {"num_inference_steps": 3, "window": 12, "overlap": 4}
    alone, many = Blur(), Blur()
    expected = run(alone, landmarks, windows_per_call=1, **options)
    assert torch.equal(run(many, landmarks, windows_per_call=together, **options), expected)
    assert max(batch for batch, *_ in many.sizes) == together
    assert sum(batch for batch, *_ in many.sizes) == len(alone.calls)  # no window is painted twice
    assert len(many.calls) < len(alone.calls) / together + 3 * 5  # the first calls and the last ones hold fewer


def test_each_windows_own_motion_and_emotion_reach_it_in_a_shared_call():
    renderer = Renderer(size=16, widths=(8, 16), patch=2).eval()
    for weights in renderer.parameters():
        torch.nn.init.normal_(weights, std=0.2)
    torch.nn.init.normal_(renderer.unet.embed.classes.weight, std=1.0)  # a wrong emotion shows, by 19 levels
    picture, face = torch.randint(0, 255, (3, 16, 16), dtype=torch.uint8), torch.rand(68, 2) * 15
    landmarks, emotion = [face + torch.randn(70, 68, 2)], torch.eye(8)[torch.arange(70) // 9]
    options = {"window": 8, "overlap": 2, "num_inference_steps": 2, "guidance_scale": 1.5}
    bridge = MaskNoiseBridgeScheduler()
    one, four = (
        torch.cat(
            list(render_windows(renderer, bridge, picture, face, landmarks, emotion, **options, windows_per_call=n))
        )
        for n in (1, 4)
    )
    assert (one.int() - four.int()).abs().max() <= 2  # of 255: a batch's sums are rounded in another order, in bf16


def test_frames_leave_before_the_last_arrives_and_are_forgotten():
    served, alive = [], []

    class Counting(Blur):
        def prepare(self, *args, **options):
            condition = super().prepare(*args, **options)
            alive.append(weakref.ref(condition))
            return condition

    def endless():
        while True:
            served.append(1)
            yield motion(8)

    out = render_windows(
        Counting(), MaskNoiseBridgeScheduler(), torch.zeros(3, 4, 4), torch.zeros(68, 2), endless(), EMOTION,
        num_inference_steps=3, window=10, overlap=2,
    )  # fmt: skip
    held = []
    for _ in range(30):
        next(out)
        held.append(sum(ref() is not None for ref in alive))
    assert max(held) <= 3 + 2  # one segment per step, and two at the front
    assert len(served) <= 30 + 3 + 2


def test_consumption_does_not_matter():
    landmarks, scheduler = motion(60), MaskNoiseBridgeScheduler()
    options = {"num_inference_steps": 2, "window": 8, "overlap": 2}
    whole = run(Blur(), landmarks, **options)
    reference = torch.zeros(3, 4, 4)
    one = render_windows(Blur(), scheduler, reference, torch.zeros(68, 2), [landmarks], EMOTION, **options)
    two = render_windows(
        Blur(), scheduler, reference, torch.zeros(68, 2), [landmarks], EMOTION, **{**options, "num_inference_steps": 3}
    )
    first = next(one)
    next(two)  # another video on the same scheduler, with other steps, in between
    torch.manual_seed(99)
    assert torch.equal(torch.cat([first, *one]), whole)


def test_one_window_is_the_whole_video_for_a_real_renderer():
    renderer = Renderer(size=16, widths=(8, 16), patch=2).eval()
    for weights in renderer.parameters():  # the last layer starts at zero, which would hide the network
        torch.nn.init.normal_(weights, std=0.2)
    picture = torch.randint(0, 255, (3, 16, 16), dtype=torch.uint8)
    face = torch.rand(68, 2) * 15
    landmarks = face + torch.randn(9, 68, 2)
    scheduler = MaskNoiseBridgeScheduler()
    out = torch.cat(list(render_windows(renderer, scheduler, picture, face, [landmarks], EMOTION, window=16, seed=3)))
    condition = renderer.prepare(picture[None], face[None], landmarks[None], seed=3)
    x = condition.noise
    scheduler.set_timesteps(4)
    for timestep in scheduler.timesteps:
        x = scheduler.step(renderer.predict(x, timestep, condition, EMOTION[None]), timestep, x).prev_sample
    assert torch.equal(out, renderer.decode(x)[0])


def test_the_seed_and_the_absolute_frame_make_the_noise():
    renderer = Renderer(size=16, widths=(8, 16), patch=2, carrier="reference").eval()
    picture = torch.randint(0, 255, (1, 3, 16, 16), dtype=torch.uint8)
    face = torch.rand(1, 68, 2) * 15
    landmarks = face[:, None].repeat(1, 6, 1, 1)
    whole = renderer.prepare(picture, face, landmarks, seed=1).noise
    part = renderer.prepare(picture, face, landmarks[:, 2:], seed=1, frame_offset=2).noise
    assert torch.equal(whole[:, :, 2:], part)
    assert not torch.equal(whole, renderer.prepare(picture, face, landmarks, seed=2).noise)


def test_ancestral_steps_are_repeatable():
    landmarks = motion(30)
    scheduler = DDPMScheduler(num_train_timesteps=1000, prediction_type="sample", clip_sample=False)
    options = {"num_inference_steps": 3, "window": 8, "overlap": 2}
    one = run(Blur(), landmarks, scheduler=scheduler, **options)
    torch.manual_seed(7)
    assert torch.equal(one, run(Blur(), landmarks, scheduler=scheduler, chunk=3, **options))
    assert not torch.equal(one, run(Blur(), landmarks, scheduler=scheduler, seed=1, **options))
    # Ancestral noise must not repeat from segment to segment.
    assert len(one.unique()) == one.numel()


def test_a_partial_start_begins_near_the_carrier():
    landmarks = motion(5)
    renderer = Blur()
    renderer.predict = lambda sample, timestep, condition, emotion, guidance_scale=1.0: sample
    out = run(renderer, landmarks, num_inference_steps=1, start_timestep=249)
    condition = Blur().prepare(None, None, landmarks[None])
    assert torch.allclose(out, (0.75 * condition.carrier + 0.25 * condition.noise).transpose(1, 2)[0], atol=1e-6)


def test_a_diffusers_scheduler_can_start_in_the_middle():
    landmarks = motion(5)
    scheduler = DDPMScheduler(num_train_timesteps=1000, prediction_type="sample", clip_sample=False)
    seen = Blur()
    run(seen, landmarks, scheduler=scheduler, num_inference_steps=3, start_timestep=300)
    assert [t for _, t in seen.calls] == [300, 200, 99]


def test_crossfade_sums_to_one():
    for overlap in (0, 1, 4, 7):
        ramp = crossfade(overlap)
        assert torch.allclose(ramp + ramp.flip(0), torch.ones(overlap), atol=1e-6)
        assert (ramp > 0).all() and (ramp < 1).all() and (ramp.diff() > 0).all()


def test_segments_keep_every_frame_in_order():
    frames = torch.arange(50)
    for length, overlap in ((8, 3), (5, 0), (60, 4)):
        parts = list(cut_segments(frames.split(7), length, overlap))
        assert torch.equal(torch.cat([part for part, _ in parts]), frames)
        assert [last for _, last in parts] == [False] * (len(parts) - 1) + [True]
        assert all(len(part) == length for part, _ in parts[:-1])
        assert len(parts) == 1 or overlap < len(parts[-1][0]) <= length + overlap


def test_errors_say_what_is_wrong():
    for options, words in (
        ({"window": 8, "overlap": 5}, "overlap must lie in 0..window // 2 = 4"),
        ({"overlap": -1}, "overlap"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"window": 0, "overlap": 0}, "window"),
    ):
        with pytest.raises(ValueError, match=words):
            run(Blur(), motion(4), **options)


def test_a_start_is_stepped_down_from_evenly_whatever_the_scheduler():
    paper, ours = DDPMScheduler(), MaskNoiseBridgeScheduler()
    for steps, start in ((300, 299), (4, 299), (1, 0), (7, 500)):
        set_timesteps(paper, steps, start, "cpu")
        set_timesteps(ours, steps, start, "cpu")
        assert paper.timesteps.tolist() == ours.timesteps.tolist()
        assert len(paper.timesteps) == steps and paper.timesteps[0] == start
    with pytest.raises(ValueError, match="num_inference_steps must lie in 1..10, .* got 11"):
        set_timesteps(paper, 11, 9, "cpu")
